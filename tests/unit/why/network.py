# SPDX-License-Identifier: Apache-2.0
"""Stories of reset connections and full queues, as tests.unit.why.test_causes has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.unit.why.world import HOST, MS, NETWORK, SECOND, World, place_of
from tracer.model.event import Event, Place
from tracer.model.names import Pod

Tell = Callable[[World], Any]

VIP = "10.96.0.1"
HERE, THERE = "198.18.0.2", "198.18.0.1"
PEER_UID = "11111111-7c78-4389-a89c-9c971211370b"


def pod_of(name: str, uid: str) -> Place:
    place = place_of(None, uid=uid)
    return replace(place, pod=Pod(uid, "shop", name, {}))


# The other pod, which `THERE` is, and web-0 asks or is asked by.
PEER = pod_of("back-0", PEER_UID)


def idle(
    sent: int = 0, received: int = 3 * SECOND, heard: int = SECOND, ended: int | None = None
) -> dict[str, int | None]:
    return {"sent_ns": sent, "received_ns": received, "heard_ns": heard, "ended_ns": ended}


def carried(sent: int = 100, received: int = 100, unacknowledged: int = 0) -> dict[str, int]:
    return {"sent": sent, "received": received, "unacknowledged": unacknowledged}


def both(
    w: World,
    reason: str | None,
    meaning: str | None = None,
    *,
    client: int = 40000,
    asks: bool = True,
    sent: dict[str, Any] | None = None,
    **received: Any,
) -> tuple[Event, Event]:
    """A reset that web-0 receives and back-0 sends; `asks` says that web-0 is the client."""
    port, remote = (client, 80) if asks else (80, client)
    got = w.reset(
        "received",
        *(("connection_refused",) if meaning == "closed port" else (None,)),
        port=port,
        remote=remote,
        peer=PEER,
        **received,
    )
    gave = w.reset(
        "sent",
        reason,
        meaning,
        port=remote,
        remote=port,
        place=PEER,
        peer=NETWORK,
        ends=(THERE, HERE),
        **(sent or {}),
    )
    return got, gave


def told(direction: str, *arguments: Any, **values: Any) -> Tell:
    return lambda w: w.reset(direction, *arguments, **values)


def refused(w: World) -> None:
    """By another pod that is asked about, too: it is made no life of its own here."""
    w.timelines.mine = lambda event: event.place is NETWORK
    both(w, "no_socket", "closed port")


def by_peer(w: World, reason: str = "so_linger_zero", **values: Any) -> None:
    w.timelines.mine = lambda event: event.place is NETWORK
    both(w, reason, **values)


def untranslated(w: World) -> None:
    w.reset(
        "sent", "no_socket", port=40000, remote=8080, ends=(HERE, THERE), answered=["PSH", "ACK"]
    )
    w.reset("received", None, port=40000, remote=80, ends=(HERE, VIP))


def keepalive_race(w: World, **values: Any) -> None:
    w.timelines.mine = lambda event: event.place is NETWORK
    both(w, "tcp_timewait_socket", state="CLOSE_WAIT", idle=idle(), bytes=carried(), **values)


def young(w: World) -> None:
    w.at(20_000)
    place = replace(NETWORK, began=w.now - 7 * SECOND)
    w.reset("sent", "tcp_flags", state="LISTEN", answered=["ACK"], place=place)


STORIES: dict[str, tuple[Tell, str, str]] = {
    "closed port": (told("sent", "no_socket", "closed port"), "closed_port", "certain"),
    "accept": (lambda w: w.drop("accept"), "accept_queue_full", "certain"),
    "accept, by reset alone": (
        told("sent", "invalid_syn", state="LISTEN", answered=["ACK"]),
        *("accept_queue_full", "likely"),
    ),
    "a SYN in between": (
        told("sent", "invalid_syn", "unexpected SYN", state="LISTEN", answered=["SYN"]),
        *("reset_sent", "certain"),
    ),
    "syn": (lambda w: w.drop("syn"), "syn_queue_full", "certain"),
    "unread": (told("sent", "tcp_abort_on_close"), "reset_unread", "certain"),
    "unread, inferred": (
        told("sent", "tcp_abort_on_close", inferred=True),
        *("reset_unread", "likely"),
    ),
    "linger": (told("sent", "so_linger_zero", inferred=True), "reset_linger", "likely"),
    "peer, as both ends say": (by_peer, "reset_by_peer", "certain"),
    "peer": (told("received", None), "reset_by_peer", "likely"),
    "not the peer": (told("received", None, peer=PEER), "not_by_peer", "likely"),
    "refused, as both ends say": (refused, "refused_by_peer", "certain"),
    "refused": (
        told("received", "connection_refused", inferred=True, port=40000, remote=80),
        *("refused_by_peer", "likely"),
    ),
    "refused by a firewall": (
        told("received", "connection_refused", inferred=True, port=40000, remote=80, peer=PEER),
        *("not_by_peer", "likely"),
    ),
    "keep-alive, as both ends say": (keepalive_race, "used_after_close", "certain"),
    "keep-alive": (
        told("received", None, state="CLOSE_WAIT", port=40000, remote=80, idle=idle()),
        *("used_after_close", "likely"),
    ),
    "keep-alive, of the server": (
        told("sent", "tcp_timewait_socket", answered=["PSH", "ACK"], state="TIME_WAIT"),
        *("closed_before_use", "certain"),
    ),
    "answered late": (
        told("received", None, state="CLOSE_WAIT", idle=idle(), bytes=carried()),
        *("answered_late", "likely"),
    ),
    "listener": (told("sent", "listener_closed", inferred=True), "listener_closed", "likely"),
    "keepalives": (told("sent", "tcp_keepalive_timeout"), "keepalive_unanswered", "certain"),
    "disconnected": (told("sent", "tcp_state"), "disconnected", "certain"),
    "no memory": (told("sent", "tcp_abort_on_memory"), "out_of_tcp_memory", "certain"),
    "another reason": (told("sent", "tcp_old_ack", "old acknowledgement"), "reset_sent", "certain"),
    "no reason": (told("sent", None), "reset_sent", "unknown"),
    "a connection that is unknown": (
        told("sent", "no_socket", "no such connection", answered=["ACK"]),
        *("no_such_connection", "certain"),
    ),
    "a connection of a former pod": (young, "connection_of_former_pod", "likely"),
    "a reply to nobody": (
        told("sent", "no_socket", port=40000, remote=8080, answered=["ACK"]),
        *("no_such_connection", "certain"),
    ),
    "a reply that was not translated": (untranslated, "reply_not_translated", "likely"),
    "the first reply, not translated": (
        told("sent", "no_socket", port=40000, remote=8080, answered=["SYN", "ACK"]),
        *("reply_not_translated", "likely"),
    ),
}

# What is told in the stream and hurts nobody.
HARMLESS: dict[str, Tell] = {
    "a check that connects and resets": told(
        "received", None, state="ESTABLISHED", bytes=carried(0, 0)
    ),
    "its own end": told(
        "sent", "so_linger_zero", port=40000, remote=80, bytes=carried(0, 0), peer=PEER
    ),
    "a client that has read enough": told("sent", "tcp_abort_on_close", port=40000, remote=80),
    "a download that the client gives up": told(
        "received", None, state="ESTABLISHED", bytes=carried(5000, 100, unacknowledged=3000)
    ),
    "a download that the client ends": told(
        *("received", None),
        state="CLOSE_WAIT",
        idle=idle(0, 30 * SECOND, 5 * MS),
        bytes=carried(5000, 100),
    ),
    "a client that leaves, as its own end says": lambda w: by_peer(
        w, "tcp_abort_on_close", asks=False, state="ESTABLISHED", bytes=carried()
    ),
    "data for a client that has closed": told(
        "sent", "tcp_abort_on_data", port=40000, remote=80, answered=["ACK"]
    ),
    "in nobody's pod": lambda w: w.reset("sent", "no_socket", "closed port", place=HOST),
}
