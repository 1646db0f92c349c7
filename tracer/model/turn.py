# SPDX-License-Identifier: Apache-2.0
"""What a session is given in one turn. Its output is a function of the turns alone.

Whatever a session must know of the world stands in a turn: the records, the time, the names that
have come, what was lost. So a recording is nothing but the turns of a session, and a replay gives
the same turns to the same code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tracer.model.errors import KtraceError
from tracer.model.names import Names
from tracer.model.schema import Schema

CONTEXT_EVENTS = ("process", "cgroup", "cgroup_end")
# Events of a pod whose name is just being asked for wait this long, and so does what follows.
NAME_SECONDS = 1.0
# Without anything to do there is a turn so often.
IDLE_SECONDS = 1.0


@dataclass(slots=True)
class Part:
    """`count` records of one kind, as ring cells one after the other."""

    kind: int
    count: int
    cells: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Lost:
    """So many records of each event name found no room since `since` (nanoseconds since boot)."""

    since: int
    counts: Mapping[str, int]


@dataclass(slots=True)
class Turn:
    """`now` is in nanoseconds since boot; `more` says that records older than that may still come;
    `names` are those that are new; `answered` are the cgroups for whose names every source has been
    asked since the session wanted them; `failure` stands in the last one, if tracing ended because
    of it."""

    now: int
    parts: Sequence[Part] = ()
    more: bool = False
    names: Names = field(default_factory=Names)
    answered: Sequence[int] = ()
    lost: Lost | None = None
    last: bool = False
    failure: KtraceError | None = None

    @property
    def empty(self) -> bool:
        """Nothing but the time."""
        told = self.names.pods or self.names.containers or self.answered or self.lost
        return not (self.parts or told or self.last)


class Source(Protocol):
    """Where turns come from. `schemas` are by the kinds in the parts."""

    schemas: Mapping[int, Schema]

    def turn(self, waiting: bool, patience: float) -> Turn:
        """The next turn, after at most `patience` seconds; `waiting` says that the session has
        events that wait for time to pass. After the one that is `last` there is no other."""

    def ask(self, cgroup: int) -> None:
        """The names of this cgroup's pod and container are wanted."""

    def select(self, cgroup: int, verdict: int) -> None:
        """Whether events of this cgroup are wanted (`enum kt_selected`)."""

    def stop(self) -> None:
        """Lets the last turn come soon. May be called from a signal handler."""

    def close(self) -> None:
        """Gives everything back. May be called more than once."""
