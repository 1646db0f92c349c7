# SPDX-License-Identifier: Apache-2.0
"""The material of a verdict: one container's timeline as of the moment of asking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, overload

from tracer.identity.states import PodState
from tracer.model.event import Event, Place, Process
from tracer.model.kubernetes import Told
from tracer.probes.backlog import DropBody
from tracer.probes.exits import ExitBody, is_container_init
from tracer.probes.oom.decoder import KillBody
from tracer.probes.pagealloc import AllocationBody
from tracer.probes.resets import ResetBody
from tracer.probes.signals import SignalBody
from tracer.why.dropped import Dropped
from tracer.why.entry import SIGKILL, Entry, took_effect
from tracer.why.verdict import Verdict

# How long before an end, or before the last harm, a lost event could have mattered.
WINDOW_NS = 60_000_000_000

ANY_PROBE = "any"  # of losses that were merged
# Events whose process was not described because the ring was full: they may be any container's.
UNDESCRIBED = "undescribed"


@dataclass(frozen=True, slots=True)
class Loss:
    """Lost events of a probe, or events of unknown processes, between two moments."""

    probe: str
    count: int
    since_ns: int
    until_ns: int


@dataclass(slots=True)
class Story:
    """The material of a verdict: one container's timeline, what happened to its pod meanwhile, and
    what the tracing itself missed.

    `traced` are the probes that ran, None if not known; `began_ns` is the start of tracing.
    `earlier` are the ends of the container's earlier lives, each with its verdict. `found` are the
    verdicts so far, the most specific last. `message` is the runtime's message on the end.
    `network` holds what happened to the pod's network, even if it concerns more than this
    container. `outlived` and `survivors` are as in `Life`. `state` is the runtime's state of a pod
    in which nothing happens. `locate` returns the place of a process's crash in words, if known;
    `refused_ns` is when the kernel log reported that it was refused a process. With `both_ends`,
    resets at the other end of a connection were seen, too, if that end is on this node; `ends` are
    the ends of all lives of a pod's only container. `told` is what Kubernetes says of the pod, None
    if it was not asked or says nothing. `dropped` is what the node dropped of other pods'
    connections; None where not every drop of a known reason is seen.
    """

    place: Place
    entries: list[Entry]
    end: Entry[ExitBody] | None
    began_ns: int
    traced: frozenset[str] | None
    losses: list[Loss]
    left_out: int = 0
    earlier: list[tuple[Entry[ExitBody], Verdict]] = field(default_factory=list)
    found: list[Verdict] = field(default_factory=list)
    network: list[Entry] = field(default_factory=list)
    outlived: list[Event[ExitBody]] = field(default_factory=list)
    survivors: list[Process] = field(default_factory=list)
    message: str | None = None
    state: PodState | None = None
    locate: Callable[[Process | None], str | None] = lambda _process: None
    refused_ns: int | None = None
    _by_kind: dict[str, list[Entry]] = field(default_factory=dict, repr=False)
    both_ends: bool = False
    ends: list[int] = field(default_factory=list)
    told: Told | None = None
    dropped: Dropped | None = None

    @property
    def init(self) -> Process | None:
        """The container's first process, if it has ended or any event concerns it."""
        if self.end is not None:
            return self.end.event.about
        abouts = (entry.event.about for entry in self.entries)
        return next((p for p in abouts if p is not None and is_container_init(p)), None)

    @overload
    def of(self, kind: Literal["signal"]) -> list[Entry[SignalBody]]: ...
    @overload
    def of(self, kind: Literal["exit"]) -> list[Entry[ExitBody]]: ...
    @overload
    def of(self, kind: Literal["oom"]) -> list[Entry[KillBody]]: ...
    @overload
    def of(self, kind: Literal["page_alloc_failure"]) -> list[Entry[AllocationBody]]: ...
    @overload
    def of(self, kind: Literal["tcp_reset"]) -> list[Entry[ResetBody]]: ...
    @overload
    def of(self, kind: Literal["backlog_drop"]) -> list[Entry[DropBody]]: ...
    @overload
    def of(self, kind: str) -> list[Entry[Any]]: ...
    def of(self, kind: str) -> list[Any]:
        """Entries of a kind, cached because every verdict asks."""
        found = self._by_kind.get(kind)
        if found is None:
            found = [entry for entry in self.entries if entry.like_first.kind == kind]
            self._by_kind[kind] = found
        return found

    def is_init(self, process: Process | None) -> bool:
        init = self.init
        return (
            process is not None
            and init is not None
            and process.pid == init.pid
            and process.start_boot_ns in (init.start_boot_ns, None)
        )

    def signals(self, process: Process | None = None) -> list[Entry[SignalBody]]:
        """Signals before the end to `process`, by default the container's first one."""
        wanted = process or self.init
        return [
            entry
            for entry in self.of("signal")
            if wanted is not None
            and (about := entry.like_first.about) is not None
            and about.pid == wanted.pid
            and about.start_boot_ns in (wanted.start_boot_ns, None)
            and (self.end is None or entry.boot_ns <= self.end.boot_ns)
        ]

    def blow(self) -> Entry[SignalBody] | None:
        """The signal that ended the container's first process."""
        ended_by = self.end.body["signal"] if self.end else None
        return self.deadly(ended_by["number"]) if ended_by else None

    def deadly(self, number: int, process: Process | None = None) -> Entry[SignalBody] | None:
        """The signal with this number that ended the process. It is the last that reached it,
        because earlier ones may have been handled; for SIGKILL, which cannot be handled, it is the
        first."""
        reached = [
            entry
            for entry in self.signals(process)
            if took_effect(entry) and entry.body["signal"]["number"] == number
        ]
        if number == SIGKILL:
            return reached[0] if reached else None
        return max(reached, key=lambda entry: entry.last_ns, default=None)

    def until_ns(self) -> int:
        """The moment to explain."""
        if self.end is not None:
            return self.end.boot_ns
        return max((entry.last_ns for entry in self.entries), default=self.began_ns)

    def starts_before_tracing(self) -> bool:
        """Whether something may have happened to the container before tracing began."""
        started = self.init.start_boot_ns if self.init else None
        return started is None or started < self.began_ns
