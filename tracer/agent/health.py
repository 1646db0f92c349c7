# SPDX-License-Identifier: Apache-2.0
"""How the agent itself does: what is attached, what was lost, what it costs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import orjson

from tracer.backends import Cost

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Without a turn for so long, tracing hangs.
STUCK_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Counts:
    """What a publisher has done. `retried` counts attempts, all others items. What is queued
    includes the batch that is being sent."""

    sent: int = 0
    retried: int = 0
    dropped: int = 0
    queued: int = 0
    queued_bytes: int = 0


@dataclass(frozen=True, slots=True)
class HistoryState:
    """The history on disk. `failures` counts failed writes, `unrecorded` the events in them.
    `oldest_ns` is since 1970, None of an empty history."""

    bytes: int = 0
    most_bytes: int = 0
    files: int = 0
    oldest_ns: int | None = None
    failures: int = 0
    unrecorded: int = 0
    removed: int = 0


@dataclass(frozen=True, slots=True)
class Health:
    """`attached` are the attach points by probe, `missing` the probes that this node refuses.
    `lost` are lost events by probe, `forgotten` timelines of what still ran. `silent` are sources
    of names that fail, with the reason. `seconds` is the age of the agent, `quiet_seconds` the time
    since it last came round. `cost` is what tracing takes of the kernel."""

    attached: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    events: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    undescribed: int = 0
    verdicts: int = 0
    forgotten: int = 0
    silent: Mapping[str, str] = field(default_factory=dict)
    publishers: Mapping[str, Counts] = field(default_factory=dict)
    history: HistoryState | None = None
    seconds: float = 0.0
    quiet_seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    cost: Cost = field(default_factory=Cost)

    @property
    def good(self) -> bool:
        """Whether it traces. What a peer or a disk does is no reason to restart the agent."""
        return bool(self.attached) and self.quiet_seconds < STUCK_SECONDS

    def json(self) -> bytes:
        return orjson.dumps({"good": self.good, **asdict(self)}, option=orjson.OPT_INDENT_2)

    @property
    def sentence(self) -> str:
        lost = sum(self.lost.values())
        return (
            f"{len(self.attached)} probes are attached, {self.events} events, {lost} lost,"
            f" {self.verdicts} verdicts"
        )


def cpu_seconds() -> float:
    """The processor time of all threads of this process."""
    return time.process_time()


def memory_bytes() -> int:
    """The resident memory of this process; 0 if /proc does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0
