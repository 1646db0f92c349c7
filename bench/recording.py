# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.recording`: the cost of writing, keeping and reading recordings, beside the
aims.

Rates are events per second of CPU time on one core, so other users of the machine do not count.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from bench.signals import compile_storm
from tracer import probes
from tracer.backends.core import CoreBackend
from tracer.identity.names import Arrivals, NameService
from tracer.model.event import Clock
from tracer.model.selection import Selection
from tracer.recording.files import SingleFile
from tracer.recording.format import BLOCK_HEADER_BYTES, FILE_HEADER, block_lengths
from tracer.recording.recorder import Recorder, metadata_here
from tracer.session.live import LiveSource
from tracer.session.session import Session
from tracer.session.settings import of_selection

KTRACE = [sys.executable, "-m", "tracer"]
ROUNDS = 10
# Fits into the ring.
STORM = 100_000
BURST_SECONDS = 10.0
IDLE_SECONDS = 20.0
GIGABYTE = 1 << 30
# A crash loop: processes start, are killed or end by themselves; a storm at the end.
INCIDENT = """
trap '' USR1
for i in $(seq 400); do
  sleep 100 & kill -9 $!
  (exit 3)
  for j in 1 2 3 4 5; do kill -USR1 $$; done
done
wait
"""


@dataclass(frozen=True)
class Figure:
    what: str
    measured: str
    aim: str
    met: bool


def main() -> None:
    if os.geteuid():
        raise SystemExit("bench.recording needs root")
    with tempfile.TemporaryDirectory(prefix="ktrace-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        storm = compile_storm(folder)
        figures = [
            *ring_to_disk(storm, folder),
            burst(storm, folder),
            incident(folder),
            idle(folder),
            flight(storm, folder),
            replay(folder / "storm.ktrace"),
            info(folder / "storm.ktrace", folder / "large.ktrace"),
        ]
    show(figures)


def ring_to_disk(storm: Path, folder: Path) -> Iterator[Figure]:
    """The ring is filled without a reader, and then emptied into a file."""
    chosen, signals = Selection(everything=True), [probes.get("signals")]
    backend, clock = CoreBackend(), Clock()
    arrivals = Arrivals()
    live = LiveSource(backend, NameService([], arrivals.put), arrivals, clock, decoding=False)
    session = Session(live, signals, chosen, None, clock)
    backend.attach(signals, {**of_selection(chosen), "kt_signal_mask": 1 << 10 - 1})
    live.attached(chosen)
    file = folder / "storm.ktrace"
    recorder = Recorder(
        SingleFile(file), metadata_here("bench", backend, clock, chosen, None), signals, _fail
    )
    session.recorder = recorder
    seconds = 0.0
    for _ in range(ROUNDS):
        subprocess.run([storm, str(STORM)], stdout=subprocess.DEVNULL, check=True)
        before, begin = session.summary.events, time.process_time()
        while session.summary.events < before + STORM:
            session.take(live.turn(False, 0))
        seconds += time.process_time() - begin
    live.stop()
    session.run()
    recorder.close()
    rate = session.summary.events / seconds
    lost = session.summary.lost
    yield Figure("ring to disk, events/s", f"{rate / 1e6:.1f} M", "≥ 1 M", rate >= 1e6)
    yield Figure("of these lost", f"{lost}", "0", not lost)


def _fail(error: OSError) -> None:
    raise SystemExit(f"recording failed: {error}")


def burst(storm: Path, folder: Path) -> Figure:
    """Raises signals as fast as one process can."""
    plain = subprocess.run([storm, "300000"], stdout=subprocess.PIPE, check=True, text=True)
    count = int(BURST_SECONDS * 1e9 / (2 * float(plain.stdout.split()[0])))
    file = folder / "burst.ktrace"
    with running("record", "signals", "--all", "--signal", "USR1", "-o", str(file)) as ktrace:
        begin = time.monotonic()
        subprocess.run([storm, str(count)], stdout=subprocess.DEVNULL, check=True)
        seconds = time.monotonic() - begin
    events, lost = ktrace.closing_line()
    file.unlink()
    told = f"{events / seconds / 1e3:.0f} k/s, {lost} lost"
    return Figure(f"a burst of {seconds:.0f} s, end to end", told, "0 lost", not lost)


def incident(folder: Path) -> Figure:
    file = folder / "incident.ktrace"
    with running("record", "--all", "--signal", "all", "-o", str(file)) as ktrace:
        subprocess.run(["bash", "-c", INCIDENT], stderr=subprocess.DEVNULL, check=True)
    events, _ = ktrace.closing_line()
    each = file.stat().st_size / events
    told = f"{each:.1f} ({events} events)"
    return Figure("bytes an event, mixed incident", told, "≤ 20", each <= 20)


def idle(folder: Path) -> Figure:
    """Every probe, and a pod that never comes."""
    arguments = ("--pod", "no-such-pod", "--wait", "-o", str(folder / "idle.ktrace"))
    with running("record", *arguments) as ktrace:
        ktrace.settle()
        before = ktrace.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        share = 100 * (ktrace.cpu_seconds() - before) / IDLE_SECONDS
    return Figure("idle, % of a core", f"{share:.2f}", "≤ 0.5", share <= 0.5)


def flight(storm: Path, folder: Path) -> Figure:
    """Every probe, the whole node, and a storm that must be decoded for the trigger."""
    arguments = ("--flight", "10m", "--all", "--trigger", "oom", "-o", str(folder / "flights"))
    with running("record", *arguments) as ktrace:
        ktrace.settle()
        subprocess.run([storm, str(STORM)], stdout=subprocess.DEVNULL, check=True)
        ktrace.settle()
        resident = ktrace.resident() / (1 << 20)
    shutil.rmtree(folder / "flights")
    return Figure("resident with --flight, MiB", f"{resident:.0f}", "≤ 60", resident <= 60)


def replay(file: Path) -> Figure:
    seconds = cpu_of("replay", str(file), "-o", "json")
    rate = ROUNDS * STORM / seconds
    return Figure("replay to JSON, events/s", f"{rate / 1e3:.0f} k", "≥ 300 k", rate >= 300e3)


def info(file: Path, large: Path) -> Figure:
    """Repeats the same blocks until they make a gigabyte."""
    data = file.read_bytes()
    begin = FILE_HEADER.size
    begin += BLOCK_HEADER_BYTES + block_lengths(data[begin : begin + BLOCK_HEADER_BYTES])[0]
    with large.open("wb") as out:
        out.write(data[:begin])
        while out.tell() < GIGABYTE:
            out.write(data[begin:])
    started = time.monotonic()
    subprocess.run([*KTRACE, "info", str(large)], stdout=subprocess.DEVNULL, check=True)
    seconds = time.monotonic() - started
    large.unlink()
    return Figure("info on 1 GB, s", f"{seconds:.2f}", "≤ 2", seconds <= 2)


class Running:
    """A recording ktrace."""

    def __init__(self, *arguments: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ktrace-bench-")
        ready = Path(self._folder.name, "ready")
        self._stderr = Path(self._folder.name, "stderr")
        with self._stderr.open("w") as stderr:
            command = [*KTRACE, *arguments, "--ready-file", str(ready)]
            self._process = psutil.Popen(command, stderr=stderr)
        while not ready.exists():
            if self._process.poll() is not None:
                raise SystemExit(self._stderr.read_text())
            time.sleep(0.01)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()

    def settle(self) -> None:
        """Waits until its start-up work is done: it uses hardly any CPU."""
        before = -1.0
        while self.cpu_seconds() - before > 0.01:
            before = self.cpu_seconds()
            time.sleep(1)

    def cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def resident(self) -> int:
        return int(self._process.memory_info().rss)

    def closing_line(self) -> tuple[int, int]:
        """The numbers of events and of lost events."""
        found = re.search(r"ktrace: (\d+) events, (\d+) lost", self._stderr.read_text())
        if not found:
            raise SystemExit(self._stderr.read_text())
        return int(found[1]), int(found[2])


@contextmanager
def running(*arguments: str) -> Iterator[Running]:
    """Stops it at the end of the block; its output stays readable until the program ends."""
    ktrace = Running(*arguments)
    try:
        yield ktrace
    finally:
        ktrace.stop()


def cpu_of(*arguments: str) -> float:
    """CPU seconds of a whole run, including its start."""
    before = os.times()
    subprocess.run([*KTRACE, *arguments], stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    return (
        after.children_user - before.children_user + after.children_system - before.children_system
    )


def show(figures: list[Figure]) -> None:
    table = Table("", "measured", "aim", "", title="Recordings", title_justify="left")
    for figure in figures:
        table.add_row(figure.what, figure.measured, figure.aim, "✔" if figure.met else "✘")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
