# SPDX-License-Identifier: Apache-2.0
"""Wall clocks that are set, forwards and back, and machines that sleep: nothing is removed early,
lost, or told twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.unit.agent.test_history import NOW, NS, WEB, Keeping, asked, death, told
from tests.unit.agent.test_lives import end_of, place
from tracer.agent.history import retention
from tracer.agent.history import store as module
from tracer.agent.history.entry import Entries
from tracer.agent.history.index import Index
from tracer.agent.history.lives import Lives
from tracer.agent.history.query import History, wants
from tracer.agent.history.retention import Retention
from tracer.agent.history.segments import segments
from tracer.agent.item import Life, life_of
from tracer.model import event
from tracer.model.event import Clock

DAY_NS = 86400 * NS
YEAR_NS = 365 * DAY_NS
WEEK = 7 * 86400.0


class Hand(Clock):
    """A clock whose time since boot is put forward by hand."""

    def __init__(self, offset_ns: int = NOW) -> None:
        super().__init__(offset_ns)
        self.boot_ns = 0

    def now(self) -> int:
        return self.boot_ns


@pytest.mark.parametrize("off", [-YEAR_NS, -3600 * NS, 3600 * NS, YEAR_NS])
def test_a_moment_stays_what_it_was(off: int) -> None:
    clock = Hand()
    before = 23 * NS
    clock.boot_ns = 30 * NS
    clock.set(NOW + off)
    after = 31 * NS
    assert (clock.utc_ns(before), clock.utc_ns(after)) == (NOW + before, NOW + off + after)
    assert clock.iso(before) == Clock(NOW).iso(before)
    assert clock.iso(after) == Clock(NOW + off).iso(after)
    clock.boot_ns = 40 * NS
    clock.set(NOW)
    assert clock.utc_ns(before) == NOW + before
    assert clock.utc_ns(after) == NOW + off + after
    assert clock.utc_ns(41 * NS) == NOW + 41 * NS


def test_former_clocks_are_bounded() -> None:
    clock, kept = Hand(), Retention(1e12, 0, None)
    for number in range(1, 1000):
        clock.boot_ns = number
        clock.set(number * YEAR_NS)
        kept.before_ns(number, number * YEAR_NS)
    assert len(clock._former) == event.MAX_OFFSETS
    assert len(kept._former) == retention.MAX_CLOCKS


# Too old


@pytest.mark.parametrize("off", [-YEAR_NS, YEAR_NS])
def test_nothing_is_removed_early(off: int) -> None:
    """Whichever of two clocks is wrong. A week after the change everything of before is old."""
    kept = Retention(WEEK, NOW, None)
    right = min(NOW, NOW + off) - 7 * DAY_NS
    assert kept.before_ns(1, NOW) == NOW + 1 - 7 * DAY_NS
    assert kept.before_ns(2, NOW + off) <= right + 2
    assert kept.before_ns(7 * DAY_NS, NOW + off) <= right + 7 * DAY_NS
    now = 7 * DAY_NS + 3
    assert kept.before_ns(now, NOW + off) == now + NOW + off - 7 * DAY_NS


def test_a_clock_that_is_only_slewed_is_the_same() -> None:
    kept = Retention(WEEK, NOW, None)
    for hour in range(1000):
        kept.before_ns(hour * 3600 * NS, NOW + hour * 1_000_000)
    assert not kept._former


def test_a_machine_that_begins_with_a_wrong_clock() -> None:
    """Time goes on from where the last agent stopped, and then from where the clock was set to."""
    kept = Retention(WEEK, NOW + YEAR_NS, NOW)
    assert kept.before_ns(1, NOW + YEAR_NS) == NOW - 7 * DAY_NS
    assert kept.before_ns(2, NOW) == NOW + 2 - 7 * DAY_NS


def test_after_a_long_rest_what_is_old_goes() -> None:
    """With the second recording."""
    kept = Retention(WEEK, NOW + YEAR_NS, NOW)
    kept.before_ns(1, NOW + YEAR_NS)
    assert kept.before_ns(3600 * NS, NOW + YEAR_NS) == NOW + YEAR_NS + 3600 * NS - 7 * DAY_NS


@pytest.fixture
def keeping(tmp_path: Path) -> Iterator[Keeping]:
    keeping = Keeping(tmp_path)
    yield keeping
    keeping.store.finish(60)


def test_back_and_forth(keeping: Keeping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody mistakes the year, and mends it: every death is there, once."""
    right = Clock().offset_ns
    for number, off in enumerate((0, YEAR_NS, -YEAR_NS, 0)):
        monkeypatch.setattr(module, "Clock", partial(Clock, right + off))
        keeping.second()
        keeping.tell(death(number, NOW + off))
        keeping.written()
    keeping.close()
    assert [one.number for one in segments(tmp_path)] == [1, 2, 3, 4]
    history = History(tmp_path)
    assert {f"web-{number}" for number in range(4)} == {*asked(tmp_path)}
    assert len(asked(tmp_path)) == 4
    history.close()


def test_the_last_death_is_not_the_one_in_the_future(keeping: Keeping, tmp_path: Path) -> None:
    keeping.tell(told(WEB, NOW + YEAR_NS, "killed_before"))
    keeping.tell(told(replace(WEB, container_id="b" * 64), NOW, "killed_now"))
    keeping.close()
    history = History(tmp_path)
    found = history.last_death(wants("web-0"))
    assert found is not None
    assert found.verdict == "killed_now"
    everything = history.rows(wants("web-0"), NOW - NS, running=False)
    assert {row.told.verdict for row in everything if row.told} == {"killed_before", "killed_now"}
    history.close()


# Told twice


@pytest.mark.parametrize("off", [-YEAR_NS, -3600 * NS, 3600 * NS, YEAR_NS, 1_000_000])
def test_an_end_is_one_life(off: int) -> None:
    """The clock is set after the exit: before its verdict, and before its cgroup is removed. A
    slewed clock differs by a little."""
    clock = Hand()
    noted: list[Life] = []
    lives = Lives(clock, noted.append)
    app = place()
    ended = end_of(app)
    index = Index(None)

    def note() -> None:
        index.take(1, 1, None, Entries(tuple(noted)), NOW)
        noted.clear()

    clock.boot_ns = ended.boot_ns + 1
    lives.ended(ended)
    note()
    clock.set(NOW + off)
    life = lives.with_end(ended)  # of the verdict
    assert life.ended_ns == NOW + ended.boot_ns
    lives.ended(ended)
    note()
    app.ended = clock.boot_ns + NS
    noted.append(life_of(app, clock))
    note()
    (found,) = index.lives()
    assert found[0].ended_ns == NOW + ended.boot_ns
