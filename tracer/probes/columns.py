# SPDX-License-Identifier: Apache-2.0
"""Columns as data: the class that probes use, and values that several probes share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from tracer.model.event import C, Event, Place, Process

UNKNOWN = "–"


@dataclass(frozen=True)
class Column(Generic[C]):
    """A column takes `narrow` to `width` cells. If the terminal is too narrow, the highest `rank`
    is dropped first, and rank 0 never. `wide` columns only show with `-o wide`."""

    title: str
    value: Callable[[Event[C]], str | None]
    narrow: int
    width: int
    rank: int = 0
    wide: bool = False


def process_name(process: Process | None) -> str | None:
    """`nginx[1234]`, or only `[1234]` if the name was lost. A name that would look like two columns
    is changed."""
    if process is None:
        return None
    comm = (process.comm or "").replace("  ", " \\x20")
    return f"{comm}[{process.pid}]"


def exe(process: Process | None) -> str | None:
    return process.exe if process else None


def pod_name(place: Place | None) -> str | None:
    """`namespace/name`, else the uid."""
    pod = place and place.pod
    return pod.title if pod else None


def container_name(place: Place | None) -> str | None:
    container = place and place.container
    if not container:
        return None
    return container.name or container.id[:12]


def ancestry_chain(process: Process | None) -> str | None:
    """From the oldest ancestor to the process itself."""
    if process is None or process.comm is None:
        return None
    return " → ".join([comm for _, comm in reversed(process.ancestry)] + [process.comm])


POD: Column = Column("POD", lambda e: pod_name(e.place), 14, 40, 1)
CONTAINER: Column = Column("CONTAINER", lambda e: container_name(e.place), 9, 20, 5)
