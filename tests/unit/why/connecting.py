# SPDX-License-Identifier: Apache-2.0
"""Stories of connects that fail, as tests.unit.why.test_causes has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.unit.why.network import HERE, THERE
from tests.unit.why.world import NETWORK, SECOND, World
from tracer.model.event import Event, Place, Process

Tell = Callable[[World], Any]


def connect(
    w: World,
    error: str | None,
    *,
    errno: str | None = None,
    answer: str | None = None,
    syns: int = 7,
    seconds: float = 127,
    port: int = 80,
    remote: str = THERE,
    who: Process | None = None,
    peer: Place | None = None,
    client: int | None = 40000,
) -> Event:
    body = {
        "error": error,
        "errno": errno,
        "answer": answer,
        "syns": syns,
        "duration_ns": int(seconds * SECOND) if syns else None,
        "local": {"address": HERE, "port": client, "pod": NETWORK},
        "remote": {"address": remote, "port": port, "pod": peer},
        "process": who,
    }
    return w.add(Event("connect_failure", w.now, who, None, body, NETWORK, peer))


def told(error: str | None, **values: Any) -> Tell:
    return lambda w: connect(w, error, **values)


def unanswered(w: World, **values: Any) -> None:
    connect(w, "unanswered", syns=3, seconds=3, **values)


def until_its_end(error: str, **values: Any) -> Tell:
    """An attempt that is told while it lasts, and at its end."""

    def tell(w: World) -> None:
        unanswered(w)
        connect(w, error, **values)

    return tell


STORIES: dict[str, tuple[Tell, str, str]] = {
    "nobody answers": (until_its_end("timeout", errno="ETIMEDOUT"), "connect_timeout", "certain"),
    "nobody answers two SYNs": (told("timeout", syns=2), "connect_timeout", "certain"),
    "nobody has answered yet": (unanswered, "connect_timeout", "certain"),
    "nobody answers in time": (
        until_its_end("given_up", syns=3, seconds=5),
        *("connect_timeout", "certain"),
    ),
    "no local port": (
        told("no_local_port", syns=0, client=None),
        *("no_local_port", "certain"),
    ),
    "no neighbour": (
        told("unreachable", errno="EHOSTUNREACH", answer="icmp", syns=3, seconds=3),
        *("no_route_to_peer", "certain"),
    ),
    "no route of IPv6": (
        told(
            "unreachable", errno="ENETUNREACH", answer="icmp", syns=1, seconds=0, remote="fd00::1"
        ),
        *("no_route_to_peer", "likely"),
    ),
    "rejected by ICMP": (
        told("refused", errno="ECONNREFUSED", answer="icmp", syns=1, seconds=0),
        *("connect_refused", "likely"),
    ),
}
