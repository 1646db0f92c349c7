# SPDX-License-Identifier: Apache-2.0
"""Turns from a recording: the same that the live session was given."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from tracer.model.schema import Schema
from tracer.model.turn import Turn
from tracer.recording.reader import Reader


class ReplaySource:
    """`speed` is how many times as fast as it happened; None: as fast as possible."""

    def __init__(self, reader: Reader, speed: float | None = None) -> None:
        self.schemas: Mapping[int, Schema] = reader.metadata.schemas
        self._turns = reader.turns()
        self._speed = speed
        self._now = reader.metadata.began
        self._started: tuple[float, int] | None = None
        self._interrupted = False

    def turn(self, waiting: bool, patience: float) -> Turn:
        """A recording that was cut lacks its last turn, which is made up here."""
        turn = None if self._interrupted else next(self._turns, None)
        if turn is None:
            return Turn(self._now, last=True)
        self._now = turn.now
        if self._speed:
            self._wait(turn.now, self._speed)
        if turn.last:  # the reader shall know what became of the file behind it
            deque(self._turns, maxlen=0)
        return turn

    def ask(self, cgroup: int) -> None: ...

    def select(self, cgroup: int, verdict: int) -> None: ...

    def stop(self) -> None:
        """The recording itself tells what came after the session had enough."""

    def interrupt(self) -> None:
        """Makes an end here. May be called from a signal handler."""
        self._interrupted = True

    def close(self) -> None: ...

    def _wait(self, now: int, speed: float) -> None:
        started, first = self._started = self._started or (time.monotonic(), now)
        time.sleep(max(0.0, started + (now - first) / 1e9 / speed - time.monotonic()))
