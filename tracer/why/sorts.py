# SPDX-License-Identifier: Apache-2.0
"""What a reset reveals about its connection: which end is the service's, and the sort of the reset.

An event knows only one end. The ports show which one is the service's: the kernel chooses client
ports above the ports of services.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal

from tracer.probes.resets import CLOSED_PORT, ResetBody

# The kernel chooses client ports from here on (net.ipv4.ip_local_port_range).
FIRST_CLIENT_PORT = 32_768

# A request that crosses the end of its connection does so within one round trip.
CROSSING_NS = 200_000_000

End = tuple[str | None, int | None]
Since = Literal["sent_ns", "received_ns", "heard_ns", "ended_ns"]


class Sort(str, Enum):
    """The sort of a reset, as far as one end shows."""

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
    # normal client behaviour, and consequences of a reset that is already reported
    HARMLESS = "harmless"

    __str__ = str.__str__


_SENT = {
    "tcp_abort_on_linger": Sort.LINGER,
    "listener_closed": Sort.NOT_ACCEPTED,
    "tcp_state": Sort.DISCONNECTED,
    "tcp_disconnect_with_data": Sort.DISCONNECTED,
    "tcp_keepalive_timeout": Sort.UNANSWERED,
    "tcp_abort_on_memory": Sort.NO_MEMORY,
}

# States of connections that the other end has closed.
_CLOSED_BY_PEER = ("CLOSE_WAIT", "LAST_ACK")


def local_end(body: ResetBody) -> End:
    return body["local"]["address"], body["local"]["port"]


def remote_end(body: ResetBody) -> End:
    return body["remote"]["address"], body["remote"]["port"]


def at_service(body: ResetBody) -> bool:
    """Whether the reset happened at the service's end."""
    if body["meaning"] == CLOSED_PORT or body["state"] == "LISTEN":
        return True
    if body["reason"] == "connection_refused":
        return False
    local, remote = body["local"]["port"], body["remote"]["port"]
    if local is None or remote is None:
        return bool(body["direction"] == "sent")
    return bool(local <= remote)


def service(body: ResetBody) -> int | End | None:
    """What resets of one service share: its port, or the address that was asked."""
    return body["local"]["port"] if at_service(body) else remote_end(body)


def sort_of(body: ResetBody) -> Sort:
    return _sort_of_sent(body) if body["direction"] == "sent" else _sort_of_received(body)


def _sort_of_sent(body: ResetBody) -> Sort:
    reason, served = body["reason"], at_service(body)
    answered = body.get("answered") or ()
    if body["meaning"] == CLOSED_PORT:
        return Sort.CLOSED_PORT
    if reason == "tcp_abort_on_close":  # a client that leaves, or that has read enough
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


def _sort_of_received(body: ResetBody) -> Sort:
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
    carried = body.get("bytes")
    if served and carried and carried["unacknowledged"]:  # a client that leaves
        return Sort.HARMLESS
    return Sort.BY_PEER


def idle_ns(body: ResetBody, since: Since) -> int | None:
    """How long the connection was idle; None if not known."""
    idle = body.get("idle")
    return idle[since] if idle else None


def carried_nothing(body: ResetBody) -> bool:
    """Whether it is known to have carried no data in either direction."""
    carried = body.get("bytes")
    return carried is not None and not (carried["sent"] or carried["received"])
