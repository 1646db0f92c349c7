# SPDX-License-Identifier: Apache-2.0
"""Run another command until standard input ends: what kubectl ktrace starts in a pod.

`ktrace leash`: runs another command for as long as a holder at the other end of standard input
wants it. It is not for users.

A command in a pod does not end when its reader goes away. So the holder writes now and then, and
`end` for Ctrl-C. When nothing comes any more, the command is ended in order, and then at once. The
leash answers with lines on standard error: probes attached, still there, exit code. They begin with
the holder's token, which no command knows.

Without a command, it keeps a pod running until there was no leash in it for a while.
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

from tracer.model.summary import summary

BEAT_SECONDS = 5.0
SILENT_SECONDS = 30.0
LEAVING_SECONDS = 10.0
ABANDONED_SECONDS = 60.0
# Every container has it, also one with a read-only root.
SHARED = Path("/dev/shm")
HELD = SHARED / "ktrace-held"


def run(words: tuple[str, ...], token: str | None, zone: str | None) -> None:
    from tracer import cli

    if not words:
        _hold()
        return
    if zone:
        os.environ["TZ"] = zone
        time.tzset()
    leash = Leash(token)
    leash.start()
    sys.argv = ["ktrace", *words]
    try:
        cli.main()
    except SystemExit as end:
        leash.end(end.code if isinstance(end.code, int) else 0)
        raise


def ready_file(token: str) -> Path:
    """The command creates this file when its probes are attached."""
    return SHARED / f"ktrace-ready-{token}"


class Leash(threading.Thread):
    """Without a token it neither reads nor writes: on a terminal, keys belong to the command."""

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
        """The holder is gone: ends the command, in time even if its output blocks."""
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
        click.Option(["--time-zone", "zone"], metavar="TZ", help="The holder's, as a rule."),
    ],
    callback=run,
    help=summary(__doc__),
    epilog="\b\nExamples:\n  kubectl exec -i POD -- ktrace leash signals",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
