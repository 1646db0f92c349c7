# SPDX-License-Identifier: Apache-2.0
"""Turns from a recording: the same as in the live session."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence

from tracer.model.schema import Schema
from tracer.model.turn import Part, Turn
from tracer.recording.reader import Reader


class ReplaySource:
    """`speed` is a multiple of real time; None is as fast as possible. Without `argv`, the turns
    are as if the arguments of processes had not been recorded. `now` is the time of the last one,
    in nanoseconds since boot."""

    def __init__(self, reader: Reader, speed: float | None = None, argv: bool = True) -> None:
        self.schemas: Mapping[int, Schema] = reader.metadata.schemas
        self._turns = reader.turns()
        self._with_argv = {kind: s for kind, s in self.schemas.items() if _has_argv(s) and not argv}
        self._speed = speed
        self.now = reader.metadata.began
        self._started: tuple[float, int] | None = None
        self._interrupted = False

    def turn(self, waiting: bool, patience: float) -> Turn:
        """Adds the last turn, which a cut recording lacks."""
        turn = None if self._interrupted else next(self._turns, None)
        if turn is None:
            return Turn(self.now, last=True)
        self.now = turn.now
        if self._with_argv:
            turn.parts = [self._without_argv(part) for part in turn.parts]
        if self._speed:
            self._wait(turn.now, self._speed)
        if turn.last:  # lets the reader check the rest of the file
            deque(self._turns, maxlen=0)
        return turn

    def ask(self, cgroup: int) -> None: ...

    def check(self, cgroups: Sequence[int]) -> bool:
        """What was found then stands in the recording."""
        return True

    def select(self, cgroup: int, verdict: int) -> None: ...

    def stop(self) -> None:
        """Does nothing: the rest of the recording holds the session's remaining turns."""

    def interrupt(self) -> None:
        """Ends the replay. May be called from a signal handler."""
        self._interrupted = True

    def close(self) -> None: ...

    def _without_argv(self, part: Part) -> Part:
        schema = self._with_argv.get(part.kind)
        if schema is None:
            return part
        blank = (one._replace(argv=b"", argv_bytes=0) for one in schema.cells(part.cells))
        return Part(part.kind, part.count, b"".join(schema.cell.pack(*one) for one in blank))

    def _wait(self, now: int, speed: float) -> None:
        started, first = self._started = self._started or (time.monotonic(), now)
        time.sleep(max(0.0, started + (now - first) / 1e9 / speed - time.monotonic()))


def _has_argv(schema: Schema) -> bool:
    return {"argv", "argv_bytes"} <= {field.name for field in schema.fields}
