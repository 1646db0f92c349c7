# SPDX-License-Identifier: Apache-2.0
"""What the history is told of containers: when they begin, get their names and end."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.why.world import CLOCK, World, place_of, process
from tracer.agent.history import lives as module
from tracer.agent.history.lives import AGAIN_NS, LOOK_NS, Lives
from tracer.agent.item import Life
from tracer.model.event import Event, Place
from tracer.probes.exits import ExitBody, is_exit

SECOND = 10**9


class Register:
    """The lives that were noted, of a node with these containers."""

    def __init__(self, *places: Place) -> None:
        self.noted: list[Life] = []
        self.resolver: Any = SimpleNamespace(changes=0, places=lambda: places)
        self.lives = Lives(CLOCK, self.noted.append)
        self.lives.began_ns = 5 * SECOND
        self.now = 10 * SECOND

    def look(self, after_ns: int = LOOK_NS) -> list[Life]:
        before = len(self.noted)
        self.now += after_ns
        self.resolver.changes += 1
        self.lives.look(self.now, self.resolver)
        return self.noted[before:]


def place(began: int = 8 * SECOND, number: int = 1, name: str | None = "app") -> Place:
    made = place_of(f"{number:064x}", name)
    return replace(made, cgroup=number, began=began)


def test_a_container_is_told_when_something_is_new_of_it() -> None:
    app = place()
    register = Register(app)
    (life,) = register.look()
    assert (life.title, life.container, life.began_ns) == (
        *("shop/web-0", "app"),
        8 * SECOND + CLOCK.offset_ns,
    )
    assert register.look() == []
    app.ended = 20 * SECOND
    (life,) = register.look()
    assert life.ended_ns == 20 * SECOND + CLOCK.offset_ns
    assert register.look(AGAIN_NS) == [], "it is over"


def test_what_runs_is_told_every_hour() -> None:
    register = Register(place())
    register.look()
    assert register.look() == []
    assert len(register.look(AGAIN_NS)) == 1


def test_what_was_there_before_has_no_known_beginning() -> None:
    (life,) = Register(place(began=4 * SECOND)).look()
    assert life.began_ns is None


def test_names_that_come_late() -> None:
    """Until then it may be a sandbox, which has no life of its own."""
    app = place(name=None)
    register = Register(app)
    assert register.look() == []
    app.rename(app.pod, place().container)
    assert len(register.look()) == 1


def end_of(where: Place, comm: str = "app") -> Event[ExitBody]:
    who = process(7, comm, where, init=True)
    who.init_place = where
    event = World().exit(by=9, who=who)
    assert is_exit(event)
    return event


def test_an_end() -> None:
    register = Register()
    register.lives.ended(end_of(place()))
    (life,) = register.noted
    assert (life.exit_code, life.signal) == (137, 9)
    assert life.began_ns == 2 * SECOND + CLOCK.offset_ns, "with its first process"


def test_the_end_of_a_sandbox_is_none() -> None:
    register = Register()
    register.lives.ended(end_of(place(name=None), "pause"))
    register.lives.ended(end_of(place(name=None)))
    assert register.noted == []
    nameless = place(name=None)
    nameless.container = None
    register.lives.ended(end_of(nameless, "pause"))
    assert register.noted == []
    register.lives.ended(end_of(nameless))
    assert len(register.noted) == 1


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NOTED", 10)
    register = Register(*(place(number=number) for number in range(100)))
    assert len(register.look()) == 100
    assert len(register.lives._noted) == 10
