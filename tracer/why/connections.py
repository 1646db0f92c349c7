# SPDX-License-Identifier: Apache-2.0
"""Matches the two ends of a reset connection.

Resets of one connection are matched by its two addresses. If the service's address was translated
on the way (DNAT), the client's is still the same at both ends.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracer.identity.netns import owner_of
from tracer.model.bounded import keep
from tracer.model.event import Event
from tracer.probes.resets import ResetBody
from tracer.why.entry import Entry
from tracer.why.sorts import FIRST_CLIENT_PORT, End, Sort, local_end, remote_end, sort_of

# How many connections are kept, and for how long: a minute, as TIME_WAIT lasts.
MAX_CONNECTIONS = 1024
MINUTE_NS = 60_000_000_000
# How long a reset may travel between two pods of a node.
ON_THE_WAY_NS = 2_000_000_000

# How long the call takes that closes a connection and resets it.
CLOSING_NS = 10_000_000


@dataclass(slots=True, eq=False)
class Seen:
    """A reset at one end, its entry, and the reset seen at the other end of the same connection.

    `asked` is the end that the client had connected to from that port, if another one answered.
    `overtaken` is a consequence of this reset that was reported first, because the kernel reports
    its own resets after sending them.
    """

    event: Event[ResetBody]
    sort: Sort
    entry: Entry[ResetBody] | None = None
    other: Seen | None = None
    asked: End | None = None
    overtaken: Seen | None = None


class Connections:
    """The resets of the last minute, bounded. One table is keyed by both ends, the other by the
    client's end and whether the reset was seen there."""

    def __init__(self) -> None:
        self._by_ends: dict[tuple[End, End], Seen] = {}
        self._by_client: dict[tuple[End, bool], Seen] = {}

    def add(self, event: Event[ResetBody]) -> Seen:
        """Sets `other` and `asked` in both resets that belong together."""
        body = event.body
        here, there = local_end(body), remote_end(body)
        client = _client_of(here, there)
        seen = Seen(event, sort_of(body))
        before = self._by_ends.get((here, there))
        if self._follows(event, before):
            seen.sort = Sort.HARMLESS
        elif before is not None and _overtook(before, event):
            before.sort = Sort.HARMLESS
            seen.overtaken = before
        other = self._by_ends.get((there, here))
        if client is not None:
            other = other or self._by_client.get((client, client != here))
            _compare(seen, self._by_client.get((client, client == here)))
            keep(self._by_client, (client, client == here), seen, MAX_CONNECTIONS)
        keep(self._by_ends, (here, there), seen, MAX_CONNECTIONS)
        if other is not None and other.other is None and _is_same_reset(event, other.event):
            seen.other, other.other = other, seen
        return seen

    @staticmethod
    def _follows(event: Event[ResetBody], before: Seen | None) -> bool:
        """Whether the reset only answers packets of a connection that was reset before: packets in
        flight, or sent before the other end knew."""
        answered = event.body.get("answered") or ()
        return (
            before is not None
            and bool(answered)
            and "SYN" not in answered
            and event.boot_ns - before.event.boot_ns < MINUTE_NS
        )


def _overtook(before: Seen, event: Event[ResetBody]) -> bool:
    """Whether a reset that answers an unknown packet came within the call that closed the
    connection."""
    return (
        before.sort in (Sort.REPLY, Sort.NO_CONNECTION)
        and event.body["direction"] == "sent"
        and not event.body.get("answered")
        and event.boot_ns - before.event.boot_ns < CLOSING_NS
    )


def _compare(seen: Seen, before: Seen | None) -> None:
    """Sets `asked` for a client that resets the reply of a stranger and is then reset by the end it
    had asked."""
    if before is None or seen.event.boot_ns - before.event.boot_ns > MINUTE_NS:
        return
    for reply, own in ((seen, before), (before, seen)):
        asked = remote_end(own.event.body)
        received = own.event.body["direction"] == "received"
        if reply.sort is Sort.REPLY and received and asked != remote_end(reply.event.body):
            reply.asked = asked
            if reply.entry is not None:
                reply.entry.asked = asked


def _client_of(here: End, there: End) -> End | None:
    """The client's end, if the ports identify it."""
    low, high = sorted((here, there), key=lambda end: end[1] or 0)
    if low[1] and high[1] and low[1] < FIRST_CLIENT_PORT <= high[1]:
        return high
    return None


def _is_same_reset(one: Event[ResetBody], other: Event[ResetBody]) -> bool:
    """Whether both are the same reset of one connection. Each pod has its own loopback
    addresses."""
    if one.body["direction"] == other.body["direction"]:
        return False
    if abs(one.boot_ns - other.boot_ns) > ON_THE_WAY_NS:
        return False
    address = one.body["local"]["address"] or ""
    if not address.startswith("127.") and address != "::1":
        return True
    owners = [owner_of(event.place) if event.place else None for event in (one, other)]
    return owners[0] == owners[1]
