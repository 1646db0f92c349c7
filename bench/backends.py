# SPDX-License-Identifier: Apache-2.0
"""python -m bench.backends

Compares the three backends with their alternatives: killsnoop of bpfcc-tools, and a few lines of
SystemTap's language. All run in one guest of the lab, on a kernel that each can trace. Reported are
the median time until they trace, measured in turns; the memory that they and their children hold
then; and the least extra time that a signal they see costs its sender. The guest's processor is
emulated, so only figures of one table can be compared.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import peers
from tests.lab.image import Additions, build_disk, build_initramfs
from tests.lab.machine import qemu
from tests.lab.makers import maker
from tests.lab.stap import GUIDE_MODULE, SUITES
from tests.stap.loaded import loaded_modules
from tests.support.ktrace import ROOT
from tests.support.raisers import Actor, children_of
from tests.support.wait import wait_for
from tracer.backends.bcc.programs import CACHE

SUITE = SUITES[0]
KILLSNOOP = "/usr/sbin/killsnoop-bpfcc"
BCC_PACKAGES = "/usr/lib/python3/dist-packages"
STARTS = 3
ROUNDS = 25
SIGNALS = 2000
SECONDS = 600.0
USR1 = int(signal.SIGUSR1)


def main() -> None:
    peers.install(Path(KILLSNOOP).name)
    with tempfile.TemporaryDirectory(prefix="ktrace-bench-") as directory:
        scratch = Path(directory)
        kernel = maker(SUITE.backend).fetched(SUITE, _say)
        additions = Additions((Path(KILLSNOOP),))
        for backend in SUITE.backends:
            additions += maker(backend).additions(SUITE, kernel, scratch, _say)
        _say("building the guest's disk")
        disk = build_disk((), scratch, module="bench.backends", additions=additions)
        _say(f"measuring on {kernel.release}: some minutes")
        ours, theirs = socket.socketpair()
        initramfs = build_initramfs(kernel, scratch)
        command = qemu(kernel, initramfs, disk, counting=False)(theirs.fileno())
        with (scratch / "console").open("wb") as console:
            guest = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=[theirs.fileno()],
            )
        theirs.close()
        with ours.makefile() as lines:
            rows = [json.loads(line) for line in lines]
        guest.wait(SECONDS)
        if len(rows) < len(TRACERS):
            print((scratch / "console").read_text(errors="backslashreplace")[-4000:])
            raise SystemExit("the guest ended before everything was measured")
    show(kernel.release, rows)


def show(release: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=f"signals on {release}, emulated: compare within the table only")
    table.add_column("")
    for title in ("starts in", "× killsnoop", "resident", "a signal more"):
        table.add_column(title, justify="right")
    peer = next(row["start"] for row in rows if row["name"] == "killsnoop")
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['start']:.1f} s",
            f"{row['start'] / peer:.2f}",
            f"{row['megabytes']:.1f} MB",
            "it gave up" if row["signal"] is None else f"{row['signal'] * 1e6:.1f} µs",
        )
    Console(width=100).print(table)


def _say(words: str) -> None:
    print(f"· {words}", file=sys.stderr)


# In the guest


@dataclass(frozen=True)
class Running:
    """`seconds` is the time until it traced."""

    seconds: float
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def gave_up(self) -> bool:
        """Whether SystemTap gave up. It does when a script takes too much processor time, and
        prints an error."""
        return self.process.poll() is not None or b"ERROR" in self.output.read_bytes()

    @property
    def megabytes(self) -> float:
        """Resident memory, including its children."""
        family = (self.process.pid, *children_of(self.process.pid))
        statuses = [Path(f"/proc/{pid}/status").read_text() for pid in family]
        lines = [line for text in statuses for line in text.splitlines() if "VmRSS:" in line]
        return sum(int(line.split()[1]) for line in lines) / 1e3


@dataclass(frozen=True)
class Tracer:
    """`ready` checks its output and the file that READY in its command stands for; `before` runs
    before each start."""

    name: str
    command: tuple[str, ...]
    ready: Callable[[Path, Path], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], None] = lambda: None

    @contextmanager
    def running(self) -> Iterator[Running]:
        """Runs it during the `with` block."""
        self.before()
        with tempfile.TemporaryDirectory() as directory:
            output, ready = Path(directory, "output"), Path(directory, "ready")
            command = [word.replace("READY", str(ready)) for word in self.command]
            with output.open("wb") as file:
                began = time.monotonic()
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    cwd=ROOT,
                    env={**os.environ, **self.environment},
                )
            try:
                wait_for(self.name, lambda: self.ready(output, ready), SECONDS, 0.01)
                yield Running(time.monotonic() - began, process, output)
            finally:
                process.terminate()
                process.wait(SECONDS)
                wait_for("its modules to go", lambda: not loaded_modules(), SECONDS)


def _wrote(output: Path, ready: Path) -> bool:
    """Both peers write their first line when they trace."""
    return b"\n" in output.read_bytes()


def _made_file(output: Path, ready: Path) -> bool:
    return ready.exists()


def _forget() -> None:
    shutil.rmtree(CACHE, ignore_errors=True)


def _ktrace(backend: str, name: str = "", before: Callable[[], None] = lambda: None) -> Tracer:
    words = (sys.executable, "-m", "tracer", "signals", "--all", "-o", "json")
    command = (*words, "--backend", backend, "--ready-file", "READY")
    return Tracer(name or f"ktrace, {backend}", command, _made_file, before=before)


TRACERS = (
    Tracer(
        "killsnoop",
        (os.path.realpath(sys.executable), "-u", KILLSNOOP),
        _wrote,
        {"PYTHONPATH": BCC_PACKAGES},
    ),
    Tracer("plain script of stap", ("staprun", str(GUIDE_MODULE), f"wanted={USR1}"), _wrote),
    _ktrace("core"),
    _ktrace("bcc", "ktrace, bcc, the first time", _forget),
    _ktrace("bcc"),
    _ktrace("stap"),
)


def inside(port: str) -> None:
    starts: dict[str, list[float]] = {tracer.name: [] for tracer in TRACERS}
    resident: dict[str, float] = {}
    for _ in range(1 + STARTS):  # the first run only warms the disk cache
        for tracer in TRACERS:
            with tracer.running() as running:
                starts[tracer.name].append(running.seconds)
                resident[tracer.name] = running.megabytes
    with open(port, "w", buffering=1) as out:
        for tracer in TRACERS:
            row = {"name": tracer.name, "start": median(starts[tracer.name][1:])}
            row |= {"megabytes": resident[tracer.name], "signal": _cost(tracer)}
            out.write(json.dumps(row) + "\n")


def _cost(tracer: Tracer) -> float | None:
    """A signal's extra cost in seconds; None if it did not trace to the end."""
    with Actor() as sender, Actor() as target:  # the target blocks the signal: one is pending
        alone = _each(sender, target.pid)
        with tracer.running() as running:
            traced = _each(sender, target.pid)
            return None if running.gave_up else traced - alone


def _each(sender: Actor, target: int) -> float:
    """The least seconds that a signal takes its sender, because disturbances only add time."""

    def once() -> float:
        began = time.monotonic()
        sender.do("repeat", SIGNALS, "kill", target, USR1)
        return (time.monotonic() - began) / SIGNALS

    return min(once() for _ in range(ROUNDS))


if __name__ == "__main__":
    if len(sys.argv) > 1:  # in the guest, with its port to the host
        inside(sys.argv[1])
    else:
        main()
