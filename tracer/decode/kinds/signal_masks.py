# SPDX-License-Identifier: Apache-2.0
"""The sets of signals in /proc/PID/status: which are pending, blocked, ignored and handled."""

from __future__ import annotations

import re

from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line
from tracer.decode.signals import NUMBERS, SIGRTMAX, signal_name

# proc_pid_status(5). A mask that lost digits would name wrong signals.
_SET = re.compile(
    r"(?<!\w)(?P<key>SigPnd|ShdPnd|SigBlk|SigIgn|SigCgt):\s{0,8}"
    r"(?P<mask>[0-9a-f]{32}|[0-9a-f]{16})(?![0-9A-Za-z.…>])"
)
_MEANINGS = {
    "SigPnd": "waits for this thread",
    "ShdPnd": "waits for the whole process",
    "SigBlk": "is blocked",
    "SigIgn": "is ignored",
    "SigCgt": "has a handler",
}

# arch/mips/include/uapi/asm/signal.h: 128 signals, the first of them in an order of its own
_OF_MIPS = (
    "HUP INT QUIT ILL TRAP ABRT EMT FPE KILL BUS SEGV SYS PIPE ALRM TERM USR1 USR2 CHLD PWR WINCH"
    " URG IO STOP TSTP CONT TTIN TTOU VTALRM PROF XCPU XFSZ"
)
_MIPS = {number: f"SIG{name}" for number, name in enumerate(_OF_MIPS.split(), 1)}
_MIPS |= {number: f"SIG{number}" for number in range(32, 129)}
_OTHERS = {number: signal_name(number) for number in range(1, SIGRTMAX + 1)}


def _read(line: Line, _kernel: Kernel) -> Answer | None:
    found = _SET.search(line.text)
    if not found:
        return None
    names = _MIPS if len(found["mask"]) == 32 else _OTHERS
    mask = int(found["mask"], 16)
    inside = [name for number, name in names.items() if mask >> number - 1 & 1]
    lines = [f"{found['key']}: what {_MEANINGS[found['key']]}: {_words(inside, names)}"]
    if names is _MIPS:
        lines.append("  so many digits are of a MIPS kernel, whose signals have other numbers")
    if found["key"] == "SigCgt" and not mask >> NUMBERS["TERM"] - 1 & 1:
        lines.append(
            "SIGTERM is not among them: it does not end the first process of a container, unless"
            " that blocks it (SigBlk) and reads it itself"
        )
    return lines


def _words(inside: list[str], names: dict[int, str]) -> str:
    if 2 * len(inside) <= len(names):
        return ", ".join(inside) or "no signal"
    outside = [name for name in names.values() if name not in inside]
    return f"all signals but {', '.join(outside)}" if outside else "all signals"


KIND = Kind(_read, marks=tuple(f"{key}:" for key in _MEANINGS), rank=40)
