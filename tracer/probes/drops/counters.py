# SPDX-License-Identifier: Apache-2.0
"""Drops where no program can be attached to them: what each network namespace counts of the reverse
path filter, of missing routes and of connection tracking, read every second in a thread. Which
packets they were is not known."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tracer.identity.netns import How
from tracer.kernel import conntrack
from tracer.kernel.bpf_object import shipped
from tracer.kernel.conntrack import Tracking
from tracer.kernel.netstat import mounted_namespaces, namespaces, read_text
from tracer.model.bounded import keep
from tracer.model.schema import Schema
from tracer.probes.polling import Polling

SEARCH_SECONDS = 10.0
MAX_NETWORKS = 16_384
# The kernel's counters in /proc/PID/net/netstat, and the reasons that they stand for.
REASONS = {b"IPReversePathFilter": b"IP_RPFILTER", b"InNoRoutes": b"IP_INNOROUTES"}
NETFILTER = b"NETFILTER_DROP"


@dataclass(slots=True)
class _Namespace:
    pids: list[int]
    drops: Mapping[bytes, int] = field(default_factory=dict)  # by reason
    tracked: Tracking = field(default_factory=Tracking)


class Counted(Polling):
    """The companion."""

    hears = "network"

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._polled = Polled(schemas)
        super().__init__(self._polled.records)

    def hear(self, records: Iterator[Any]) -> None:
        for record in records:
            if record.how != How.OF_HOST.number:
                keep(self._polled.networks, record.netns, record.network, MAX_NETWORKS)


class Polled:
    """Reads the counters of each namespace. `networks` are the namespaces' numbers by inode."""

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._drop, self._conntrack = schemas["packet_drop"], schemas["drop_conntrack"]
        self._basis = shipped("drops").numbers("drop_basis")["KT_DROP_COUNTER"]
        self._known: dict[int, _Namespace] = {}
        self.networks: dict[int, int] = {}
        # these may have no process yet, but non-zero counters
        self._older = mounted_namespaces()
        self._search(first=True)

    def records(self) -> list[bytes]:
        if time.monotonic() >= self._next_search:
            self._search()
        return [one for netns, known in self._known.items() for one in self._added(netns, known)]

    def _search(self, first: bool = False) -> None:
        """Finds namespaces. One that did not exist at the first search counts from zero."""
        found = namespaces()
        for netns, pids in found.items():
            if netns in self._known:
                self._known[netns].pids = pids
                continue
            known = self._known[netns] = _Namespace(pids)
            if first or netns in self._older:
                self._older.discard(netns)
                known.drops, known.tracked = _read(known.pids, netns) or ({}, Tracking())
        for netns in self._known.keys() - found.keys():
            del self._known[netns]
        self._next_search = time.monotonic() + SEARCH_SECONDS

    def _added(self, netns: int, known: _Namespace) -> list[bytes]:
        now = _read(known.pids, netns)
        if now is None:
            return []
        drops, tracked = now
        grown = tracked.since(known.tracked)
        added = {name: count - known.drops.get(name, 0) for name, count in drops.items()}
        added[NETFILTER] = max(grown.dropped, grown.insert_failed)
        known.drops, known.tracked = drops, tracked
        about = {
            "time": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            "network": self.networks.get(netns, 0),
        }
        records = [
            self._drop.pack(**about, netns=netns, count=count, basis=self._basis, reason=reason)
            for reason, count in added.items()
            if count > 0
        ]
        if added[NETFILTER] > 0:
            values = {name: getattr(grown, name) for name in Tracking.__slots__}
            maximum = conntrack.maximum()
            records.insert(0, self._conntrack.pack(**about, maximum=maximum, **values))
        return records


def _read(pids: list[int], netns: int) -> tuple[dict[bytes, int], Tracking] | None:
    """None if no known process is left in the namespace."""
    for pid in pids:
        text = read_text(pid, netns)
        if text is not None:
            return parse(text), conntrack.read(pid, netns) or Tracking()
    return None


def parse(text: bytes) -> dict[bytes, int]:
    """Counts by reason. Pairs of lines: a prefix with names, the same prefix with values."""
    counts: dict[bytes, int] = {}
    lines = text.splitlines()
    for titles, values in zip(lines[::2], lines[1::2], strict=False):
        for title, value in zip(titles.split(), values.split(), strict=False):
            if title in REASONS and value.isdigit():
                counts[REASONS[title]] = int(value)
    return counts
