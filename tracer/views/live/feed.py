# SPDX-License-Identifier: Apache-2.0
"""Where the live view's events come from: a session in a thread of its own, and what can be asked
of it meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from tracer.event import Clock
from tracer.identity.resolver import Resolver
from tracer.session import Recorder, Summary
from tracer.turn import Turn
from tracer.views.live.model import Model

if TYPE_CHECKING:
    from tracer.views.live.player import Player
    from tracer.views.live.switch import RecordingSwitch


class Feed(Protocol):
    """`source` says what gives the events: the backend, or a recording's name; `probes` are those
    that run, none before they are attached. `player` is there if the events come from a
    recording, `switch` if they can be recorded."""

    node: str
    clock: Clock
    model: Model

    @property
    def source(self) -> str: ...

    @property
    def probes(self) -> Sequence[str]: ...

    @property
    def player(self) -> Player | None: ...

    @property
    def switch(self) -> RecordingSwitch | None: ...

    def run(self) -> None:
        """In a thread of its own, until `stop` or the end. Raises `KtraceError`."""

    def stop(self) -> None:
        """Makes an end soon. May be called from a signal handler."""

    def summary(self) -> Summary: ...


class Pace:
    """Has a session come back in time for the next picture, whether or not anything happened. It
    stands in for the recorder, if there is one."""

    def __init__(self, model: Model, recorder: Recorder | None = None) -> None:
        self._model = model
        self._recorder = recorder

    def add(self, turn: Turn, waited: bool, resolver: Resolver) -> None:
        if self._recorder:
            self._recorder.add(turn, waited, resolver)

    def patience(self, now: int) -> float:
        patience = max(0.0, self._model.patience())
        return min(patience, self._recorder.patience(now)) if self._recorder else patience
