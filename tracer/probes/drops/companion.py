# SPDX-License-Identifier: Apache-2.0
"""The user-space part of the `drops` probe: the drops that the kernel side only counted, as raw
records of its own struct.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from tracer.kernel.bpf_object import shipped
from tracer.model.schema import Schema
from tracer.probes import LAST_CALL, Table

INTERVAL = 1.0
# A call that comes slightly early, caused by another companion's interval, counts as well.
NEARLY = 0.9
# Records of one reason in a namespace and a second; the kernel side adds as many.
MOST = 10
# A flow in which nothing was dropped for so long may be forgotten.
IDLE_NS = 60_000_000_000


class Held:
    """Reports the drops that the kernel side only counted, in `flows` and in `rest`. The counts
    only grow."""

    interval: float | None = INTERVAL

    def __init__(self, schemas: Mapping[str, Schema], flows: Table, rest: Table) -> None:
        self._drop = schemas["packet_drop"]
        several = shipped("drops").numbers("drop_several")
        self._of = {member: several[name] for member, name in _SEVERAL.items()}
        self._counts = [
            _Counts(self._drop, table, shipped("drops").maps[name].entries)
            for name, table in (("kt_drop_flows", flows), ("kt_drop_rest", rest))
        ]
        self._last_told = 0.0

    def records(self, fresh: frozenset[str]) -> list[bytes]:
        now = time.monotonic()
        if fresh != LAST_CALL and now - self._last_told < NEARLY * INTERVAL:
            return []
        self._last_told = now
        added: dict[tuple[int, int], list[Any]] = defaultdict(list)
        for counts in self._counts:
            for drop in counts.added():
                added[drop.network, drop.number].append(drop)
        boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return [
            self._drop.struct.pack(*drop._replace(kind=self._drop.kind, time=boot_ns))
            for drops in added.values()
            for drop in self._at_most(drops)
        ]

    def close(self) -> None: ...

    def _at_most(self, drops: list[Any]) -> list[Any]:
        """The flows with most drops; all others become one record."""
        drops.sort(key=attrgetter("count"), reverse=True)
        told, others = drops[: MOST - 1], drops[MOST - 1 :]
        if not others:
            return told
        first, *more = others
        several = first.several
        for other in more:
            several |= other.several
            for member, bit in self._of.items():
                if getattr(other, member) != getattr(first, member):
                    several |= bit
        count = sum(drop.count for drop in others)
        return [*told, first._replace(count=count, several=several)]


_SEVERAL = {
    "source_address": "KT_DROP_SOURCES",
    "destination_address": "KT_DROP_DESTINATIONS",
    "destination_port": "KT_DROP_PORTS",
    "protocol": "KT_DROP_PROTOCOLS",
}


class _Counts:
    """One of the kernel side's maps, with `most` entries."""

    def __init__(self, drop: Schema, table: Table, most: int) -> None:
        self._drop = drop
        self._table = table
        self._most = most
        self._told: dict[bytes, int] = {}

    def added(self) -> list[Any]:
        """Each entry whose count has grown, with the increase."""
        found, idle = [], list[bytes]()
        entries = list(self._table.items())
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - IDLE_NS
        for key, value in entries:
            drop = self._drop.make(self._drop.struct.unpack(value))
            known = self._told.get(key, 0)
            if drop.count > known:
                self._told[key] = drop.count
                found.append(drop._replace(count=drop.count - known))
            elif drop.time < before:
                idle.append(key)
        # only when room is short: a drop at the moment of deletion is not counted
        if len(entries) > self._most * 3 // 4:
            for key in idle:
                self._table.delete(key)
                self._told.pop(key, None)
        return found
