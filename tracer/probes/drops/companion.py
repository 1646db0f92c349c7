# SPDX-License-Identifier: Apache-2.0
"""The user-space part of the `drops` probe, as raw records of its own structs: the drops that the
kernel side only counted, and what connection tracking has counted when netfilter drops packets.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

from tracer.kernel import conntrack
from tracer.kernel.bpf_object import shipped
from tracer.kernel.netstat import netns_of, processes
from tracer.model.bounded import keep
from tracer.model.schema import Schema
from tracer.probes import LAST_CALL, Table

INTERVAL = 1.0
# A call that comes slightly early, caused by another companion's interval, counts as well.
NEARLY = 0.9
# Records of one reason in a namespace and a second; the kernel side adds as many.
MOST = 5
# What netfilter drops, by the reason and, where there is none, by the function.
NETFILTER, HOOK = b"NETFILTER_DROP", b"nf_hook_slow"
MAX_NAMESPACES = 256
# A flow in which nothing was dropped for so long may be forgotten.
IDLE_NS = 60_000_000_000
# Two system calls an entry: on a node that drops no more, thousands are looked at this seldom.
TIDY_SECONDS = 30.0


class Held:
    """Reports the drops that the kernel side only counted, in `flows` and in `rest`. The counts
    only grow, and so does `counted`, their sum."""

    interval: float | None = INTERVAL
    hears = "packet_drop"

    def __init__(
        self, schemas: Mapping[str, Schema], flows: Table, rest: Table, counted: Table
    ) -> None:
        self._conntrack = Conntrack(schemas["drop_conntrack"])
        self._drop = schemas["packet_drop"]
        several = shipped("drops").numbers("drop_several")
        self._of = {member: several[name] for member, name in _SEVERAL.items()}
        self._counts = [
            _Counts(self._drop, table, shipped("drops").maps[name].entries)
            for name, table in (("kt_drop_flows", flows), ("kt_drop_rest", rest))
        ]
        self._counted = counted
        self._sum: list[tuple[bytes, bytes]] = []
        self._last_told = self._last_look = 0.0
        self._looked_ns = 0

    def hear(self, records: Iterator[Any]) -> None:
        self._conntrack.hear(records)

    def records(self, fresh: frozenset[str]) -> list[bytes]:
        before = self._looked_ns
        held = self._held(fresh)
        self._conntrack.hear(held, since=before)
        pack = self._drop.struct.pack
        return [*self._conntrack.records(), *(pack(*drop) for drop in held)]

    def _held(self, fresh: frozenset[str]) -> list[Any]:
        now = time.monotonic()
        if fresh != LAST_CALL and now - self._last_told < NEARLY * INTERVAL:
            return []
        self._last_told = now
        # first, so that what is counted meanwhile is looked at the next time
        looks_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        before, self._sum = self._sum, list(self._counted.items())
        idle = self._sum == before and now - self._last_look < TIDY_SECONDS
        self._looked_ns = looks_ns
        if idle and fresh != LAST_CALL:
            return []
        self._last_look = now
        added: dict[tuple[int, int], list[Any]] = defaultdict(list)
        for counts in self._counts:
            for drop in counts.added():
                added[drop.network, drop.number].append(drop)
        boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return [
            drop._replace(kind=self._drop.kind, time=boot_ns)
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


class Conntrack:
    """Reads the counters of the namespaces in which netfilter drops packets. They are reported if
    they have grown, and if they had been read before the drops and have not: then connection
    tracking dropped nothing. A namespace other than the node's is known once one of its processes
    has been found, by a thread; what it counted before the first reading is not known, unless it
    had counted nothing at all."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        # the inode, and the time since when there may have been drops; by network
        self._asked: dict[int, tuple[int, int]] = {}
        self._before: dict[int, Reading] = {}  # by inode
        self._pids: dict[int, int] = {}
        self._search: threading.Thread | None = None
        self._maximum = 0
        host = netns_of(1) or netns_of("self")
        if host is not None:
            self._pids[host] = 1 if netns_of(1) == host else os.getpid()
            self._begin(host)

    def hear(self, records: Iterable[Any], since: int | None = None) -> None:
        """`since` is the time after which all these drops were, if that is not their own."""
        for record in records:
            if record.reason.startswith(NETFILTER) or record.function.startswith(HOOK):
                first = record.time if since is None else since
                _, known = self._asked.get(record.network, (0, first))
                asked = record.netns, min(known, first)
                keep(self._asked, record.network, asked, MAX_NAMESPACES)

    def records(self) -> list[bytes]:
        asked, self._asked = self._asked, {}
        found = (self._record(network, *about) for network, about in asked.items())
        return [record for record in found if record is not None]

    def _record(self, network: int, netns: int, since: int) -> bytes | None:
        now = self._read(netns)
        if now is None:
            self._find(netns)
            return None
        before = self._before.get(netns) or now
        grown = now.counted.since(before.counted)
        if not grown.counts:
            now = now._replace(quiet_since=before.quiet_since)
        keep(self._before, netns, now, MAX_NAMESPACES)
        self._maximum = self._maximum or conntrack.maximum()
        if not grown.counts and now.quiet_since > since:
            return None
        return self._schema.pack(
            time=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            network=network,
            maximum=self._maximum,
            **{name: getattr(grown, name) for name in conntrack.Tracking.__slots__},
        )

    def _read(self, netns: int) -> Reading | None:
        pid = self._pids.get(netns)
        counted = conntrack.read(pid, netns) if pid else None
        if counted is None:
            return None
        return Reading(time.clock_gettime_ns(time.CLOCK_BOOTTIME) if counted.counts else 0, counted)

    def _begin(self, netns: int) -> None:
        now = self._read(netns)
        if now is not None:
            self._before[netns] = now

    def _find(self, netns: int) -> None:
        if self._search is None or not self._search.is_alive():
            self._search = threading.Thread(target=self._look_for, args=(netns,), daemon=True)
            self._search.start()

    def _look_for(self, netns: int) -> None:
        pid = next((pid for pid in processes() if netns_of(pid) == netns), None)
        if pid is not None:
            keep(self._pids, netns, pid, MAX_NAMESPACES)
            self._begin(netns)


class Reading(NamedTuple):
    """What connection tracking had counted, and the time since when that has not grown."""

    quiet_since: int
    counted: conntrack.Tracking
