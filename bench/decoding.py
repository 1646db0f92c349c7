# SPDX-License-Identifier: Apache-2.0
"""From ring to JSON: the events per second that a session processes on one core.

The records are real ones, taken from the kernel's ring once. Then they are given to a session again
and again, as from a recording.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tracer import probes
from tracer.backends import Cost
from tracer.backends.core import CoreBackend
from tracer.identity.names import Arrivals, NameService
from tracer.model.batch import Batch
from tracer.model.event import Clock
from tracer.model.schema import Schema
from tracer.model.selection import Selection
from tracer.outputs.jsonl import JsonLines
from tracer.probes import AttachPoint, Probe
from tracer.session.live import LiveSource
from tracer.session.session import Session

# Fits into the ring.
EVENTS = 100_000


class Recorded:
    """A backend whose kernel events are all recorded."""

    name = "recorded"

    def __init__(self, storm: Path) -> None:
        live = CoreBackend()
        try:
            live.attach([probes.get("signals")], {"kt_signal_mask": 1 << 10 - 1})
            subprocess.run([storm, str(EVENTS)], stdout=subprocess.DEVNULL, check=True)
            live.detach()
            self.batches: list[Batch] = []
            while batch := live.read(0):
                self.batches.append(batch)
        finally:
            live.close()
        self.schemas: dict[int, Schema] = live.schemas
        self.attached: dict[str, AttachPoint] = live.attached
        self.walked = live.walked
        self.unseen: dict[str, int] = {}
        self._waiting = list(self.batches)

    def attach(self, probes: list[Probe], settings: dict[str, int]) -> None:
        self._waiting = list(self.batches)

    def select(self, cgroup: int, verdict: int) -> None: ...

    def trace_pid(self, pid: int) -> None: ...

    def read(self, timeout: float) -> Batch | None:
        return self._waiting.pop(0) if self._waiting else None

    def wake(self) -> None: ...

    def lost(self) -> dict[str, int]:
        return {}

    def cost(self) -> Cost:
        return Cost()

    def detach(self) -> None: ...

    def close(self) -> None: ...


def events_a_second(recorded: Recorded) -> float:
    """On one core; time taken by other processes does not count."""
    arrivals = Arrivals()
    names = NameService([], arrivals.put)
    clock = Clock()
    chosen = Selection(everything=True)
    signals = [probes.get("signals")]
    with Path("/dev/null").open("wb") as null:
        sink = JsonLines(null, clock, "bench")
        live = LiveSource(recorded, names, arrivals, clock)
        session = Session(live, signals, chosen, sink, clock, EVENTS)
        recorded.attach(signals, {})
        live.attached(chosen)
        for turn in live.begin():
            session.take(turn)
        begin = time.process_time()
        summary = session.run()
        return summary.events / (time.process_time() - begin)
