# SPDX-License-Identifier: Apache-2.0
"""An event in a network namespace of which nothing has been told waits for it, but not for ever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tracer.backends.objects import Objects
from tracer.identity.netns import How
from tracer.model.batch import cell
from tracer.model.event import Clock, Event
from tracer.model.schema import Schema
from tracer.model.selection import Selection
from tracer.model.turn import Lost, Part, Turn
from tracer.probes import get
from tracer.session.session import Session

UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
CGROUP, NETWORK, NETNS = 100, 7, 4026532000
MS = 1_000_000


class Sink:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def event(self, event: Event) -> None:
        self.events.append(event)

    def flush(self) -> None: ...


class Source:
    def __init__(self) -> None:
        objects = Objects()
        for name in ("context", "network", "resets"):
            objects.open(name)
        self.schemas: Mapping[int, Schema] = objects.schemas
        self.by_name = objects.by_name()

    def turn(self, waiting: bool, patience: float) -> Turn:
        raise NotImplementedError

    def ask(self, cgroup: int) -> None: ...

    def check(self, cgroups: Sequence[int]) -> bool:
        return True

    def select(self, cgroup: int, verdict: int) -> None: ...

    def stop(self) -> None: ...

    def close(self) -> None: ...

    def part(self, name: str, **values: Any) -> Part:
        schema = self.by_name[name]
        return Part(schema.kind, 1, cell(schema.pack(**values)))


class World:
    def __init__(self) -> None:
        self.source, self.sink = Source(), Sink()
        self.session = Session(
            self.source, [get("resets")], Selection(everything=True), self.sink, Clock(0)
        )
        path = b"".join(name + b"\0" for name in (b"c" * 64, b"pod" + UID.encode(), b"kubepods"))
        described = {"cgroup": CGROUP, "path": path, "path_bytes": len(path), "path_whole": 1}
        self.turn(0, self.source.part("cgroup", **described))
        self.turn(1001)  # nobody waits for its name any more

    def turn(self, ms: int, *parts: Part, **told: Any) -> None:
        self.session.take(Turn(ms * MS, parts, **told))

    def reset(self, ms: int, network: int) -> Part:
        return self.source.part("tcp_reset", time=ms * MS, network=network, netns=NETNS, sent=1)

    def use(self, how: How = How.AT_HOME) -> Part:
        told = {"network": NETWORK, "netns": NETNS, "cgroup": CGROUP, "how": how}
        return self.source.part("network", **told)

    @property
    def told(self) -> list[tuple[int, str | None]]:
        places = [
            (event.boot_ns // MS, event.place.identity.pod_uid if event.place else None)
            for event in self.sink.events
        ]
        assert all(event.again is None for event in self.sink.events)
        return places


@pytest.fixture
def world() -> World:
    return World()


def test_until_it_is_told(world: World) -> None:
    world.turn(2010, world.reset(2000, NETWORK))
    world.turn(2500, world.reset(2499, 0))  # what follows keeps its place
    assert world.told == []
    assert world.session.waiting
    world.turn(2510, world.use())
    assert world.told == [(2000, UID), (2499, None)]
    world.turn(2530, world.reset(2520, NETWORK))
    assert world.told[2:] == [(2520, UID)]


def test_a_second_at_most(world: World) -> None:
    world.turn(2010, world.reset(2000, NETWORK))
    world.turn(2999)
    assert world.told == []
    world.turn(3000)
    assert world.told == [(2000, None)]


def test_not_beyond_the_end(world: World) -> None:
    world.turn(2010, world.reset(2000, NETWORK), last=True)
    assert world.told == [(2000, None)]


def test_what_is_told_in_the_same_turn(world: World) -> None:
    world.turn(2010, world.reset(2000, NETWORK), world.use())
    assert world.told == [(2000, UID)]


def test_lost_records_of_a_namespace_are_no_lost_events(world: World) -> None:
    world.turn(2010, lost=Lost(0, {"network": 23, "tcp_reset": 5}))
    assert (world.session.summary.lost, world.session.summary.undescribed) == (5, 23)
    assert [event.body["count"] for event in world.sink.events] == [5]


def test_what_turned_out_to_be_no_event_is_not_told(world: World) -> None:
    """Nor does anything wait for it, also where it waited itself."""
    fin_wait, close = 4, 7
    part = world.source.part
    for at, network in ((2000, 0), (2100, NETWORK)):
        ours = {"time": at * MS, "network": network, "netns": NETNS}
        world.turn(
            at + 10,
            part("tcp_reset", state=fin_wait, **ours),
            part("tcp_reset", sent=1, state=close, reason=b"TCP_ABORT_ON_DATA", **ours),
        )
    world.turn(2150, world.use())
    # the two may come in different turns
    world.turn(2210, part("tcp_reset", state=fin_wait, time=2200 * MS, netns=NETNS))
    sent = {"sent": 1, "state": close, "reason": b"TCP_ABORT_ON_DATA"}
    world.turn(2220, part("tcp_reset", **sent, time=2215 * MS, netns=NETNS))
    world.turn(2300)
    assert [at for at, _ in world.told] == [2000, 2100, 2215]
    assert [event.body["direction"] for event in world.sink.events] == ["sent"] * 3
    # and one that was received waits no longer than such a call can take
    world.turn(2310, part("tcp_reset", state=fin_wait, time=2305 * MS, netns=NETNS))
    assert len(world.told) == 3
    world.turn(2356)
    assert [at for at, _ in world.told[3:]] == [2305]
