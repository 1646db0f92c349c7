# SPDX-License-Identifier: Apache-2.0
"""What bench/stap.py lets a guest measure: it prints lines `bench: {…}` on the console.

No test: pytest is only how a guest is told what to do. An emulated processor is ten times slower
than a real one, so only what is measured in the same guest can be compared.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

from tests.stap.loaded import loaded_modules
from tests.support.ktrace import ROOT
from tests.support.raisers import Actor, children_of
from tests.support.wait import wait_for

STARTS = 5
ROUNDS = 5
SIGNALS = 2000
USR1 = int(signal.SIGUSR1)

Ready = Callable[[Path], bool]


@dataclass(frozen=True)
class Tracer:
    """`ready` looks at its output, or at the file that it creates."""

    name: str
    command: tuple[str, ...]
    ready: Ready

    @contextmanager
    def running(self, place: Path) -> Iterator[int]:
        output = place / "output"
        output.unlink(missing_ok=True)
        (place / "ready").unlink(missing_ok=True)
        command = [word.replace("READY", str(place / "ready")) for word in self.command]
        with output.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT)
        try:
            wait_for(f"{self.name} to trace", lambda: self.ready(place), 120, 0.001)
            yield process.pid
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(120)
            wait_for("its module to go", lambda: not loaded_modules(), 60)


def _made_file(place: Path) -> bool:
    return (place / "ready").exists()


def _wrote_ready(place: Path) -> bool:
    return (place / "output").read_bytes().startswith(b"ready\n")


def _ktrace(backend: str) -> Tracer:
    words = (sys.executable, "-m", "tracer", "signals", "--all", "--backend", backend, "-o", "json")
    return Tracer(f"ktrace, {backend}", (*words, "--ready-file", "READY"), _made_file)


GUIDE = Tracer("plain script", ("staprun", "/lab/sg.ko", f"wanted={USR1}"), _wrote_ready)
TRACERS = (GUIDE, _ktrace("stap"), _ktrace("core"))


@pytest.mark.parametrize("tracer", TRACERS, ids=lambda tracer: tracer.name)
def test_measure(tracer: Tracer, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    starts = []
    for _ in range(STARTS):
        begin = time.monotonic()
        with tracer.running(tmp_path) as pid:
            starts.append(time.monotonic() - begin)
            resident = _resident(pid)
    with Actor() as sender, Actor() as target:  # the target blocks it: one is pending
        alone = _each(sender, target.pid)
        with tracer.running(tmp_path):
            traced = _each(sender, target.pid)
    told = {
        "name": tracer.name,
        "start_ms": 1e3 * median(starts),
        "resident_mb": resident / 1e3,
        "event_ns": 1e9 * (traced - alone),
    }
    with capfd.disabled():
        print(f"\nbench: {json.dumps(told)}", flush=True)


def _each(sender: Actor, target: int) -> float:
    """Seconds that a signal takes its sender, at best: whatever disturbs makes it slower."""

    def once() -> float:
        begin = time.monotonic()
        sender.do("repeat", SIGNALS, "kill", target, USR1)
        return (time.monotonic() - begin) / SIGNALS

    return min(once() for _ in range(ROUNDS))


def _resident(pid: int) -> float:
    """Of a program and what it has started, in kB."""
    family = [pid, *children_of(pid)]
    statuses = [Path(f"/proc/{one}/status").read_text().splitlines() for one in family]
    lines = [line for status in statuses for line in status if line.startswith("VmRSS:")]
    assert len(lines) == len(family) and os.getpid() not in family
    return float(sum(int(line.split()[1]) for line in lines))
