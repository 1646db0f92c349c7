# SPDX-License-Identifier: Apache-2.0
"""What this node has dropped of other pods' connections: a connect that nobody answers may be one
of them. A pod's own story has only what was dropped in its network, or on the way from it.

The two addresses of a packet identify its connection. If the address that the client had asked was
translated on the way (DNAT), the client's end is still the same. A SYN at a full queue is no
dropped packet for the kernel; there the listener's pod and port identify the connection.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from tracer.identity.netns import owner_of
from tracer.model.bounded import keep
from tracer.model.event import Event, Place
from tracer.probes.backlog import DropBody, is_backlog_drop
from tracer.probes.connects import ConnectBody
from tracer.probes.drops import PacketBody, is_drop
from tracer.why.entry import Entry

# Sorts of packets by pod, reason and addresses; queues; clients' ends.
MAX_DROPPED = 256
# The kernel tells to the millisecond how long a connect took.
ROUNDED_NS = 1_000_000


Key = tuple[Hashable, ...]


class Dropped:
    """The latest ones, bounded. `blind_ns` is the time of the last drop of which it is not known
    whose it was, or that had to be forgotten."""

    def __init__(self) -> None:
        self._packets: dict[Key, Entry[PacketBody]] = {}
        self._queues: dict[Key, Entry[DropBody]] = {}
        self._clients: dict[Key, Entry[PacketBody]] = {}
        self.blind_ns = 0

    def add(self, event: Event) -> None:
        if is_drop(event):
            self._add_packet(event)
        elif is_backlog_drop(event):
            listener = _owner(event.place), event.body["local"]["port"]
            self._put(self._queues, listener, event, event.body["count"])

    def packets(self, entry: Entry[ConnectBody], own: Place) -> list[Entry[PacketBody]]:
        """What was dropped of an entry's connections while they were tried, but not what the story
        of its `own` pod tells."""
        pairs, clients = set(), set()
        for event in (entry.event, entry.last):
            local, remote = event.body["local"], event.body["remote"]
            pairs.add(frozenset((local["address"], remote["address"])))
            clients.add((local["address"], local["port"]))
        theirs = {self._clients[end] for end in clients & self._clients.keys()}
        return [
            found
            for (owner, _, pair), found in self._packets.items()
            if (pair in pairs or found in theirs)
            and owner != owner_of(own)
            and _is_within(found, entry)
        ]

    def queues(self, entry: Entry[ConnectBody]) -> list[Entry[DropBody]]:
        """The full queues that turned an entry's connections away."""
        owner, port = _owner(entry.last.by_place), entry.body["remote"]["port"]
        found = self._queues.get((owner, port)) if owner else None
        return [found] if found is not None and _is_within(found, entry) else []

    def saw_all(self, entry: Entry[ConnectBody], since_ns: int) -> bool:
        """Whether nothing that was dropped since it began was overlooked, if it was looked at
        `since_ns`."""
        return max(self.blind_ns, since_ns) < _began_ns(entry)

    def _add_packet(self, event: Event[PacketBody]) -> None:
        body = event.body
        source, destination = body["source"], body["destination"]
        if source["address"] is None or destination["address"] is None:
            if body["count"] > 1 and body["protocol"] in ("tcp", None):
                self.blind_ns = event.boot_ns  # several addresses have one record
            return
        if body["protocol"] != "tcp":
            return
        pair = frozenset((source["address"], destination["address"]))
        key = _owner(event.place), body["reason"], pair
        entry = self._put(self._packets, key, event, body["count"])
        for end in (source, destination):
            if end["port"] is not None:
                keep(self._clients, (end["address"], end["port"]), entry, MAX_DROPPED)

    def _put(self, entries: dict[Key, Any], key: Key, event: Event[Any], count: int) -> Entry[Any]:
        """The newest are last."""
        entry: Entry[Any] | None = entries.pop(key, None)
        if entry is not None:
            entry.repeat(event, event.boot_ns, count)
        else:
            entry = Entry(event, event.boot_ns, event, event.boot_ns, count)
            if len(entries) >= MAX_DROPPED:
                oldest = entries.pop(next(iter(entries)))
                self.blind_ns = max(self.blind_ns, oldest.last_ns)
        entries[key] = entry
        return entry


def _owner(place: Place | None) -> str | None:
    return owner_of(place) if place else None


def _began_ns(entry: Entry[ConnectBody]) -> int:
    """When the first of its attempts began at the earliest, as far as its first event tells."""
    return entry.boot_ns - (entry.body["duration_ns"] or 0) - ROUNDED_NS


def _is_within(dropped: Entry, entry: Entry[ConnectBody]) -> bool:
    return dropped.last_ns >= _began_ns(entry) and dropped.boot_ns <= entry.last_ns
