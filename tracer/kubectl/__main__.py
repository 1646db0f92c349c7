# SPDX-License-Identifier: Apache-2.0
"""The command `kubectl-ktrace`, which kubectl finds on the PATH and runs as `kubectl ktrace`."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

INTERRUPTED = 130

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from tracer.model.interrupts import ignore

    # Python's end has its own idea of signals, and the exit code is known by then
    atexit.register(ignore, signal.SIGINT)

from tracer.kubectl.arguments import Request, parse  # noqa: E402
from tracer.model.errors import KtraceError  # noqa: E402


def main() -> None:
    """Runs the request, and turns errors into messages and exit codes."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(_run(sys.argv[1:]))


def _run(words: Sequence[str]) -> int:
    try:
        request = parse(words)
        if request.version and not request.command:
            return _here(["--version"])
        if request.command is None:
            return _help(request)
        if request.help or request.is_here:
            return _here(words)
        from tracer.kubectl.session import Interrupted
        from tracer.kubectl.stream import ReaderGone

        try:
            if request.command == "doctor":
                from tracer.kubectl import doctor

                return doctor.run(request)
            if request.command == "history":
                from tracer.kubectl import history

                return history.run(request)
            from tracer.kubectl import session

            return session.run(request)
        except (Interrupted, KeyboardInterrupt):
            return INTERRUPTED
        except (ReaderGone, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 0
    except KtraceError as error:
        _say(error)
        return error.exit_code
    except OSError as error:  # such as a terminal that is gone
        _say(KtraceError(f"{error.filename or 'writing the output'}: {error.strerror}"))
        return 1


def _help(request: Request) -> int:
    from tracer.kubectl.help import usage

    (sys.stdout if request.help else sys.stderr).write(usage())
    return 0 if request.help else 2


def _here(words: Sequence[str]) -> int:
    """ktrace itself, on this machine."""
    import runpy

    sys.argv = ["ktrace", *words]
    runpy.run_module("tracer", run_name="__main__")
    return 0


def _say(error: KtraceError) -> None:
    """Prints each in one line, escaped: the names and messages in it are untrusted."""
    from tracer.outputs.escape import escape

    for start, words in (("ktrace: ", error.message), ("  ", error.remedy)):
        if words:
            with suppress(OSError):
                sys.stderr.write(start + escape(" ".join(words.split())) + "\n")
                sys.stderr.flush()


if __name__ == "__main__":
    main()
