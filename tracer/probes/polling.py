# SPDX-License-Identifier: Apache-2.0
"""A companion that reads what the kernel counts every second, in a thread of its own: reading may
take longer than the ring can wait."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from tracer.probes import LAST_CALL

INTERVAL = 1.0
# How long the thread's last round may take after tracing has ended.
END_SECONDS = 2.0


class Polling:
    """Is asked for records only when `read`, which the thread calls, has found some."""

    interval: float | None = None

    def __init__(self, read: Callable[[], list[bytes]]) -> None:
        self._read = read
        self._found: queue.SimpleQueue[list[bytes]] = queue.SimpleQueue()
        self._wake: Callable[[], None] = lambda: None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ktrace-counters", daemon=True)
        self._thread.start()

    def wake_with(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def records(self, fresh: frozenset[str]) -> list[bytes]:
        if fresh == LAST_CALL:
            self._ending.set()
            self._thread.join(END_SECONDS)
        found = [self._found.get() for _ in range(self._found.qsize())]
        return [record for records in found for record in records]

    def close(self) -> None:
        self._ending.set()

    def _work(self) -> None:
        """Runs one more round after the end."""
        ended = False
        while not ended:
            ended = self._ending.wait(INTERVAL)
            if found := self._read():
                self._found.put(found)
                self._wake()
