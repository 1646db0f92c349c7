# SPDX-License-Identifier: Apache-2.0
"""An API server that is away for an hour, slow, overloaded, or refuses: what the publisher of
Events and its queue make of it together. Hours take no time: who waits moves the clock on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest

from tests.support.wait import wait_for
from tests.unit.kubernetes.server import Answer, Asked, serving
from tracer.agent import outlet as module
from tracer.agent.item import Item, Life, Severity
from tracer.agent.outlet import LAST_PAUSE, MAX_QUEUE, Outlet
from tracer.agent.publishers.events import RBAC, EventsSender
from tracer.kubernetes.access import Access
from tracer.kubernetes.client import Client

HOUR = 3600.0
NS = 1_000_000_000
NOON = 1_700_000_000 * NS
LIFE = Life("uid", "shop", "web-0", "app", "a" * 64, "containerd", exit_code=137)
NO_RIGHTS = 'User "x" cannot create resource "events"'


class Clock:
    """It stands still at `until`, and so does who waits for later, until `go_on`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.until = float("inf")
        self.reached, self.go_on = threading.Event(), threading.Event()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self.until:
            self.reached.set()
            assert self.go_on.wait(60)


class Passing(threading.Condition):
    """Waiting for a time moves the clock; waiting for news is waiting."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is None:
            return super().wait()
        self.release()
        try:
            self._clock.wait(timeout)
        finally:
            self.acquire()
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    yield clock
    clock.go_on.set()


class Publishing:
    def __init__(
        self, access: Access, clock: Clock, most: int = MAX_QUEUE, seconds: float = 10.0
    ) -> None:
        self.said: list[str] = []
        sender = EventsSender(Client(access, seconds), "node1", lambda: clock.now)
        self.line = Outlet("events", sender, self.said.append, most=most)
        self.line._changed = Passing(clock)
        self.line.start()

    def tell(self, first: int, last: int) -> None:
        """A verdict on each of so many pods, a second after the other."""
        for number in range(first, last):
            life = replace(LIFE, pod_uid=f"uid-{number}", pod=f"web-{number}")
            told = {"verdict": "oom", "sentence": "x", "certainty": "certain", "headline": "Oom"}
            json = orjson.dumps(told)
            self.line.accept(Item("verdict", NOON + number * NS, Severity.WARN, "x", json, life))

    def sent(self, count: int) -> None:
        wait_for("all to be sent", lambda: self.line.counts.sent == count)

    def stop(self) -> None:
        self.line.stop(0)


def made(asked: list[Asked]) -> list[tuple[str, str]]:
    """Of each Event: the pod, and when it died."""
    every = [one.body for one in asked if one.method == "POST"]
    return [(body["involvedObject"]["name"], body["firstTimestamp"]) for body in every]


def always(asked: Asked) -> Answer:
    return Answer(201, {})


def test_it_is_away_for_an_hour(clock: Clock) -> None:
    """It is asked about once a minute, said once, and gets all of it afterwards, with the times of
    the deaths."""
    with serving(always) as server:
        access, port = server.access, server.server_address[1]
    clock.until = HOUR
    publishing = Publishing(access, clock)
    publishing.tell(0, 40)
    assert clock.reached.wait(60)
    counts = publishing.line.counts
    assert (counts.sent, counts.dropped, counts.queued) == (0, 0, 40)
    assert HOUR / LAST_PAUSE <= counts.retried <= 2 * HOUR / LAST_PAUSE + 10
    (words,) = publishing.said
    assert "cannot be reached" in words and "tracing goes on" in words
    with serving(always, int(port)) as server:
        clock.go_on.set()
        publishing.sent(40)
        told = made(server.asked)
    assert [name for name, _ in told] == [f"web-{number}" for number in range(40)]
    assert (told[0][1], told[39][1]) == ("2023-11-14T22:13:20Z", "2023-11-14T22:13:59Z")
    assert publishing.line.counts.dropped == 0
    publishing.stop()


def test_what_an_hour_leaves_no_room_for_is_counted(clock: Clock) -> None:
    with serving(always) as server:
        access, port = server.access, server.server_address[1]
    clock.until = HOUR
    publishing = Publishing(access, clock, most=20_000)
    publishing.tell(0, 1000)
    assert clock.reached.wait(60)
    counts = publishing.line.counts
    assert counts.dropped > 0 and counts.queued_bytes <= 20_000
    assert counts.dropped + counts.queued == 1000
    with serving(always, int(port)) as server:
        clock.go_on.set()
        wait_for("the rest", lambda: publishing.line.counts.queued == 0)
        counts = publishing.line.counts
        assert counts.sent == len(made(server.asked)) > 0
        assert counts.sent + counts.dropped == 1000
        clock.now += 10
        publishing.tell(1000, 1001)
        publishing.sent(counts.sent + 1)
    publishing.stop()


def test_it_asks_for_a_pause(clock: Clock) -> None:
    """429 with Retry-After."""
    times: list[float] = []

    def act(asked: Asked) -> Answer:
        times.append(clock.now)
        if len(times) < 4:
            return Answer(429, {"message": "too many requests"}, {"Retry-After": "30"})
        return Answer(201, {})

    with serving(act) as server:
        publishing = Publishing(server.access, clock)
        publishing.tell(0, 1)
        publishing.sent(1)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert len(pauses) == 3 and all(30 <= pause <= 31 for pause in pauses)
    assert publishing.line.counts.retried == 3
    (words,) = publishing.said
    assert "429 “too many requests”" in words
    publishing.stop()


def test_it_is_slow(clock: Clock) -> None:
    """The first attempt came through although nobody waited for the answer: that is no second
    Event."""
    slow, names = threading.Event(), set[str]()

    def act(asked: Asked) -> Answer:
        name = asked.body["metadata"]["name"]
        if name in names:
            return Answer(409, {"message": "already exists"})
        names.add(name)
        slow.wait(60)
        return Answer(201, {})

    with serving(act) as server:
        publishing = Publishing(server.access, clock, seconds=0.2)
        began = time.monotonic()
        publishing.tell(0, 1)
        publishing.sent(1)
        assert time.monotonic() - began < 30
        slow.set()
    assert len(names) == 1 and publishing.line.counts.retried == 1
    (words,) = publishing.said
    assert "does not answer in time" in words
    publishing.stop()


def test_its_token_expires_and_is_rotated(clock: Clock, tmp_path: Path) -> None:
    """What was not let in waits for the next token, and who was told is not told again."""
    token = tmp_path / "token"
    token.write_text("old")
    clock.until = HOUR

    def act(asked: Asked) -> Answer:
        valid = asked.token == "Bearer new"
        return Answer(201, {}) if valid else Answer(401, {"message": "Unauthorized"})

    with serving(act) as server:
        access = Access(server.access.server, token_file=token)
        publishing = Publishing(access, clock)
        publishing.tell(0, 3)
        assert clock.reached.wait(60)
        assert publishing.line.counts.queued == 3
        token.write_text("new\n")
        clock.go_on.set()
        publishing.sent(3)
    (words,) = publishing.said
    assert "401 “Unauthorized”; the token is wrong or has expired; tracing goes on" in words
    assert publishing.line.counts.dropped == 0
    publishing.stop()


def test_it_gives_no_rights_and_then_some(clock: Clock) -> None:
    may = False

    def act(asked: Asked) -> Answer:
        message = f"{NO_RIGHTS} in the namespace {asked.body['metadata']['name'] * 20!r}"
        return Answer(201, {}) if may else Answer(403, {"message": message})

    with serving(act) as server:
        publishing = Publishing(server.access, clock)
        publishing.tell(0, 5)
        wait_for("them to be refused", lambda: publishing.line.counts.dropped == 5)
        (words,) = publishing.said
        assert "cannot create" in words and RBAC in words, "said once, with what mends it"
        may = True
        publishing.tell(5, 6)
        publishing.sent(1)
    assert publishing.line.counts.dropped == 5
    publishing.stop()
