# SPDX-License-Identifier: Apache-2.0
"""`ktrace leash`: another command, for as long as somebody at the other end of standard input holds
it. It is what `kubectl ktrace` has run in a pod, and is told to nobody else.

A command that runs in a pod does not end when the one who reads it goes away: it would trace for
nobody. So the holder says something now and then, `end` for Ctrl-C, and when nothing comes any more
the command is ended in order, and then at once. In the other direction go lines on standard error
that begin with the holder's token, which no command knows: that the probes are attached, that it is
still there, and the exit code.

Without a command it holds a pod until nobody has held a leash in there for a while.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import click

BEAT_SECONDS = 5.0
SILENT_SECONDS = 30.0
LEAVING_SECONDS = 10.0
ABANDONED_SECONDS = 60.0
# Every container has it, also one whose root cannot be written.
SHARED = Path("/dev/shm")
HELD = SHARED / "ktrace-held"


def run(words: tuple[str, ...], token: str | None) -> None:
    from tracer import cli

    if not words:
        _hold()
        return
    leash = Leash(token)
    leash.start()
    sys.argv = ["ktrace", *words]
    try:
        cli.main()
    except SystemExit as end:
        leash.end(end.code if isinstance(end.code, int) else 0)
        raise


def ready_file(token: str) -> Path:
    """What the command has to create when its probes are attached."""
    return SHARED / f"ktrace-ready-{token}"


class Leash(threading.Thread):
    """Without a token nothing is read or said: on a terminal keys are the command's."""

    def __init__(self, token: str | None) -> None:
        super().__init__(daemon=True)
        self._token = token
        self._ready = ready_file(token) if token else None
        self._ended = False

    def run(self) -> None:
        heard = time.monotonic()
        beat = 0.0
        while not self._ended:
            now = time.monotonic()
            if now - beat >= BEAT_SECONDS:
                beat = now
                self._beat()
            if self._token is None:
                time.sleep(BEAT_SECONDS)
                continue
            if self._ready and self._ready.exists():
                self._ready.unlink()
                self._ready = None
                self._say("ready")
            readable, _, _ = select.select([0], [], [], 0.05 if self._ready else 1.0)
            words = os.read(0, 4096) if readable else None
            if words:
                heard = now
                if b"end" in words:
                    os.kill(os.getpid(), signal.SIGINT)
            elif words is not None or now - heard > SILENT_SECONDS:
                self._leave()

    def end(self, code: int) -> None:
        self._ended = True
        if self._ready:
            self._ready.unlink(missing_ok=True)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        self._say(f"exit {code}")

    def _beat(self) -> None:
        with suppress(OSError):
            os.utime(HELD)
        self._say("beat")

    def _say(self, words: str) -> None:
        if self._token:
            with suppress(OSError):
                os.write(2, f"\x1e{self._token} {words}\n".encode())

    def _leave(self) -> None:
        """Nobody is there. Whatever is still written may never be read."""
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(LEAVING_SECONDS)
        if not self._ended:
            os._exit(1)


def _hold() -> None:
    HELD.touch()
    while time.time() - HELD.stat().st_mtime < ABANDONED_SECONDS:
        time.sleep(1)


command = click.Command(
    "leash",
    params=[
        click.Argument(["words"], nargs=-1, type=click.UNPROCESSED),
        click.Option(["--token"], metavar="WORD", help="What its lines to the holder begin with."),
    ],
    callback=run,
    help="Run another command for as long as somebody holds standard input.",
    epilog="\b\nExamples:\n  kubectl exec -i POD -- ktrace leash signals",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
