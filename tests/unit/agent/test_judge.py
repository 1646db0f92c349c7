# SPDX-License-Identifier: Apache-2.0
"""Verdicts on many containers while it happens: when each is told, and that it is told once."""

from __future__ import annotations

import pytest

from tests.unit.why.world import CLOCK, CRON, INIT, RUNC, World, place_of, process
from tracer.agent import judge as module
from tracer.agent.judge import AGAIN_SECONDS, END_SECONDS, HARM_SECONDS, Judge
from tracer.model.event import Event, Process
from tracer.why.crash import FaultFinder
from tracer.why.engine import Explanation
from tracer.why.story import Story


class Court(World):
    """A world whose events go to a judge; seconds pass only in `wait`."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 100.0
        self.told: list[Explanation] = []
        self.faults = FaultFinder()
        self.judge = Judge(self.timelines, self.faults, self.told.append, lambda: self.seconds)

    def add(self, event: Event) -> Event:
        self.judge.event(event)
        self.now += 1_000_000
        return event

    def wait(self, seconds: float) -> list[str]:
        """The verdicts that are told meanwhile."""
        before = len(self.told)
        self.seconds += seconds
        self.judge.look()
        return [one.verdict.id for one in self.told[before:]]


def init_of(container: str, pid: int, uid: str) -> Process:
    place = place_of(container * 64, uid=uid)
    made = process(pid, init=True, place=place)
    made.init_place = place
    return made


def test_an_end_is_told_once_and_soon() -> None:
    court = Court()
    court.signal("SIGKILL", "host", CRON)
    court.exit(by=9)
    assert court.wait(0) == [], "what belongs to it may still come"
    assert court.wait(END_SECONDS) == ["killed_from_host"]
    court.exit(code=0, who=process(12), ends_container=False)
    assert court.wait(1000) == []
    assert court.judge.told == 1


def test_each_container_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    court, judged = Court(), list[set[str]]()
    stories = court.timelines.stories

    def noted(of: set[str]) -> list[Story]:
        judged.append(set(of))
        return stories(of)

    monkeypatch.setattr(court.timelines, "stories", noted)
    for number, name in enumerate("bcd"):
        court.exit(code=1, who=init_of(name, 50 + number, f"uid-{name}"))
        assert court.wait(END_SECONDS + 2) == ["exited"]
    assert judged == [{"uid-b"}, {"uid-c"}, {"uid-d"}], "others are not judged again"


def test_harm_waits_for_the_end_that_it_may_lead_to() -> None:
    court = Court()
    court.oom(process(12))
    assert court.wait(HARM_SECONDS - 1) == []
    court.exit(code=1)
    assert len(court.wait(END_SECONDS)) == 1
    assert court.wait(HARM_SECONDS) == [], "it was part of the end"


def test_harm_that_goes_on_is_told_again_later() -> None:
    court = Court()
    told = []
    for _ in range(int(AGAIN_SECONDS / HARM_SECONDS) * 2):
        court.oom(process(12))
        told += court.wait(HARM_SECONDS)
    assert len(told) == 2
    assert len(set(told)) == 1


def test_every_life_of_a_container_has_its_end() -> None:
    court = Court()
    for name in "bcd":
        court.exit(code=1, who=init_of(name, 60, "uid"))
        court.wait(END_SECONDS + 2)
    assert len(court.told) == 3


def test_at_the_end_nothing_waits() -> None:
    court = Court()
    court.oom(process(12))
    court.exit(code=1)
    court.judge.look(at_the_end=True)
    assert len(court.told) == 1


def test_work_that_ends_well_is_not_judged() -> None:
    court = Court()
    court.exit(code=0, who=process(12), ends_container=False)
    assert court.judge.patience() >= 1, "nothing is due"


def test_it_comes_back_in_time() -> None:
    court = Court()
    court.signal("SIGTERM", "runtime", RUNC)
    court.exit(by=15, who=INIT)
    assert 0 < court.judge.patience() <= END_SECONDS


def test_what_it_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TOLD", 10)
    monkeypatch.setattr(module, "MAX_DUE", 10)
    court = Court()
    for number in range(100):
        court.exit(code=1, who=init_of(chr(100 + number), number + 10, f"uid-{number}"))
    assert len(court.judge._due) == 10
    court.wait(END_SECONDS)
    assert len(court.told) == len(court.judge._told) == 10
    for number in range(5):
        court.exit(code=1, who=init_of(chr(300 + number), number + 10, f"other-{number}"))
    court.wait(END_SECONDS)
    assert (len(court.told), len(court.judge._told)) == (15, 10)


def test_the_clock_of_events_is_not_its_own() -> None:
    """A wall clock that is set changes nothing: only its own seconds count."""
    court = Court()
    CLOCK.offset_ns -= 10**18
    try:
        court.exit(code=1)
        assert court.wait(END_SECONDS) == ["exited"]
    finally:
        CLOCK.offset_ns += 10**18
