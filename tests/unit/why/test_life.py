# SPDX-License-Identifier: Apache-2.0
"""Entries and the timeline that holds them: what is put together, what is counted, its weight."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.why.world import (
    APP,
    HOST,
    INIT,
    MS,
    NETWORK,
    RUNC,
    SECOND,
    World,
    place_of,
    process,
)
from tracer.model.bounded import size_of
from tracer.model.event import Event, Process
from tracer.model.names import Container
from tracer.why.entry import MAX_ALIKE, MAX_OTHERS, Entry, OtherEnd, took_effect
from tracer.why.life import (
    FOLDED,
    MAX_GROUPS,
    Earlier,
    Life,
    ends_container,
    is_ordinary,
    is_sandbox,
)
from tracer.why.sorts import Sort

SHIM = [(50, "containerd-shim"), (1, "init")]


def usr1(at: int = 10 * SECOND, target: Process = INIT) -> Any:
    world = World()
    world.now = at
    return world.signal("SIGUSR1", "host", target=target)


def ended(code: int | None = 1, by: int | None = None, at: int = 10 * SECOND, **more: Any) -> Any:
    world = World()
    world.now = at
    return world.exit(code, by, **more)


def entry(gaps: tuple[int, ...] = ()) -> Entry[Any]:
    return Entry(usr1(5), 5, usr1(5), 5, 1, gaps=gaps)


def told() -> Any:
    return World()


# An entry


@pytest.mark.parametrize(
    ("gaps", "period"),
    [
        ((), None),
        ((2000,), None),
        ((2000, 2000), 2000),
        ((2000, 2000, 9000), 2000),  # two thirds are near
        ((2000, 9000), None),
        ((2000, 2000, 9000, 9000), None),
        ((1000, 2000, 2500), 2000),  # by half a second
        ((1499, 2000, 2501), None),
        ((1499, 2000, 2500), 2000),
        ((8000, 10_000, 12_500), 10_000),  # by a quarter
        ((7000, 10_000, 12_501), None),
        ((700, 700), 700),
        ((699, 699), None),
        ((2200, 1800, 2000), 2000),
        ((5000, 1000), None),
    ],
)
def test_a_rhythm(gaps: tuple[int, ...], period: int | None) -> None:
    found = entry(tuple(gap * MS for gap in gaps)).period_ns
    assert found == (None if period is None else period * MS)


def test_first_and_last() -> None:
    """Of a pattern, times are those that were told, whatever event they are told by."""
    like = usr1(3)
    one = Entry(like, 5, like, 5, 2)
    assert one.single
    assert (one.event.boot_ns, one.last.boot_ns, one.last is one.event) == (5, 5, True)
    other = usr1(4)
    one.repeat(other, 9, 3)
    assert not one.single
    assert (one.event.boot_ns, one.last.boot_ns, one.last_ns, one.count) == (5, 9, 9, 5)
    assert one.last.body == other.body
    assert one.body is like.body


@pytest.mark.parametrize(
    ("result", "did"),
    [
        ("delivered", True),
        ("lost_info", True),
        ("ignored", False),
        ("already_pending", False),
        ("overflow", False),
    ],
)
def test_whether_a_signal_took_effect(result: str, did: bool) -> None:
    event: Any = World().signal("SIGTERM", "host", result=result)
    assert took_effect(Entry(event, 1, event, 1, 1)) is did
    event.body["signal"]["result"] = None
    assert took_effect(Entry(event, 1, event, 1, 1)), "unknown is not ignored"


def test_resets_met_at_their_other_ends() -> None:
    """They are counted by their sort, meaning and owner; of further owners only by sort and
    meaning."""
    world: Any = World()
    own = world.reset("received", None)
    one = Entry(own, 1, own, 1, 1)
    assert one.others == {}
    places = [place_of(None, uid=f"{n:032x}") for n in range(MAX_OTHERS + 2)]
    ends = [world.reset("sent", "no_socket", "closed port", place=place) for place in places]
    one.meet(own, ends[0], Sort.HARMLESS)
    later = world.reset("received", None)
    one.meet(later, ends[0], Sort.HARMLESS)
    (only,) = one.others.values()
    assert only == OtherEnd(later, ends[0], Sort.HARMLESS, 2)
    other_sort = next(sort for sort in Sort if sort is not Sort.HARMLESS)
    one.meet(own, ends[0], other_sort)
    assert [end.count for end in one.others.values()] == [2, 1]
    unnamed = world.reset("sent", "no_socket", "closed port", place=None)
    one.meet(own, unnamed, Sort.HARMLESS)
    assert len(one.others) == 3
    elsewhere = world.reset("sent", "no_socket", "another", place=places[0])
    one.meet(own, elsewhere, Sort.HARMLESS)
    assert [end.event for end in one.others.values()][3:] == [elsewhere]
    for end in ends[1:]:
        one.meet(own, end, Sort.HARMLESS)
    assert len(one.others) == MAX_OTHERS
    rest = (Sort.HARMLESS, "closed port", None)
    assert one.others[rest].count == 1 + len(ends[1:]) - (MAX_OTHERS - 4)
    one.meet(own, ends[0], Sort.HARMLESS)
    assert sorted(end.count for end in one.others.values())[-2:] == [3, one.others[rest].count]


# A life


def life() -> Life:
    return Life(APP)


def test_an_empty_life_weighs_something() -> None:
    assert life().size == 2000


def test_what_a_life_weighs() -> None:
    one, event = life(), usr1()
    one.add("a", 1, event, 1)
    assert (one.entries_size, one.size) == (event.size, 2000 + 500 + event.size)
    one.add("a", 1, event, 1)
    assert one.entries_size == one.groups["a"][1].size == 2 * event.size, "it holds two events"
    one.add("a", 1, event, 1)
    assert one.entries_size == 2 * event.size, "the first and the last"
    one.add("b", 1, event, 1)
    assert one.size == 2000 + 2 * 500 + 3 * event.size
    one.executed[("x",)] = 5
    with_commands = 2000 + 2 * 500 + 3 * event.size + size_of(one.executed)
    assert one.size == with_commands
    survivor, exit_ = process(8), ended()
    one.survivors.append(survivor)
    assert one.size == with_commands + survivor.size
    one.outlived.append(exit_)
    assert one.size == with_commands + survivor.size + exit_.size


def test_an_entry_that_is_left_out_weighs_nothing() -> None:
    one, event = life(), usr1()
    for number in range(MAX_ALIKE + 1):
        one.add("a", number, event, 2)
    assert (len(one.groups["a"]), one.left_out) == (MAX_ALIKE, 2)
    assert one.entries_size == MAX_ALIKE * event.size
    assert list(one.groups["a"]) == list(range(1, MAX_ALIKE + 1))


def test_a_child_that_did_its_work_is_not_missed() -> None:
    one = life()
    for number in range(MAX_ALIKE + 3):
        one.add("a", number, ended(0), 1)
    assert one.left_out == 0


def test_the_oldest_group_makes_room() -> None:
    one, event = life(), usr1()
    groups = [one.spot(number, "x", event).group for number in range(MAX_GROUPS)]
    assert not any(group.closed for group in groups)
    one.add(0, "x", event, 3)
    one.add("another", "x", event, 1)
    assert [group.closed for group in groups] == [True] + [False] * (MAX_GROUPS - 1)
    assert (len(one.groups), 0 in one.groups, one.left_out) == (MAX_GROUPS, False, 3)
    assert one.entries_size == event.size


def test_a_spot_is_where_the_next_is_added() -> None:
    one, event = life(), usr1(100)
    spot = one.spot("a", "x", event)
    assert (spot.life, spot.key, spot.size) == (one, "x", event.size)
    assert spot.group is one.groups["a"] and not spot.group
    made = one.put(spot.group, spot.key, event, 100, spot.size)
    assert (made.count, made.boot_ns, made.last_ns, made.size) == (1, 100, 100, event.size)
    again = one.put(spot.group, spot.key, event, 200, 0)
    assert again is made
    assert (made.count, made.boot_ns, made.last_ns) == (2, 100, 200)
    assert one.entries() == [made]


def test_services_share_an_entry_when_they_are_too_many() -> None:
    one, world = life(), told()
    events = [world.reset("sent", None, port=port) for port in range(MAX_ALIKE + 4)]
    made = [one.add("a", port, event, 1, fold=True) for port, event in enumerate(events)]
    assert len(one.groups["a"]) == MAX_ALIKE
    assert [entry.folded for entry in made] == [False] * (MAX_ALIKE - 1) + [True] * 5
    folded = one.groups["a"][FOLDED]
    assert (folded.count, folded.gaps) == (5, ()), "several services have no rhythm"
    assert folded.services == {hash(port) for port in range(MAX_ALIKE - 1, MAX_ALIKE + 4)}
    assert one.left_out == 0
    known = one.add("a", 3, events[0].at(events[3].boot_ns + 7), 1, fold=True)
    assert (known is made[3], known.count, known.gaps, known.folded) == (True, 2, (7,), False)


def test_what_is_folded_leaves_an_earlier_chapter_first() -> None:
    one, event = life(), told().reset("sent", None)
    for port in range(MAX_ALIKE - 1):
        one.add("a", port, event, 1, fold=True)
    one.begin_chapter()
    new = one.add("a", 0, event, 1, fold=True)
    assert list(one.groups["a"]) == [*(Earlier(0, p) for p in range(1, MAX_ALIKE - 1)), 0]
    assert (new.folded, one.left_out) == (False, 1)


def test_only_resets_have_gaps_when_they_are_added() -> None:
    one, world = life(), told()
    for at in (0, 100, 350):
        world.at(at)
        one.add("a", 1, world.reset("sent", None), 1)
        one.add("b", 1, usr1(world.now), 1)
    assert one.groups["a"][1].gaps == (100 * MS, 250 * MS)
    assert one.groups["b"][1].gaps == ()
    for at in range(20):
        world.at(1000 + at * at)
        one.add("a", 1, world.reset("sent", None), 1)
    assert one.groups["a"][1].gaps == tuple((2 * at - 1) * MS for at in range(12, 20))


def test_chapters() -> None:
    """Like events of two chapters are two entries, and those of one chapter keep their number."""
    one, event = life(), usr1()
    group = one.spot("a", "x", event).group
    first = one.add("a", "x", event, 1)
    one.begin_chapter()
    assert group.closed and one.chapter == 1
    assert not one.groups["a"].closed
    second = one.add("a", "x", event, 1)
    assert second is not first
    one.begin_chapter()
    assert one.groups["a"] == {Earlier(0, "x"): first, Earlier(1, "x"): second}
    assert one.chapter == 2


def test_closed_groups_hold_what_they_held() -> None:
    one, event = life(), usr1()
    first = one.add("a", "x", event, 1)
    before = one.groups["a"]
    assert one.close_groups() == {"a": before}
    assert before.closed and not one.groups["a"].closed
    assert one.groups["a"] is not before
    assert one.groups["a"] == {"x": first}
    assert one.chapter == 0


@pytest.mark.parametrize(
    ("sure", "later", "over"),
    [(True, 1, True), (True, 0, False), (True, -1, False), (None, 1, False), (False, 1, False)],
)
def test_what_comes_after_the_end(sure: bool | None, later: int, over: bool) -> None:
    one = life()
    assert not one.is_over(usr1())
    end = ended(ends_container=sure)
    one.end = Entry(end, end.boot_ns, end, end.boot_ns, 1)
    assert one.is_over(usr1(end.boot_ns + later)) is over


def test_who_outlives_its_container() -> None:
    """The rest of the PID namespace that the kernel kills, and commands of the runtime."""
    one, world = life(), told()
    for pid in range(100, 100 + MAX_ALIKE + 3):
        one.outlive(world.signal("SIGKILL", "kernel", target=process(pid)))
    assert [who.pid for who in one.survivors] == list(range(100, 100 + MAX_ALIKE))
    one.survivors.clear()
    one.outlive(world.signal("SIGKILL", "host", RUNC, process(8)))
    one.outlive(world.signal("SIGTERM", "kernel", None, process(8)))
    one.outlive(Event("signal", 1, None, None, world.signal("SIGKILL", "kernel").body))
    one.outlive(ended(137, who=process(9)))
    assert (one.survivors, one.outlived) == ([], [])
    commands = [
        ended(n, who=process(200 + n, parents=SHIM), ends_container=False)
        for n in range(MAX_ALIKE + 3)
    ]
    for event in commands:
        one.outlive(event)
    assert one.outlived == commands[-MAX_ALIKE:]
    one.outlive(Event("exit", 1, None, None, commands[0].body))
    assert one.outlived == commands[-MAX_ALIKE:]


def test_entries_are_in_order_and_not_empty() -> None:
    one = life()
    for group, at in (("a", 5), ("b", 3), ("a", 4)):
        one.add(group, at, usr1(at), 1)
    one.groups["b"][3].count = 0
    assert [entry.boot_ns for entry in one.entries()] == [4, 5]


# Events of a life


def test_what_is_ordinary() -> None:
    assert is_ordinary(ended(0))
    assert not is_ordinary(ended(1))
    assert not is_ordinary(ended(None, 9))
    assert not is_ordinary(usr1())


@pytest.mark.parametrize(
    ("known", "by", "parents", "ends"),
    [
        (True, None, [], True),
        (False, 9, SHIM, False),
        (None, 9, SHIM, True),
        (None, 9, [(50, "conmon")], True),
        (None, 9, [(50, "containerd-shim-runc-v2")], True),
        (None, None, SHIM, False),
        (None, 9, [(50, "sh"), (51, "containerd-shim")], False),
        (None, 9, [], False),
    ],
)
def test_what_ends_a_container(
    known: bool | None, by: int | None, parents: list[tuple[int, str]], ends: bool
) -> None:
    who = process(8, parents=parents)
    event = ended(None if by else 1, by, who=who, ends_container=known)
    assert ends_container(event) is ends
    if known is None:
        assert ends_container(replace(event, about=None)) is False


def test_what_is_a_sandbox() -> None:
    assert not is_sandbox(Life(APP)), "it has a name"
    assert not is_sandbox(Life(NETWORK)), "it is no container"
    nameless = place_of("b" * 64, None)
    assert is_sandbox(Life(nameless)), "its runtime knows its pod"
    nameless.container = Container("b" * 64, "containerd")
    one = Life(nameless)
    assert not is_sandbox(one)
    one.add("a", 1, usr1(target=process(8, "nginx", nameless)), 1)
    one.add("a", 0, Event("x", 1, None, None, {}), 1)
    assert not is_sandbox(one)
    one.add("a", 2, usr1(target=process(9, "pause", nameless)), 1)
    assert is_sandbox(one)
    assert HOST.container is None and not is_sandbox(Life(HOST))
