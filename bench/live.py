# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.live`: the live view in a storm of signals, on a terminal, as a user sees it.

20,000 signals a second for a minute. Reported are the time until a key is answered, the view's
share of a core and its memory, and whether every event was seen or counted as lost; also the time
until the first picture.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import selectors
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import psutil
from rich.console import Console
from rich.table import Table
from typing_extensions import Self

RATE = 20_000
SECONDS = float(os.environ.get("KTRACE_BENCH_SECONDS", "60"))
ROUNDS = 7
PATIENCE = 30.0
ROWS, COLUMNS = 50, 200
KTRACE = (sys.executable, "-m", "tracer", "live")
# Text that only the first picture shows, and text that only the help shows.
TITLE, HELP = b"WORST", b"Last, and follow"


class Terminal:
    """A command on a terminal whose output is read continuously."""

    def __init__(self, *command: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._ours, selectors.EVENT_READ)
        self.last = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._selector.close()
        os.close(self._ours)

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def until(self, mark: bytes) -> float:
        """Reads until the mark appears; returns the seconds it took."""
        began, seen = time.monotonic(), b""
        while mark not in seen:
            if time.monotonic() > began + PATIENCE:
                raise SystemExit(f"{mark!r} was never shown")
            seen = seen[-len(mark) :] + self._read(1.0)
        return time.monotonic() - began

    def read_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._read(left)

    def to_the_end(self) -> bytes:
        """Reads until the process has ended; returns its last output."""
        while self.process.poll() is None or self._selector.select(0):
            if not self._read(0.1) and self.process.poll() is not None:
                break
        return self.last

    def _read(self, timeout: float) -> bytes:
        if not self._selector.select(timeout):
            return b""
        with contextlib.suppress(OSError):  # the other end is closed
            data = os.read(self._ours, 1 << 16)
            self.last = (self.last + data)[-4096:]
            return data
        return b""


def main() -> None:
    if os.geteuid():
        raise SystemExit("bench.live needs root")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    table = Table(title="ktrace live")
    table.add_column("measured")
    table.add_column("value", justify="right")
    table.add_column("goal", justify="right")
    paints = first_paints()
    table.add_row(
        "first paint", f"{median(paints):.0f} ms [{min(paints):.0f}–{max(paints):.0f}]", "≤ 500 ms"
    )
    for name, value, goal in storm():
        table.add_row(name, value, goal)
    Console().print(table)


def first_paints() -> list[float]:
    paints = []
    for _ in range(ROUNDS + 1):
        with Terminal(*KTRACE) as terminal:
            terminal.until(TITLE)
            paints.append(1e3 * (time.monotonic() - terminal.started))
    return paints[1:]  # the first one may compile


def storm() -> Iterator[tuple[str, str, str]]:
    with tempfile.TemporaryDirectory(prefix="ktrace-bench-") as folder:
        ready = Path(folder) / "ready"
        target = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import signal; signal.signal(10, signal.SIG_IGN); signal.pause()",
            ]
        )
        arguments = ("signals", "--pid", str(target.pid), "--ready-file", str(ready))
        try:
            with Terminal(*KTRACE, *arguments) as terminal:
                while not ready.exists():
                    terminal.read_for(0.05)
                    if terminal.process.poll() is not None:
                        raise SystemExit(f"ktrace live has ended: {terminal.last!r}")
                yield from measured(terminal, target.pid)
        finally:
            target.kill()
            target.wait()


def measured(terminal: Terminal, target: int) -> Iterator[tuple[str, str, str]]:
    process = psutil.Process(terminal.process.pid)
    before, began = process.cpu_times(), time.monotonic()
    sender = subprocess.Popen([sys.executable, "-m", "bench.live", str(target)], stdout=-1)
    latencies = []
    while sender.poll() is None:
        terminal.read_for(0.7)
        terminal.press(b"?")
        latencies.append(1e3 * terminal.until(HELP))
        terminal.press(b"q\t")  # closes the help, and opens the other screen
    after, seconds = process.cpu_times(), time.monotonic() - began
    busy = after.user + after.system - before.user - before.system
    memory = Path(f"/proc/{terminal.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", memory)
    assert found and sender.stdout
    sent = int(sender.stdout.read())
    terminal.read_for(2.0)
    terminal.press(b"q")
    closing = re.search(rb"(\d+) events, (\d+) lost", terminal.to_the_end())
    assert closing, terminal.last
    events, lost = int(closing[1]), int(closing[2])
    worst = max(latencies)
    yield "signals sent", f"{sent:,} in {seconds:.0f} s", f"{RATE:,}/s"
    yield "seen", f"{events:,}", ""
    yield "lost and counted", f"{lost:,}", ""
    yield "neither", f"{sent - events - lost:,}", "0"
    yield "a key is answered", f"{median(latencies):.0f} ms, at most {worst:.0f}", "≤ 100 ms"
    yield "of one core", f"{100 * busy / seconds:.0f} %", "≤ 60 %"
    yield "memory at most", f"{int(found[1]) / 1024:.0f} MiB", "≤ 150 MB"


def send(target: int) -> None:
    """Sends signals at an even rate; prints their number."""
    began, sent = time.monotonic(), 0
    while (passed := time.monotonic() - began) < SECONDS:
        for _ in range(int(passed * RATE) - sent):
            os.kill(target, signal.SIGUSR1)
            sent += 1
        time.sleep(0.002)
    print(sent)


if __name__ == "__main__":
    send(int(sys.argv[1])) if len(sys.argv) > 1 else main()
