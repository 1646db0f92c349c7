# SPDX-License-Identifier: Apache-2.0
"""Turns from a recording: the same as in the live session."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from tracer.model.schema import Schema
from tracer.model.turn import Turn
from tracer.recording.reader import Reader


class ReplaySource:
    """`speed` is a multiple of real time; None is as fast as possible."""

    def __init__(self, reader: Reader, speed: float | None = None) -> None:
        self.schemas: Mapping[int, Schema] = reader.metadata.schemas
        self._turns = reader.turns()
        self._speed = speed
        self._now = reader.metadata.began
        self._started: tuple[float, int] | None = None
        self._interrupted = False

    def turn(self, waiting: bool, patience: float) -> Turn:
        """Adds the last turn, which a cut recording lacks."""
        turn = None if self._interrupted else next(self._turns, None)
        if turn is None:
            return Turn(self._now, last=True)
        self._now = turn.now
        if self._speed:
            self._wait(turn.now, self._speed)
        if turn.last:  # lets the reader check the rest of the file
            deque(self._turns, maxlen=0)
        return turn

    def ask(self, cgroup: int) -> None: ...

    def select(self, cgroup: int, verdict: int) -> None: ...

    def stop(self) -> None:
        """Does nothing: the rest of the recording holds the session's remaining turns."""

    def interrupt(self) -> None:
        """Ends the replay. May be called from a signal handler."""
        self._interrupted = True

    def close(self) -> None: ...

    def _wait(self, now: int, speed: float) -> None:
        started, first = self._started = self._started or (time.monotonic(), now)
        time.sleep(max(0.0, started + (now - first) / 1e9 / speed - time.monotonic()))
