# SPDX-License-Identifier: Apache-2.0
"""What waits for records."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

import pytest

from tracer.backends.objects import Objects
from tracer.backends.reader import GATHER_SECONDS, SETTLE_SECONDS, Reader
from tracer.model.batch import cell


class Finder:
    """A companion with a thread of its own, which finds a record while the reader waits."""

    interval: float | None = None

    def __init__(self, record: bytes) -> None:
        self._found: list[bytes] = []
        self._record = record
        self.asked = 0

    def wake_with(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def find(self) -> None:
        self._found.append(self._record)
        self._wake()

    def records(self, fresh: frozenset[str]) -> list[bytes]:
        self.asked += 1
        found, self._found = self._found, []
        return found

    def close(self) -> None: ...


def test_who_wakes_too_late_touches_nothing() -> None:
    """A signal may come when everything is closed, and another file has its number by then."""
    reader = Reader({})
    number = reader.woken
    reader.close()
    other = os.memfd_create("other")
    os.dup2(other, number)
    reader.wake()
    assert os.fstat(number).st_size == 0
    for descriptor in {other, number}:
        os.close(descriptor)


def test_a_record_after_a_pause_waits_less_than_those_of_a_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    gathered: list[float] = []
    monkeypatch.setattr("tracer.backends.reader.time.monotonic", lambda: now)
    monkeypatch.setattr(
        "tracer.backends.reader.select.select", lambda *words: gathered.append(words[3])
    )
    ready = os.eventfd(1)
    reader = Reader({})
    reader.watch(ready)
    for pause in (0.0, 0.004, 60.0):
        now += pause
        reader.read(lambda: None, 60)
    assert gathered == pytest.approx([SETTLE_SECONDS, GATHER_SECONDS - 0.004, SETTLE_SECONDS])
    reader.close()
    os.close(ready)


def test_who_is_woken_returns() -> None:
    reader = Reader({})
    reader.wake()
    assert reader.read(lambda: None, 60) is None
    reader.close()


def test_a_companion_that_finds_something_ends_the_waiting() -> None:
    objects = Objects()
    objects.open("backlog")
    drop = objects.schemas[objects.kinds["backlog_drop"]]
    record = drop.pack(time=1)
    reader, finder = Reader(objects.schemas), Finder(record)
    reader.accompany(finder)
    reader.read(lambda: None, 0)  # the first time everybody is asked
    asked = finder.asked
    assert reader.read(lambda: None, 0) is None
    assert finder.asked == asked
    threading.Timer(0.01, finder.find).start()
    batch = reader.read(lambda: None, 60)
    assert batch and batch.data == cell(record)
    assert reader.read(lambda: None, 0) is None
    assert finder.asked == asked + 1
    reader.close()


def test_nothing_gathers_when_nothing_came(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered: list[float] = []
    monkeypatch.setattr(select, "select", lambda *fds: gathered.append(fds[-1]))
    reader = Reader({})
    record = os.eventfd(0)
    reader.watch(record)
    reader.read(lambda: None, 0.001)
    assert not gathered
    os.eventfd_write(record, 1)
    reader.read(lambda: None, 0.001)
    assert gathered
    reader.close()
    os.close(record)
