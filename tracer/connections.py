# SPDX-License-Identifier: Apache-2.0
"""What a reset tells of its connection: which end was the service's, what sort of reset it was, and
what was seen of the same connection at its other end.

An event knows one end. Which of the two is the service's follows from the ports: a client's is
chosen by the kernel, above those of services. Resets of one connection are found by its two
addresses; where the service's was translated on the way (DNAT), the client's is still the same at
both ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from tracer.bounded import keep
from tracer.event import Event
from tracer.identity.netns import owner_of
from tracer.probes.resets import CLOSED_PORT

if TYPE_CHECKING:
    from tracer.timeline import Entry

# Whose addresses are looked for among the resets of the last minute, as TIME_WAIT lasts.
MAX_CONNECTIONS = 1024
MINUTE_NS = 60_000_000_000
# How long a reset may be on its way between two pods of a node.
ON_THE_WAY_NS = 2_000_000_000
# From here on the kernel chooses ports for clients (net.ipv4.ip_local_port_range).
FIRST_CLIENT_PORT = 32_768
# A request that crosses the end of its connection does so within a round trip.
CROSSING_NS = 200_000_000

# What the call takes that closes a connection and resets it.
CLOSING_NS = 10_000_000

End = tuple[str | None, int | None]


class Sort(StrEnum):
    """Of a reset, as far as one end tells."""

    # sent
    CLOSED_PORT = "closed port"
    UNREAD = "closed with unread data"
    LINGER = "closed without lingering"
    NOT_ACCEPTED = "listener closed"
    OVERFLOW = "accept queue overflowed"
    CLOSED_BEFORE = "closed before"
    NO_CONNECTION = "no such connection"
    REPLY = "reply to nobody"
    DISCONNECTED = "disconnected"
    UNANSWERED = "keepalives unanswered"
    NO_MEMORY = "no memory"
    OTHER = "other"
    # received
    REFUSED = "refused"
    USED_AFTER_CLOSE = "used after close"
    ANSWERED_LATE = "answered late"
    BY_PEER = "by peer"
    # what clients do that are well, and what follows from a reset that is told already
    HARMLESS = "harmless"


_SENT = {
    "tcp_abort_on_linger": Sort.LINGER,
    "listener_closed": Sort.NOT_ACCEPTED,
    "tcp_state": Sort.DISCONNECTED,
    "tcp_disconnect_with_data": Sort.DISCONNECTED,
    "tcp_keepalive_timeout": Sort.UNANSWERED,
    "tcp_abort_on_memory": Sort.NO_MEMORY,
}
# Of a connection that the other end has closed.
_CLOSED_BY_PEER = ("CLOSE_WAIT", "LAST_ACK")


def local_end(body: dict[str, Any]) -> End:
    return body["local"]["address"], body["local"]["port"]


def remote_end(body: dict[str, Any]) -> End:
    return body["remote"]["address"], body["remote"]["port"]


def at_service(body: dict[str, Any]) -> bool:
    """Whether it happened at the service's end."""
    if body["meaning"] == CLOSED_PORT or body["state"] == "LISTEN":
        return True
    if body["reason"] == "connection_refused":
        return False
    local, remote = body["local"]["port"], body["remote"]["port"]
    if local is None or remote is None:
        return bool(body["direction"] == "sent")
    return bool(local <= remote)


def service(body: dict[str, Any]) -> int | End | None:
    """What resets of one service have in common: its port, or where it was asked for."""
    return body["local"]["port"] if at_service(body) else remote_end(body)


def sort_of(body: dict[str, Any]) -> Sort:
    return _sort_of_sent(body) if body["direction"] == "sent" else _sort_of_received(body)


def _sort_of_sent(body: dict[str, Any]) -> Sort:
    reason, served = body["reason"], at_service(body)
    answered = body.get("answered") or ()
    if body["meaning"] == CLOSED_PORT:
        return Sort.CLOSED_PORT
    if reason == "tcp_abort_on_close":  # a client that leaves, or has read as much as it wants
        return Sort.UNREAD if served else Sort.HARMLESS
    if reason == "so_linger_zero":
        return Sort.HARMLESS if not served and carried_nothing(body) else Sort.LINGER
    if reason in ("tcp_timewait_socket", "tcp_abort_on_data"):
        return Sort.CLOSED_BEFORE if served else Sort.HARMLESS
    if reason == "no_socket":
        return Sort.NO_CONNECTION if served else Sort.REPLY
    if reason == "tcp_flags" and body["state"] == "LISTEN":
        return Sort.NO_CONNECTION
    if reason == "invalid_syn" and answered and "SYN" not in answered:
        return Sort.OVERFLOW
    return _SENT.get(reason or "", Sort.OTHER)


def _sort_of_received(body: dict[str, Any]) -> Sort:
    served = at_service(body)
    if body["reason"] == "connection_refused":
        return Sort.REFUSED
    heard = idle_ns(body, "heard_ns")
    if body["state"] in _CLOSED_BY_PEER:
        if not served:
            return Sort.USED_AFTER_CLOSE
        if heard is not None:
            return Sort.ANSWERED_LATE if heard >= CROSSING_NS else Sort.HARMLESS
    if served and carried_nothing(body):  # a health check that connects and closes
        return Sort.HARMLESS
    if served and (body.get("bytes") or {}).get("unacknowledged"):  # a client that leaves
        return Sort.HARMLESS
    return Sort.BY_PEER


def idle_ns(body: dict[str, Any], since: str) -> int | None:
    """`since` is one of the keys of `idle`; None where that is not known."""
    ns: int | None = (body.get("idle") or {}).get(since)
    return ns


def carried_nothing(body: dict[str, Any]) -> bool:
    """Whether it is known that no data went over it, either way."""
    carried = body.get("bytes")
    return carried is not None and not (carried["sent"] or carried["received"])


@dataclass(slots=True, eq=False)
class Seen:
    """A reset at one end, the entry that it went to, and what was seen at the other end of the same
    connection. `asked` is whom the client had really asked from that port, where somebody else
    answered; `overtaken` by one that follows from it, which was told first: the kernel tells of a
    reset of its own after it has sent it."""

    event: Event
    sort: Sort
    entry: Entry | None = None
    other: Seen | None = None
    asked: End | None = None
    overtaken: Seen | None = None


class Connections:
    """The resets of the last minute, bounded. Both tables hold the same ones: by both ends, and by
    the client's and whether they were seen there."""

    def __init__(self) -> None:
        self._by_ends: dict[tuple[End, End], Seen] = {}
        self._by_client: dict[tuple[End, bool], Seen] = {}

    def add(self, event: Event) -> Seen:
        """`other` and `asked` are set in both that belong together."""
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
    def _follows(event: Event, before: Seen | None) -> bool:
        """What was on its way when the connection was reset is answered with resets, too, and so is
        what the other end sends that has not heard of it."""
        answered = event.body.get("answered") or ()
        return (
            before is not None
            and bool(answered)
            and "SYN" not in answered
            and event.boot_ns - before.event.boot_ns < MINUTE_NS
        )


def _overtook(before: Seen, event: Event) -> bool:
    """Whether a reset that answers a packet to nobody came within the call that closed."""
    return (
        before.sort in (Sort.REPLY, Sort.NO_CONNECTION)
        and event.body["direction"] == "sent"
        and not event.body.get("answered")
        and event.boot_ns - before.event.boot_ns < CLOSING_NS
    )


def _compare(seen: Seen, before: Seen | None) -> None:
    """A client that resets what one says who was not asked, and is then reset by whom it asked."""
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
    """The client's end, where the ports leave no doubt."""
    low, high = sorted((here, there), key=lambda end: end[1] or 0)
    if low[1] and high[1] and low[1] < FIRST_CLIENT_PORT <= high[1]:
        return high
    return None


def _is_same_reset(one: Event, other: Event) -> bool:
    """Of one connection. A loopback address is another in each pod."""
    if one.body["direction"] == other.body["direction"]:
        return False
    if abs(one.boot_ns - other.boot_ns) > ON_THE_WAY_NS:
        return False
    address = one.body["local"]["address"] or ""
    if not address.startswith("127.") and address != "::1":
        return True
    owners = [owner_of(event.place) if event.place else None for event in (one, other)]
    return owners[0] == owners[1]
