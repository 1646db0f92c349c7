# SPDX-License-Identifier: Apache-2.0
"""Where the live view's events come from: a session in a thread of its own, and what can be asked
of it meanwhile."""

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
