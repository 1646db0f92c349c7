# SPDX-License-Identifier: Apache-2.0
"""A publisher that is slow, that fails, that is gone or full: nobody waits for it, and every item
is sent or counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from tests.support.wait import wait_for
from tests.unit.agent.fakes.board import Board
from tracer.agent.item import Item, ItemKind, Severity
from tracer.agent.outlet import MAX_QUEUE, Outlet
from tracer.agent.publishers import NotSent, Refused


def item(number: int = 0, kind: ItemKind = "verdict", padding: int = 0) -> Item:
    return Item(kind, number, Severity.WARN, f"number {number}", b'"' + b"x" * padding + b'"')


class Failing:
    """Fails so many times, then works."""

    def __init__(self, times: float, failure: Exception) -> None:
        self.left = times
        self.failure = failure
        self.calls: list[int] = []

    def __call__(self, items: Sequence[Item]) -> None:
        self.calls.append(len(items))
        if self.left > 0:
            self.left -= 1
            raise self.failure


class Gate:
    """Holds every `send` until it is opened."""

    def __init__(self) -> None:
        self.held = threading.Event()
        self.open = threading.Event()

    def __call__(self, items: Sequence[Item]) -> None:
        self.held.set()
        assert self.open.wait(60)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def outlet(board: Board, said: list[str] | None = None, most: int = MAX_QUEUE) -> Outlet:
    made = Outlet("board", board, (said if said is not None else []).append, most=most, pause=0.01)
    made.start()
    return made


def test_everything_arrives_in_order() -> None:
    board = Board()
    line = outlet(board)
    for number in range(25):
        line.accept(item(number))
    line.stop(60)
    assert [one.time_ns for one in board.sent] == list(range(25))
    assert line.counts.sent == 25
    assert line.counts.dropped == line.counts.queued == line.counts.queued_bytes == 0
    assert board.closed.is_set()


def test_a_slow_publisher_slows_nobody(gate: Gate) -> None:
    line = outlet(Board(gate))
    line.accept(item())
    assert gate.held.wait(60)
    began = time.monotonic()
    for number in range(1000):
        line.accept(item(number))
    assert time.monotonic() - began < 5
    assert line.counts.queued == 1001


def test_a_full_queue_drops_and_counts(gate: Gate) -> None:
    line = outlet(Board(gate), most=200_000)
    line.accept(item())
    assert gate.held.wait(60)
    for number in range(1000):
        line.accept(item(number, padding=1000))
    counts = line.counts
    assert 0 < counts.dropped < 1000
    assert counts.queued_bytes <= 100_000 + 1_000
    gate.open.set()
    line.stop(60)
    assert line.counts.sent + line.counts.dropped == 1001


def test_a_storm_of_events_does_not_push_a_verdict_out(gate: Gate) -> None:
    board = Board(gate)
    line = outlet(board, most=200_000)
    line.accept(item())
    assert gate.held.wait(60)
    for number in range(1000):
        line.accept(item(number, "event", padding=1000))
    line.accept(item(4711))
    gate.open.set()
    line.stop(60)
    assert board.sent[1].time_ns == 4711, "and it goes first"


def test_what_fails_is_sent_again() -> None:
    failing, said = Failing(3, NotSent("nobody is there", remedy="start it")), list[str]()
    board = Board(failing)
    line = outlet(board, said)
    line.accept(item(23))
    wait_for("it is sent", lambda: line.counts.sent == 1)
    assert line.counts.retried == 3
    assert [one.time_ns for one in board.sent] == [23]
    assert said == ["ktrace: board: nobody is there; start it; tracing goes on"], "said once"
    failing.left = 1
    line.accept(item(24))
    wait_for("it is sent", lambda: line.counts.sent == 2)
    assert len(said) == 2, "and again after it had worked"
    line.stop(60)


def test_only_the_rest_is_sent_again() -> None:
    board = Board()
    calls: list[list[int]] = []

    def one_at_a_time(items: Sequence[Item]) -> None:
        calls.append([one.time_ns for one in items])
        if len(items) > 1:
            raise NotSent("too fast", items[1:])

    gate = Gate()
    board.act = gate
    line = outlet(board)
    line.accept(item(0))
    assert gate.held.wait(60)
    for number in (1, 2, 3):
        line.accept(item(number))
    board.act = one_at_a_time
    gate.open.set()
    wait_for("all are sent", lambda: line.counts.sent == 4)
    assert calls == [[1, 2, 3], [2, 3], [3]]
    line.stop(60)


@pytest.mark.parametrize(
    "failure",
    [Refused("it is no JSON"), Refused("it is no JSON", 1), RuntimeError("a mistake")],
    ids=["all", "some", "mistake"],
)
def test_what_is_refused_is_counted_and_forgotten(failure: Exception) -> None:
    said: list[str] = []
    failing = Failing(1, failure)
    line = outlet(Board(failing), said)
    line.accept(item(1))
    wait_for("it is dropped", lambda: line.counts.dropped == 1)
    line.accept(item(2))
    wait_for("the next one is sent", lambda: line.counts.sent == 1)
    line.stop(60)
    assert failing.calls == [1, 1]
    assert len(said) == 1


def test_the_end_waits_only_so_long(gate: Gate) -> None:
    said: list[str] = []
    line = outlet(Board(gate), said)
    for number in range(5):
        line.accept(item(number))
    assert gate.held.wait(60)
    began = time.monotonic()
    line.stop(0.2)
    assert time.monotonic() - began < 10
    assert line.counts.dropped == 5
    assert said == ["ktrace: board: 5 items were not sent before the end"]
    gate.open.set()
    wait_for("its thread ends", lambda: not line._thread.is_alive())
    assert line.counts.sent == 0, "nothing is counted twice"


def test_the_end_does_not_wait_for_the_next_attempt() -> None:
    line = Outlet("board", Board(Failing(99, NotSent("away", after=200))), lambda words: None)
    line.start()
    line.accept(item())
    wait_for("it has been tried", lambda: line.counts.retried == 1 or line.counts.queued == 1)
    began = time.monotonic()
    line.stop(30)
    assert time.monotonic() - began < 10
    assert line.counts.dropped == 1


def test_failures_that_vary_are_not_all_told() -> None:
    said: list[str] = []
    numbers = iter(range(1000))

    def always_another(items: Sequence[Item]) -> None:
        number = next(numbers)
        raise Refused(f"failure {number} {'x' * 1000}")

    line = outlet(Board(always_another), said)
    for number in range(500):
        line.accept(item(number))
    line.stop(60)
    assert line.counts.dropped == 500
    assert 1 < len(said) <= 8
    assert all(len(words) < 500 for words in said)
