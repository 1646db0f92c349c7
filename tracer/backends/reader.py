# SPDX-License-Identifier: Apache-2.0
"""Waiting for records from any descriptor, with the companions' records in front."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Callable, Mapping

from tracer.model.batch import Batch, cell, split
from tracer.model.schema import Schema
from tracer.probes import LAST_CALL, Companion, Listening, Waking

# A fetch comes no sooner after the one before, so that a steady stream costs at most a hundred
# wake-ups a second.
GATHER_SECONDS = 0.01
# After a pause it comes when a session can put the first record in its order.
SETTLE_SECONDS = 0.0015


class Reader:
    """`schemas` are by the kind numbers in the records, and may grow."""

    def __init__(self, schemas: Mapping[int, Schema]) -> None:
        self._schemas = schemas
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._companions: list[Companion] = []
        self._next_call = self._fetched = 0.0
        self._called = False
        self._waiting: deque[Batch] = deque()

    def watch(self, fd: int) -> None:
        """`fd` is readable when there are records."""
        self._epoll.register(fd, select.EPOLLIN)

    def accompany(self, companion: Companion) -> None:
        self._companions.append(companion)
        if isinstance(companion, Waking):
            companion.wake_with(self._ask_companions)

    def read(self, take: Callable[[], Batch | None], timeout: float) -> Batch | None:
        """The result of `take` with the companions' records, after at most `timeout` seconds."""
        if self._waiting:
            return self._waiting.popleft()
        if self._companions:
            timeout = min(timeout, max(0.0, self._next_call - time.monotonic()))
        batch = take()
        if batch is None:
            self._wait(timeout)
            batch = take()
        return self._with_companions(batch) if self._companions else batch

    @property
    def woken(self) -> int:
        """A descriptor that is readable from `wake` until the next `read`."""
        return self._wake

    def wake(self) -> None:
        """Does nothing if it is closed: a stop may come late."""
        if self._epoll.closed:
            return
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._wake, 1)

    def last_call(self) -> None:
        """Tracing has ended; the companions' last records can still be read."""
        last = [cell(r) for companion in self._companions for r in companion.records(LAST_CALL)]
        if last:
            self._waiting.append(split(b"".join(last))[0])

    def close(self) -> None:
        while self._companions:
            self._companions.pop().close()
        if not self._epoll.closed:
            self._epoll.close()
            os.close(self._wake)

    def _ask_companions(self) -> None:
        """Called in a companion's own thread."""
        self._called = True
        self.wake()

    def _wait(self, timeout: float) -> None:
        ready = [fd for fd, _ in self._epoll.poll(timeout)]
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        elif ready:
            now = time.monotonic()
            gather = min(timeout, max(SETTLE_SECONDS, self._fetched + GATHER_SECONDS - now))
            select.select([self._wake], [], [], gather)
        self._fetched = time.monotonic()

    def _with_companions(self, batch: Batch | None) -> Batch | None:
        """Puts the companions' records in front."""
        now = time.monotonic()
        if batch:
            self._let_hear(batch)
        fresh = frozenset(self._schemas[run.kind].name for run in (batch.runs if batch else ()))
        due = now >= self._next_call
        if not (fresh or due or self._called):
            return batch
        self._called = False
        cells = [cell(r) for companion in self._companions for r in companion.records(fresh)]
        if due:
            intervals = [c.interval for c in self._companions if c.interval is not None]
            self._next_call = now + min(intervals, default=3600.0)
        if not cells:
            return batch
        if batch:
            self._waiting.append(batch)
        return split(b"".join(cells))[0]

    def _let_hear(self, batch: Batch) -> None:
        for companion in self._companions:
            if isinstance(companion, Listening):
                for run in batch.runs:
                    schema = self._schemas[run.kind]
                    if schema.name == companion.hears:
                        data = memoryview(batch.data)[run.start : run.end]
                        companion.hear(schema.cells(data))
