# SPDX-License-Identifier: Apache-2.0
"""What a session of the live view does after each turn."""

from __future__ import annotations

from tracer.identity.resolver import Resolver
from tracer.live.model import Model
from tracer.live.told import told_events
from tracer.model.event import Clock
from tracer.model.selection import Selection
from tracer.model.turn import Turn
from tracer.session.run import RunRecorder


class Pace:
    """Makes a session come back in time for the next picture, with or without events, and hands on
    what Kubernetes says of the `wanted` pods. It takes the place of the recorder, if there is
    one."""

    def __init__(
        self,
        model: Model,
        clock: Clock,
        wanted: Selection,
        recorder: RunRecorder | None = None,
    ) -> None:
        self._model = model
        self._clock = clock
        self._wanted = wanted
        self._recorder = recorder

    @property
    def unrecorded(self) -> int:
        return self._recorder.unrecorded if self._recorder else 0

    @property
    def failure(self) -> OSError | None:
        return self._recorder.failure if self._recorder else None

    def add(self, turn: Turn, waited: bool, resolver: Resolver) -> None:
        if turn.facts:
            self._model.told(told_events(turn.facts, resolver, self._clock, self._wanted))
        if self._recorder:
            self._recorder.add(turn, waited, resolver)

    def patience(self, now: int) -> float:
        patience = max(0.0, self._model.patience())
        return min(patience, self._recorder.patience(now)) if self._recorder else patience

    def close(self) -> None:
        if self._recorder:
            self._recorder.close()
