# SPDX-License-Identifier: Apache-2.0
"""Signals by name: numbers, `si_code`s and the kernel's delivery results."""

from __future__ import annotations

import re

from tracer.model.errors import UsageError

# As kill -l counts them: 32 and 33 are the C library's own.
SIGRTMIN, SIGRTMAX = 34, 64

# include/uapi/asm-generic/signal.h, counted from 1; not this platform's numbers, because a
# recording may be read on another
_STANDARD = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP"
    " TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
)
NUMBERS = {name: number for number, name in enumerate(_STANDARD.split(), 1)}
_OLD_NAMES = {"IOT": "ABRT", "CLD": "CHLD", "POLL": "IO"}
_NAMES = {number: f"SIG{name}" for name, number in NUMBERS.items()}

# TRACE_SIGNAL_*, include/trace/events/signal.h
RESULTS = ("delivered", "ignored", "already_pending", "overflow", "lost_info")

# include/uapi/asm-generic/siginfo.h; the meaning of positive ones depends on the signal
_CODES = {
    0: "SI_USER",
    0x80: "SI_KERNEL",
    -1: "SI_QUEUE",
    -2: "SI_TIMER",
    -3: "SI_MESGQ",
    -4: "SI_ASYNCIO",
    -5: "SI_SIGIO",
    -6: "SI_TKILL",
    -7: "SI_DETHREAD",
    -60: "SI_ASYNCNL",
}
_CODES_OF = {
    "ILL": "ILLOPC ILLOPN ILLADR ILLTRP PRVOPC PRVREG COPROC BADSTK BADIADDR",
    "FPE": "INTDIV INTOVF FLTDIV FLTOVF FLTUND FLTRES FLTINV FLTSUB",
    "SEGV": "MAPERR ACCERR BNDERR PKUERR ACCADI ADIDERR ADIPERR MTEAERR MTESERR CPERR",
    "BUS": "ADRALN ADRERR OBJERR MCEERR_AR MCEERR_AO",
    "TRAP": "BRKPT TRACE BRANCH HWBKPT UNK PERF",
    "CHLD": "EXITED KILLED DUMPED TRAPPED STOPPED CONTINUED",
    "IO": "IN OUT MSG ERR PRI HUP",
    "SYS": "SECCOMP USER_DISPATCH",
}
_PREFIXES = {"CHLD": "CLD", "IO": "POLL", "SYS": "SYS"}
_CODES_BY_SIGNAL = {
    (NUMBERS[name], number): f"{_PREFIXES.get(name, name)}_{code}"
    for name, codes in _CODES_OF.items()
    for number, code in enumerate(codes.split(), 1)
}


def signal_name(number: int) -> str:
    """`SIGKILL`; real-time signals as `SIGRTMIN+n` counted from 34, as kill -l does."""
    if SIGRTMIN <= number <= SIGRTMAX:
        return "SIGRTMIN" if number == SIGRTMIN else f"SIGRTMIN+{number - SIGRTMIN}"
    return _NAMES.get(number, f"SIG{number}")


def code_name(number: int, code: int) -> str:
    return _CODES_BY_SIGNAL.get((number, code)) or _CODES.get(code) or str(code)


ALL = set(range(1, SIGRTMAX + 1))


def parse_signals(text: str) -> set[int]:
    """The numbers of `KILL,term,SIGUSR1,9,RTMIN+3`; the word `all` means all signals. Raises
    `UsageError` with the valid names."""
    words = [word.strip() for word in text.split(",")]
    numbers = {_number(word) for word in words if word.lower() != "all"}
    return ALL if "all" in map(str.lower, words) else numbers


def _number(word: str) -> int:
    name = word.upper().removeprefix("SIG")
    name = _OLD_NAMES.get(name, name)
    if name in NUMBERS:
        return NUMBERS[name]
    base, _, offset = name.partition("+")
    if base == "RTMIN" and (word.upper().endswith("RTMIN") or re.fullmatch(r"[0-9]{1,2}", offset)):
        number = SIGRTMIN + int(offset or 0)
    elif re.fullmatch(r"[0-9]{1,2}", name):
        number = int(name)
    else:
        number = 0
    if not 1 <= number <= SIGRTMAX:
        raise UsageError(
            f"no signal is called {word!r}",
            f"valid: all, 1-{SIGRTMAX}, {', '.join(NUMBERS)}, RTMIN, RTMIN+1 … RTMIN+30",
        )
    return number
