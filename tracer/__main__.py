# SPDX-License-Identifier: Apache-2.0
"""The command `ktrace`, which `python -m tracer` is, too.

Until a command has something to bring to an end, Ctrl-C ends it at once. Python's own way, an
exception in the middle of whatever is being imported, would leave a traceback, and modules in C
that were half made, which is a crash.
"""

import atexit
import os
import signal

INTERRUPTED = 130  # as shells tell an end by Ctrl-C


def _leave(_number: int, _frame: object) -> None:
    os._exit(INTERRUPTED)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)  # else it is ignored: in the background of a script
    from tracer.model.interrupts import ignore

    # the last that Python calls before it forgets our handlers: the exit code is known by then
    atexit.register(ignore, signal.SIGINT)


def main() -> None:
    from tracer import cli
    from tracer.cli import _host

    _host.join_if_needed()
    try:
        cli.main()
    finally:  # Python's own end takes a moment, too
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, _leave)


if __name__ == "__main__":
    main()
