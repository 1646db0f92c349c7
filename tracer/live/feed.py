# SPDX-License-Identifier: Apache-2.0
"""The source of the live view's events: a session in its own thread, and its state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from tracer.live.model import Model
from tracer.model.event import Clock
from tracer.session.session import Summary

if TYPE_CHECKING:
    from tracer.live.player import Player
    from tracer.live.switch import RecordingSwitch


class Feed(Protocol):
    """`source` names the origin of the events: the backend or a recording. `probes` are the running
    ones, empty before they are attached. `player` is set if the events come from a recording,
    `switch` if they can be recorded."""

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
        """Runs in its own thread until `stop` or the end. Raises `KtraceError`."""

    def stop(self) -> None:
        """Ends it soon. Safe in signal handlers."""

    def summary(self) -> Summary: ...
