# SPDX-License-Identifier: Apache-2.0
"""What the agent asks the runtimes: why a start failed, and in which pods nothing runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.wait import wait_for
from tests.unit.agent.test_judge import Court
from tests.unit.why.test_waiting import WEB, container, ready
from tests.unit.why.world import APP, process
from tracer.agent import runtime as module
from tracer.agent.judge import AGAIN_SECONDS, END_SECONDS
from tracer.agent.runtime import WAITING_SECONDS, WORDS_SECONDS, Runtime
from tracer.identity.states import ContainerState, PodState, States
from tracer.model.names import Pod

PREPARING = process(7, "runc:[2:INIT]", exe="/usr/bin/runc", init=True)
ID = str(APP.identity.container_id)
FAILED = ContainerState(ID, "app", "exited", message='exec: "nope": not found in $PATH')


class Asked(Court):
    """A court that asks a runtime. `says` makes its next answer."""

    def __init__(self, *sources: Any) -> None:
        super().__init__()
        self.runtime = Runtime(sources, lambda: {WEB.uid: WEB}, lambda: self.seconds)
        self.service: Any = self.runtime._service
        self.judge.runtime = self.runtime

    def says(self, *pods: PodState, empty: tuple[str, ...] = ()) -> None:
        known = {one.pod.uid: one for one in pods}
        self.service.latest = States(self.seconds, known, frozenset(empty))


@pytest.fixture
def court() -> Asked:
    return Asked(object())


def test_why_a_start_failed(court: Asked) -> None:
    """The runtime is asked at once, and has a while to answer."""
    court.says()
    court.exit(1, who=PREPARING)
    assert court.wait(END_SECONDS) == []
    assert court.service.hurry
    assert court.judge.patience() <= 1
    assert court.wait(1) == []
    court.says(replace(ready(FAILED), pod=Pod(WEB.uid)))
    assert court.wait(1) == ["start_failed"]
    assert not court.service.hurry
    assert '; it says: exec: "nope": not found' in court.told[-1].verdict.sentence
    assert court.wait(100) == []


def test_a_runtime_that_says_nothing(court: Asked) -> None:
    court.exit(1, who=PREPARING)
    assert court.wait(END_SECONDS) == []
    assert court.wait(WORDS_SECONDS) == ["start_failed"]
    assert not court.service.hurry
    assert court.wait(100) == []


def test_nobody_to_ask() -> None:
    court = Asked()
    court.exit(1, who=PREPARING)
    assert court.wait(END_SECONDS) == ["start_failed"]


def test_at_the_end_no_words_are_awaited(court: Asked) -> None:
    court.exit(1, who=PREPARING)
    court.judge.look(at_the_end=True)
    assert [one.verdict.id for one in court.told] == ["start_failed"]


def test_other_ends_do_not_wait(court: Asked) -> None:
    court.exit(1)
    assert court.wait(END_SECONDS) == ["exited"]
    assert not court.service.hurry


def test_pods_in_which_nothing_runs(court: Asked) -> None:
    """Told once for each thing that they wait for."""
    told = []
    for _ in range(4):
        court.says(ready())
        told += court.wait(WAITING_SECONDS)
    assert told == ["no_container"]
    story = court.told[-1].story
    assert (story.place.pod, story.place.identity.container_id) == (WEB, None)
    made = container("app", "created")
    for _ in range(3):
        court.says(ready(made))
        told += court.wait(AGAIN_SECONDS)
    assert told == ["no_container", "not_started"]
    for _ in range(3):
        court.says(empty=(WEB.uid,))
        told += court.wait(WAITING_SECONDS)
    assert told[2:] == ["no_sandbox"]


def test_an_image_that_takes_a_minute(court: Asked) -> None:
    court.says(ready())
    court.wait(1)
    court.says(ready())
    assert court.wait(WAITING_SECONDS - 1) == []
    court.says(ready(replace(container("app", "running"))))
    assert court.wait(1000) == []


def test_one_answer_is_looked_at_once(court: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    court.says(ready())
    assert court.runtime.quiet(0) == []
    monkeypatch.setattr(court.runtime._waiting, "stories", lambda *_: pytest.fail("again"))
    assert court.runtime.quiet(0) == []


def test_what_is_awaited_is_bounded(court: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_AWAITED", 10)
    court.exit(1, who=PREPARING)
    (story,) = court.timelines.stories()
    for number in range(30):
        place = replace(APP, identity=replace(APP.identity, container_id=f"{number:064x}"))
        assert court.runtime.awaits_words(replace(story, place=place))
    assert len(court.runtime._awaited) == 10


class Source:
    def __init__(self) -> None:
        self.asked = 0

    def states(self, wanted: Any) -> list[PodState]:
        self.asked += 1
        return [ready()]


def test_who_hurries_does_not_wait_for_the_next_minute() -> None:
    source = Source()
    runtime = Runtime([source], lambda: {})
    runtime.start()
    try:
        wait_for("the first answer", lambda: source.asked == 1)
        runtime._service.hurry = True
        wait_for("more answers", lambda: source.asked >= 3)
        runtime._service.hurry = False
    finally:
        runtime.stop()
