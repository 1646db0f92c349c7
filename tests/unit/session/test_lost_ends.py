# SPDX-License-Identifier: Apache-2.0
"""Ends of cgroups that found no room in the ring: what is gone is found in cgroupfs, and state
shrinks again. The cgroups here are directories; everything but the backend is real."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.wait import wait_for
from tests.unit import records
from tests.unit.records import cgroup_path
from tests.unit.session.test_session import Make, Step, World, world
from tracer.kernel import cgroupfs
from tracer.kernel.hierarchies import Hierarchy
from tracer.model.turn import Turn
from tracer.session import ends, session

__all__ = ["world"]  # a fixture

PODS = 23
SHIFT = cgroupfs.HIERARCHY_SHIFT


class Tree:
    """A hierarchy of cgroups with pods."""

    def __init__(self, mount: Path, number: int = 0) -> None:
        self.mount, self.number = mount, number
        mount.mkdir()

    def add(self, pod: int) -> bytes:
        """The record of a pod's cgroup."""
        path = f"/kubepods/pod00000000-0000-0000-0000-{pod:012d}"
        directory = Path(f"{self.mount}{path}")
        directory.mkdir(parents=True)
        cgroup = directory.stat().st_ino | self.number << SHIFT
        return records.pack("cgroup", cgroup=cgroup, **cgroup_path(path))

    def remove(self, pods: range) -> None:
        for pod in pods:
            os.rmdir(f"{self.mount}/kubepods/pod00000000-0000-0000-0000-{pod:012d}")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    tree = Tree(tmp_path / "cgroup")
    mounted = [Hierarchy(tree.number, str(tree.mount), 2)]
    monkeypatch.setattr(cgroupfs, "hierarchies", lambda: mounted)
    return tree


def lose(one: World, count: int) -> Callable[[], None]:
    def lost() -> None:
        one.backend.counts["cgroup_end"] = one.backend.counts.get("cgroup_end", 0) + count

    return lost


def until_looked(one: World) -> None:
    """What the walk found is there for the next turn."""
    thread = one.source._ends._thread
    assert thread is not None, "nobody looks"
    wait_for("the walk through cgroupfs", lambda: not thread.is_alive())


def looked(one: World) -> list[Step]:
    """A loss is told within a second, then a walk begins; the turn after it has what was found."""
    return [None, None, lambda: until_looked(one), None]


def test_what_is_kept_shrinks_again(
    world: Make, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world()
    one.sources_know_nobody()
    turns: list[Turn] = []
    take = session.Session.take

    def noted(self: session.Session, turn: Turn) -> bool:
        turns.append(turn)
        return take(self, turn)

    monkeypatch.setattr(session.Session, "take", noted)
    begun = records.cells(tree.add(pod) for pod in range(PODS))
    known: list[int] = []

    def note() -> None:
        known.append(len(one.session.resolver.living()))

    one.run(
        *(begun, None, note, lambda: tree.remove(range(1, PODS))),
        *(lose(one, PODS - 1), *looked(one), note),
    )
    assert known == [PODS, 1], "the cgroup that is left is known, and no other"
    ended = [place for place in one.session.resolver.places() if place.ended]
    assert len(ended) == PODS - 1
    # the ends are records like others: so a recording, its context and its replay have them, too
    kinds = {schema.name: kind for kind, schema in one.source.schemas.items()}
    parts = [part for turn in turns for part in turn.parts]
    assert sum(part.count for part in parts if part.kind == kinds["cgroup_end"]) == PODS - 1


def test_nobody_looks_without_a_loss(world: Make, tree: Tree) -> None:
    one = world()
    one.sources_know_nobody()

    def other() -> None:
        one.backend.counts["signal"] = 23

    one.run(records.cells([tree.add(0)]), lambda: tree.remove(range(1)), other, None, None)
    assert one.source._ends._thread is None
    assert len(one.session.resolver.living()) == 1


def test_looking_has_a_pause(world: Make, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses that go on are one walk in ten seconds, and the last one is looked for, too."""
    walks: list[int] = []
    gone = cgroupfs.gone
    one = world()

    def noted(cgroups: Sequence[int]) -> list[int]:
        walks.append(one.time.now())
        return gone(cgroups)

    monkeypatch.setattr(ends, "gone", noted)
    one.sources_know_nobody()
    seconds: list[Step] = [lose(one, 1), None] * 15
    one.run(
        *(records.cells(tree.add(pod) for pod in range(2)), *seconds),
        *(lambda: tree.remove(range(1)), lose(one, 1), *[None] * 12),
        *(lambda: until_looked(one), None),
    )
    assert 2 <= len(walks) <= 4
    assert all(b - a >= session.CHECK_NS for a, b in pairwise(walks))
    assert len(one.session.resolver.living()) == 1


def test_one_walk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks meanwhile has to ask again."""
    gate = threading.Event()

    def slow(cgroups: object) -> list[int]:
        gate.wait(30)
        return [7]

    monkeypatch.setattr(ends, "gone", slow)
    looking = ends.Ends()
    assert looking.ask([7])
    assert not looking.ask([8])
    assert looking.take() == []
    gate.set()
    wait_for("the walk", lambda: looking.found)
    assert (looking.take(), looking.take()) == ([7], [])


def test_what_cannot_be_seen_is_not_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in a hierarchy that is shown in part or nowhere, nor where there are too many."""
    whole, part = Tree(tmp_path / "whole"), Tree(tmp_path / "part", 7)
    mounted = [Hierarchy(7, str(part.mount), 1, whole=False), Hierarchy(0, str(whole.mount), 2)]
    monkeypatch.setattr(cgroupfs, "hierarchies", lambda: mounted)
    whole.add(0)
    root = os.stat(whole.mount).st_ino
    there = os.stat(whole.mount / "kubepods").st_ino
    absent = 1 << 40
    asked = [root, there, absent, absent | 7 << SHIFT, absent | 9 << SHIFT]
    assert cgroupfs.gone(asked) == [absent]
    monkeypatch.setattr(cgroupfs, "MAX_CGROUPS", 2)
    assert cgroupfs.gone(asked) == []


def test_a_walk_that_fails_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(cgroups: object) -> list[int]:
        raise OSError("too many open files")

    monkeypatch.setattr(ends, "gone", failing)
    looking = ends.Ends()
    assert looking.ask([7])
    thread = looking._thread
    assert thread
    wait_for("the walk", lambda: not thread.is_alive())
    assert not looking.found


def test_what_is_there_is_not_gone() -> None:
    """In this machine's own hierarchies, as far as they are visible here."""
    numbers = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            numbers.add(cgroupfs.cgroup_of(int(pid))[0])
        except (OSError, ValueError, KeyError):
            continue
    assert numbers
    assert cgroupfs.gone(numbers) == []
