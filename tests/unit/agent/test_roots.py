# SPDX-License-Identifier: Apache-2.0
"""Which roots of containers the agent holds open, from when on, and until when."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.wait import wait_for
from tests.unit.why.world import place_of
from tracer.agent import roots as module
from tracer.agent.roots import JUDGED_SECONDS, LOOK_SECONDS, PREPARING_SECONDS, Closer, Roots
from tracer.kernel.cgroupfs import Cgroup
from tracer.kernel.hierarchies import Hierarchy
from tracer.model.event import Place
from tracer.model.names import Container


class Faults:
    """Holds the roots of what is `prepared`."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        self.prepared: set[str] = set()
        self.tries = 0

    def hold_root(self, container: str, cgroup: Cgroup) -> bool:
        self.tries += 1
        if container in self.prepared:
            self.held[container] = cgroup.directory
        return container in self.held

    def let_go(self, container: str) -> None:
        self.held.pop(container, None)


class Node:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mounts = [Hierarchy(0, "/sys/fs/cgroup", 2), Hierarchy(4, "/memory", 1)]
        monkeypatch.setattr(module, "hierarchies", lambda: mounts)
        self.seconds = 100.0
        self.places: list[Place] = []
        self.resolver: Any = SimpleNamespace(changes=0, places=lambda: self.places)
        self.faults = Faults()
        self.closer: Any = SimpleNamespace(full=False)
        self.roots = Roots(self.faults, self.closer, lambda: self.seconds)  # type: ignore[arg-type]

    def wait(self, seconds: float = LOOK_SECONDS) -> list[str]:
        """What is held then."""
        self.seconds += seconds
        self.resolver.changes += 1
        self.roots.look(self.resolver)
        return list(self.faults.held)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(monkeypatch)


def place(container: str, cgroup: int = 1, path: str | None = "/kubepods/x") -> Place:
    return replace(place_of(container), cgroup=cgroup, path=path)


def test_a_root_is_held_once_the_runtime_has_prepared_it(node: Node) -> None:
    node.places = [place("a"), place_of(None)]
    assert node.wait() == []
    assert 0 < node.roots.patience() <= LOOK_SECONDS
    node.faults.prepared = {"a"}
    assert node.wait() == ["a"]
    assert node.faults.held["a"] == "/sys/fs/cgroup/kubepods/x"
    tries = node.faults.tries
    assert node.roots.patience() > 1, "nothing is due"
    node.wait(100)
    assert node.faults.tries == tries


def test_the_hierarchy_of_version_1(node: Node) -> None:
    node.places = [place("a", 4 << 48 | 7)]
    node.faults.prepared = {"a"}
    node.wait()
    assert node.faults.held["a"] == "/memory/kubepods/x"


def test_it_is_let_go_after_the_verdict(node: Node) -> None:
    app = place("a")
    node.places, node.faults.prepared = [app], {"a"}
    node.wait()
    app.ended = 5
    assert node.wait() == ["a"]
    assert 0 < node.roots.patience() <= JUDGED_SECONDS
    assert node.wait(JUDGED_SECONDS) == []
    assert node.wait(100) == [], "it is not looked at again"


def test_the_end_of_a_cgroup_in_it_is_not_its_end(node: Node) -> None:
    node.places, node.faults.prepared = [place("a"), place("a", 2)], {"a"}
    node.wait()
    node.places[1].ended = 5
    node.wait()
    assert node.wait(JUDGED_SECONDS) == ["a"]


def test_one_that_is_started_again(node: Node) -> None:
    """Docker gives it the same id."""
    node.places, node.faults.prepared = [place("a")], {"a"}
    node.wait()
    node.places[0].ended = 5
    node.places.append(place("a", 2, "/again"))
    node.wait()
    node.wait(JUDGED_SECONDS)
    assert node.wait() == ["a"]
    assert node.faults.held["a"] == "/sys/fs/cgroup/again"


def test_one_that_never_gets_ready_is_given_up(node: Node) -> None:
    node.places = [place("a")]
    node.wait()
    node.wait(PREPARING_SECONDS)
    tries = node.faults.tries
    node.wait(100)
    assert node.faults.tries == tries


def test_sandboxes_and_unknown_paths_have_none(node: Node) -> None:
    pause = place("a")
    pause.container = Container("a", "containerd", None, "uid")
    node.places = [pause, place("b", path=None), place("c", 9 << 48)]
    node.wait()
    assert node.faults.tries == 0


def test_looking_takes_a_small_part_of_the_time(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(_: object) -> list[Place]:
        node.seconds += 1.0
        return []

    node.places = [place("a")]
    monkeypatch.setattr(node.resolver, "places", lambda: slow(None))
    node.wait()
    before = node.seconds
    node.wait(1.0)
    assert node.seconds == before + 1.0, "not yet again"
    node.wait(20.0)
    assert node.seconds == before + 22.0


def test_what_is_remembered_is_bounded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SEEN", 20)
    monkeypatch.setattr(module, "MAX_ROOTS", 10)
    node.places = [place(f"{n:064x}", n) for n in range(100)]
    node.wait()
    assert (len(node.roots._seen), len(node.roots._pending)) == (20, 10)


def test_while_many_wait_to_be_closed_no_more_are_held(node: Node) -> None:
    node.closer.full = True
    node.places, node.faults.prepared = [place("a")], {"a"}
    assert node.wait() == []
    node.closer.full = False
    assert node.wait() == ["a"]


def test_what_waits_to_be_closed_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed elsewhere, in its order, however long that takes."""
    gate, real, closed = threading.Event(), os.close, list[int]()

    def slow(fd: int) -> None:
        assert gate.wait(60)
        closed.append(fd)
        real(fd)

    monkeypatch.setattr(module, "MAX_CLOSING", 3)
    monkeypatch.setattr(module, "os", SimpleNamespace(close=slow))
    closer, fds = Closer(), [os.open("/", os.O_PATH) for _ in range(4)]
    closer.close(fds[0])
    wait_for("it to be on its way", lambda: closer._waiting.empty())
    for fd in fds[1:]:
        assert not closer.full
        closer.close(fd)
    assert closer.full
    gate.set()
    wait_for("them to be closed", lambda: closed == fds)
    assert not closer.full
