# SPDX-License-Identifier: Apache-2.0
"""Exit codes in words: the status of wait(2), the conventions of shells (POSIX.1-2017, XCU 2.8.2)
and sysexits.h."""

from __future__ import annotations

from tracer.decode.signals import SIGRTMAX, signal_name

_WORDS = {
    0: "success",
    1: "general error",
    2: "wrong usage (shell convention)",
    64: "EX_USAGE: command line used wrongly",
    65: "EX_DATAERR: input data incorrect",
    66: "EX_NOINPUT: input file missing or unreadable",
    67: "EX_NOUSER: user unknown",
    68: "EX_NOHOST: host unknown",
    69: "EX_UNAVAILABLE: a service or program it needs is unavailable",
    70: "EX_SOFTWARE: internal software error",
    71: "EX_OSERR: operating system error",
    72: "EX_OSFILE: a system file is missing or wrong",
    73: "EX_CANTCREAT: output file cannot be created",
    74: "EX_IOERR: input/output error",
    75: "EX_TEMPFAIL: temporary failure, try again",
    76: "EX_PROTOCOL: remote protocol error",
    77: "EX_NOPERM: permission denied",
    78: "EX_CONFIG: configuration error",
    125: "the container runtime's own failure (docker run, timeout)",
    126: "command found but not executable",
    127: "command not found",
    128: "invalid argument to exit",
    255: "exit(-1), or out of range",
}


def split_status(status: int) -> tuple[int | None, int | None, bool]:
    """A status of wait(2) as (exit code, signal number, core dumped); one of the first two is
    None."""
    number = status & 0x7F
    if number:
        return None, number, bool(status & 0x80)
    return status >> 8 & 0xFF, None, False


def describe_signal_death(number: int, core_dumped: bool) -> str:
    """The exit code that Kubernetes shows for it, and the reason."""
    dumped = ", core dumped" if core_dumped else ""
    return f"{128 + number} = 128 + {number}: killed by {signal_name(number)}{dumped}"


def describe_exit_code(code: int) -> str:
    """The process called exit(code). A code above 128 then claims a signal; it does not prove
    one."""
    if code in _WORDS:
        return f"{code}: {_WORDS[code]}"
    if 128 < code <= 128 + SIGRTMAX:
        number = code - 128
        return (
            f"{code} = 128 + {number}: exited by itself with the code that a shell gives"
            f" for a child killed by {signal_name(number)}"
        )
    return f"{code}: the program's own code"
