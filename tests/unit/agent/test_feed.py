# SPDX-License-Identifier: Apache-2.0
"""From events and verdicts to items: who gets which, and how many."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.agent.fakes.board import Board
from tests.unit.why.world import CLOCK, CRON, INIT, World, process
from tracer import probes
from tracer.agent import feed as module
from tracer.agent.feed import MAX_EVENTS_A_SECOND, Feed
from tracer.agent.history.lives import Lives
from tracer.agent.item import Item, Life, Severity
from tracer.agent.judge import Judge
from tracer.agent.outlet import Outlet
from tracer.model.event import Event
from tracer.why.crash import FaultFinder

EVERY = [probes.get(name) for name in probes.names()]
KINDS = {kind: probe for probe in EVERY for kind in probe.whose}


class Desk(World):
    """A world whose events go through a feed to boards, whose threads do not run."""

    def __init__(self, *boards: Board) -> None:
        super().__init__()
        self.outlets = [Outlet("board", board, lambda words: None) for board in boards]
        self.told: list[Item] = []
        self.lives: list[Life] = []
        self.feed = Feed(
            *(KINDS, self.outlets, CLOCK, "n1", Lives(CLOCK, self.lives.append)),
            lambda told, item: self.told.append(item),
        )
        self.feed.judge = Judge(self.timelines, FaultFinder(), self.feed.explained)

    def add(self, event: Event) -> Event:
        self.feed.event(event)
        self.now += 1_000_000
        return event

    def items(self, which: int = 0) -> list[Item]:
        outlet = self.outlets[which]
        return [*outlet._first.items, *outlet._events.items]


def board(kinds: set[str], least: Severity = Severity.WARN, observes: bool = False) -> Board:
    made = Board()
    made.kinds, made.least, made.observes = frozenset(kinds), least, observes
    return made


def test_a_verdict_says_whose_life_it_is_about() -> None:
    desk = Desk(board({"verdict"}))
    desk.signal("SIGKILL", "host", CRON)
    desk.exit(by=9)
    desk.feed.judge.look(at_the_end=True)
    (item,) = desk.items()
    assert desk.told == [item]
    assert (item.kind, item.told()["verdict"]) == ("verdict", "killed_from_host")
    assert item.sentence.startswith("shop/web-0 app: ")
    life = item.life
    assert life is not None
    assert (life.title, life.container, life.container_id) == ("shop/web-0", "app", "a" * 64)
    assert (life.exit_code, life.signal) == (137, 9)
    assert life.ended_ns == item.time_ns == item.told()["boot_ns"] + CLOCK.offset_ns


def test_events_by_severity() -> None:
    desk = Desk(board({"event"}, Severity.WARN), board({"event"}, Severity.INFO), board(set()))
    desk.exit(code=0, who=process(12), ends_container=False)
    desk.exit(code=1)
    assert [item.told()["exit_code"] for item in desk.items(0)] == [1]
    assert [item.told()["exit_code"] for item in desk.items(1)] == [0, 1]
    assert [item.severity for item in desk.items(1)] == [Severity.INFO, Severity.WARN]
    assert desk.items(2) == []


def test_nothing_is_made_that_nobody_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> bytes:
        raise AssertionError("an item was made")

    monkeypatch.setattr(module, "to_json", refuse)
    desk = Desk(board({"verdict"}), board({"event"}, Severity.WARN))
    desk.exit(code=0, who=process(12), ends_container=False)


def test_losses() -> None:
    desk = Desk(board({"lost"}), board({"verdict"}))
    body = {"probe": "signals", "count": 23, "since": CLOCK.iso(desk.now)}
    desk.add(Event("lost", desk.now, None, None, body))
    (item,) = desk.items(0)
    assert item.sentence == "23 events of signals were lost"
    assert desk.feed.lost == {"signals": 23}
    assert desk.items(1) == []


def test_a_publisher_may_look_at_every_event() -> None:
    watching, other = board(set(), observes=True), board(set())
    desk = Desk(watching, other)
    for _ in range(23):
        desk.exit(code=0, who=process(12), ends_container=False)
    assert (watching.observed, other.observed) == (23, 0)


def test_a_storm_is_cut_off_and_counted() -> None:
    desk = Desk(board({"event"}))
    sender = process(900, "cron", None)
    body = {
        "signal": {"number": 9, "name": "SIGKILL", "code": "SI_USER", "result": "delivered"},
        **{"origin": "process", "sender": sender, "target": INIT},
    }
    second = 5 * 10**9
    for number in range(MAX_EVENTS_A_SECOND * 3):
        desk.feed.event(Event("signal", second + number, INIT, sender, body))
    assert len(desk.items()) == MAX_EVENTS_A_SECOND
    assert desk.outlets[0].counts.dropped == 2 * MAX_EVENTS_A_SECOND
    desk.feed.event(Event("signal", second + 10**9, INIT, sender, body))
    assert len(desk.items()) == MAX_EVENTS_A_SECOND + 1


def test_an_item_keeps_its_names() -> None:
    """It is read in another thread, so later names must not reach into it."""
    desk = Desk(board({"event"}, Severity.INFO))
    desk.exit(code=1)
    (item,) = desk.items()
    before = item.told(), item.life
    assert INIT.place is not None
    pod, container = INIT.place.pod, INIT.place.container
    INIT.place.rename(None, None)
    try:
        assert (item.told(), item.life) == before
    finally:
        INIT.place.rename(pod, container)


def test_hostile_names_stay_what_they_are() -> None:
    """JSON escapes them; a publisher escapes the sentence for where it goes."""
    desk = Desk(board({"event"}, Severity.INFO))
    who = process(12, "\x1b[31m\n\u202e")
    desk.exit(code=1, who=who, ends_container=False)
    (item,) = desk.items()
    assert b"\x1b" not in item.json
    assert item.told()["process"]["comm"] == "\x1b[31m\n\u202e"
