# SPDX-License-Identifier: Apache-2.0
"""A turn: a session's input at one moment. Its output is a function of the turns alone.

A turn holds everything a session learns: records, the time, new names, losses. A recording is
therefore a session's turns in a file, and a replay gives the same turns to the same code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tracer.model.errors import KtraceError
from tracer.model.kubernetes import Fact
from tracer.model.names import Names
from tracer.model.schema import Schema

CONTEXT_EVENTS = ("process", "cgroup", "cgroup_end")
# An event of a pod whose name is still unknown waits this long, and so do the events after it.
NAME_SECONDS = 1.0
# The time between turns when idle.
IDLE_SECONDS = 1.0


@dataclass(slots=True)
class Part:
    """`count` records of one kind, as ring cells one after the other."""

    kind: int
    count: int
    cells: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Lost:
    """Records that found no room since `since` (nanoseconds since boot), counted by event name."""

    since: int
    counts: Mapping[str, int]


@dataclass(slots=True)
class Turn:
    """The input of one step.

    `now` is in nanoseconds since boot. `more` says that records older than `now` may still come.
    `names` are the new ones. `answered` are the cgroups for whose names every source has been asked
    since the session wanted them. `failure` is set in the last turn if it ended the tracing.
    `facts` are what Kubernetes has said."""

    now: int
    parts: Sequence[Part] = ()
    more: bool = False
    names: Names = field(default_factory=Names)
    answered: Sequence[int] = ()
    lost: Lost | None = None
    last: bool = False
    failure: KtraceError | None = None
    facts: Sequence[Fact] = ()

    @property
    def empty(self) -> bool:
        """Whether the turn holds nothing but the time."""
        named = self.names.pods or self.names.containers or self.answered
        told = named or self.lost or self.facts
        return not (self.parts or told or self.last)


class Source(Protocol):
    """A source of turns. `schemas` are the record layouts by kind."""

    schemas: Mapping[int, Schema]

    def turn(self, waiting: bool, patience: float) -> Turn:
        """The next turn, after at most `patience` seconds. `waiting` says that the session holds
        events until some time has passed. No turn follows the `last` one."""

    def ask(self, cgroup: int) -> None:
        """Asks for the names of this cgroup's pod and container."""

    def check(self, cgroups: Sequence[int]) -> bool:
        """Asks which of these cgroups are gone: ends were lost. A later turn holds records of those
        ends. False if it still looks for others."""

    def select(self, cgroup: int, verdict: int) -> None:
        """Sets which events of this cgroup are wanted (`enum kt_selected`)."""

    def stop(self) -> None:
        """Makes the last turn come soon. May be called from a signal handler."""

    def close(self) -> None:
        """Releases everything. May be called more than once."""
