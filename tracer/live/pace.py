# SPDX-License-Identifier: Apache-2.0
"""The rate at which a session comes back for the next picture."""

from __future__ import annotations

from tracer.identity.resolver import Resolver
from tracer.live.model import Model
from tracer.model.turn import Turn
from tracer.session.run import RunRecorder


class Pace:
    """Makes a session come back in time for the next picture, with or without events. It takes the
    place of the recorder, if there is one."""

    def __init__(self, model: Model, recorder: RunRecorder | None = None) -> None:
        self._model = model
        self._recorder = recorder

    @property
    def unrecorded(self) -> int:
        return self._recorder.unrecorded if self._recorder else 0

    @property
    def failure(self) -> OSError | None:
        return self._recorder.failure if self._recorder else None

    def add(self, turn: Turn, waited: bool, resolver: Resolver) -> None:
        if self._recorder:
            self._recorder.add(turn, waited, resolver)

    def patience(self, now: int) -> float:
        patience = max(0.0, self._model.patience())
        return min(patience, self._recorder.patience(now)) if self._recorder else patience

    def close(self) -> None:
        if self._recorder:
            self._recorder.close()
