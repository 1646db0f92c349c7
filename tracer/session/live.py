# SPDX-License-Identifier: Apache-2.0
"""Turns from the running kernel: records from a backend, names from the name service, the time.

Records wait in a bounded queue after reading. So a storm leaves the kernel's ring at the speed of
memory, and is processed afterwards.
"""

from __future__ import annotations

import os
import queue
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from tracer.backends import Backend
from tracer.identity.arguments import Arguments
from tracer.identity.names import Arrivals, NameService
from tracer.identity.network_lookup import NetworkLookup
from tracer.kernel import heap
from tracer.kernel.bpf_object import shipped
from tracer.kernel.cgroupfs import Cgroup, container_cgroups
from tracer.model.batch import Batch, Run, cell
from tracer.model.errors import KtraceError
from tracer.model.event import Clock
from tracer.model.kubernetes import Fact
from tracer.model.names import Names
from tracer.model.path import reversed_names
from tracer.model.schema import Schema
from tracer.model.selection import BOTH_SIDES, SIDES, Selection
from tracer.model.turn import IDLE_SECONDS, NAME_SECONDS, Lost, Part, Turn
from tracer.session.ends import Ends

# Raw records read ahead. More stay in the ring; records that find no room there count as lost.
MAX_BACKLOG_BYTES = 16 << 20
# Records to process before the next look at the ring.
SLICE = 4096
# Of who is frugal, in bytes: what is made of a turn is several times as large for a moment.
FRUGAL_SLICE_BYTES = 1 << 20
# Cgroups in one turn, of those found at the start.
CGROUPS = 1024
# Without decoding, everything that was read is one turn.
UNDECODED_BYTES = 1 << 20
# Waiting events are checked often, because their deadlines are near.
WAITING_SECONDS = 0.02
# Even if the session has more patience: two CPUs that write at the same moment may both think that
# the other one wakes the reader, and names wake nobody.
LOOK_SECONDS = 1.0
# Freed memory goes back to the kernel at this interval: that takes up to a millisecond.
HEAP_SECONDS = 10.0
NS = 1_000_000_000

T = TypeVar("T")


class LiveSource:
    """`names` is running and puts its findings into `arrivals`. `decoding` says whether the session
    decodes records, which makes them expensive; `argv` whether arguments of processes are kept.
    `facts` returns what Kubernetes has said since the last call."""

    def __init__(
        self,
        backend: Backend,
        names: NameService,
        arrivals: Arrivals,
        clock: Clock,
        *,
        duration: float | None = None,
        decoding: bool = True,
        argv: bool = True,
        facts: Callable[[], Sequence[Fact]] = tuple,
        frugal: bool = False,
    ) -> None:
        self.schemas: Mapping[int, Schema] = {}
        self._backend = backend
        self._service = names
        self._arrivals = arrivals
        self._clock = clock
        self._duration = duration
        self._slice = SLICE if decoding else sys.maxsize
        self._most = MAX_BACKLOG_BYTES if decoding else UNDECODED_BYTES
        self._argv = argv
        self._facts = facts
        self._frugal = frugal
        self._ends = Ends()
        self._tickets: dict[int, int] = {}  # by cgroup
        self._told = Names()
        self._backlog: deque[tuple[Batch, Run]] = deque()
        self._backlog_bytes = 0
        self._lost: dict[str, int] = {}
        self._lost_checked = self._given_back = 0
        self._told_facts: Sequence[Fact] = ()
        self._running: dict[int, Cgroup] = {}
        self._networks: NetworkLookup | None = None
        self._end: int | None = None
        self._give_up: int | None = None
        self._failure: KtraceError | None = None
        self._stopping = self._detached = self._closed = False

    def attached(self, selection: Selection) -> None:
        """The backend is attached: nothing is missed any more."""
        self.schemas = self._backend.schemas
        for pid in selection.pids:
            self._backend.trace_pid(pid)
        self._numbers = _verdicts()
        self._kinds = {schema.name: kind for kind, schema in self.schemas.items()}
        self._arguments = Arguments(
            self.schemas[self._kinds["process"]], blank=not self._argv, frugal=self._frugal
        )
        if "network" in self._kinds:
            self._networks = NetworkLookup({s.name: s for s in self.schemas.values()})
            if not self._backend.walked:
                self._networks.list_all()
        self._lost_checked = self._clock.now()

    def begin(self) -> Iterator[Turn]:
        """The first turns: the cgroups of containers that exist already."""
        found = container_cgroups()
        self._running = {cgroup.id: cgroup for cgroup in found}
        kind = self._kinds["cgroup"]
        for at in range(0, len(found), CGROUPS):
            now = self._clock.now()
            records = [described(c, self.schemas[kind], now) for c in found[at : at + CGROUPS]]
            yield Turn(now, [Part(kind, len(records), b"".join(map(cell, records)))])

    def turn(self, waiting: bool, patience: float = IDLE_SECONDS) -> Turn:
        self._remember_running()
        now = self._clock.now()
        if self._end is None and self._duration is not None:
            # finding the existing cgroups may have taken a while
            self._end = now + int(self._duration * NS)
        if not self._detached and (self._stopping or (self._end and now >= self._end)):
            self._detached = True
            self._backend.detach()
        self._read(self._patience(waiting, patience, now))
        self._add_ends()
        parts = self._take()
        if self._networks:  # descriptions precede the events that refer to them
            parts = self._networks.take() + parts
        more = bool(self._backlog)
        answered = self._answered()  # before the names, so that these include the answers'
        names = self._news(wait=self._detached and waiting and not parts)
        now = self._clock.now()
        last = self._detached and not parts and self._is_over(waiting, now)
        lost = None
        if last or now >= self._lost_checked + NS:
            lost = self._lost_since(now)
        if last or now >= self._given_back + HEAP_SECONDS * NS:
            self._given_back = now
            heap.give_back()
        failure = self._failure if last else None
        facts, self._told_facts = self._told_facts or self._facts(), ()
        return Turn(now, parts, more, names, answered, lost, last, failure, facts)

    def ask(self, cgroup: int) -> None:
        self._tickets[cgroup] = self._service.refresh()

    def check(self, cgroups: Sequence[int]) -> bool:
        return self._ends.ask(cgroups)

    def select(self, cgroup: int, verdict: int) -> None:
        self._backend.select(cgroup, self._numbers[verdict])
        if not verdict:
            self._running.pop(cgroup, None)

    def stop(self) -> None:
        self._stopping = True
        self._backend.wake()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._service.stop()
        if self._networks:
            self._networks.close()
        self._backend.close()

    def _remember_running(self) -> None:
        while self._argv and self._running:
            self._arguments.remember(self._running.popitem()[1].own_processes())

    def _patience(self, waiting: bool, patience: float, now: int) -> float:
        if self._backlog or self._detached:
            return 0
        seconds = min(patience, WAITING_SECONDS) if waiting else patience
        return seconds if self._end is None else min(seconds, (self._end - now) / NS)

    def _read(self, patience: float) -> None:
        """A failure of the backend ends the tracing once the records read so far are processed."""
        while self._backlog_bytes < self._most:
            try:
                batch = self._backend.read(min(patience, LOOK_SECONDS))
            except KtraceError as failure:
                self._failure = self._failure or failure
                self._stopping = True
                break
            patience -= LOOK_SECONDS
            if batch is None and (patience <= 0 or self._stopping or self._has_news()):
                break
            if batch is None:
                continue
            patience = 0
            if batch.runs:
                self._backlog.extend((batch, run) for run in batch.runs)
                self._backlog_bytes += len(batch.data)

    def _has_news(self) -> bool:
        """Whether a turn would hold something besides records."""
        self._told_facts = self._told_facts or self._facts()
        if self._told_facts or self._ends.found or not self._arrivals.empty():
            return True
        if self._networks and self._networks.found:
            return True
        return any(map(self._service.done, self._tickets.values()))

    def _add_ends(self) -> None:
        """Lost ones that were found, behind what was read: records of those cgroups may be among
        that."""
        if gone := self._ends.take():
            kind, now = self._kinds["cgroup_end"], self._clock.now()
            pack = self.schemas[kind].pack
            data = b"".join(cell(pack(time=now, cgroup=cgroup)) for cgroup in gone)
            self._backlog.append((Batch(data, []), Run(kind, len(gone), 0, len(data))))
            self._backlog_bytes += len(data)

    def _take(self) -> list[Part]:
        """At most a slice of the backlog."""
        parts: list[Part] = []
        room = self._slice
        left = FRUGAL_SLICE_BYTES if self._frugal else sys.maxsize
        process = self._kinds["process"]
        while self._backlog and room and left > 0:
            batch, run = self._backlog.popleft()
            fitting = max(1, left * run.count // (run.end - run.start))
            run, rest = _cut(run, min(room, fitting))
            room -= run.count
            left -= run.end - run.start
            if rest:
                self._backlog.appendleft((batch, rest))
            elif not self._backlog or self._backlog[0][0] is not batch:
                self._backlog_bytes -= len(batch.data)
            cells: bytes | memoryview = memoryview(batch.data)[run.start : run.end]
            if run.kind == process:
                cells = self._arguments.complete(cells)
            if self._networks:
                self._networks.look(self.schemas[run.kind], cells)
            parts.append(Part(run.kind, run.count, cells))
        return parts

    def _answered(self) -> list[int]:
        done = [cgroup for cgroup, ticket in self._tickets.items() if self._service.done(ticket)]
        for cgroup in done:
            del self._tickets[cgroup]
        return done

    def _news(self, wait: bool) -> Names:
        """New names since the last call."""
        fresh = Names()
        try:
            while wait or not self._arrivals.empty():
                told = self._arrivals.get(timeout=0.05) if wait else self._arrivals.get()
                fresh.pods.update(_new(told.pods, self._told.pods))
                fresh.containers.update(_new(told.containers, self._told.containers))
                self._told, wait = told, False
        except queue.Empty:
            pass
        return fresh

    def _is_over(self, waiting: bool, now: int) -> bool:
        """Nothing is left to read. Events may still wait for names, for a limited time."""
        if self._give_up is None:
            self._give_up = now + int(NAME_SECONDS * NS)
        return not waiting or now >= self._give_up

    def _lost_since(self, now: int) -> Lost | None:
        since, self._lost_checked = self._lost_checked, now
        before, self._lost = self._lost, self._backend.lost()
        new = {name: count - before.get(name, 0) for name, count in self._lost.items()}
        counts = {name: count for name, count in new.items() if count}
        return Lost(since, counts) if counts else None


def described(cgroup: Cgroup, schema: Schema, now: int) -> bytes:
    """The record of a cgroup found in cgroupfs, as the kernel side would write it: of a path that
    is too deep or too long it holds the outermost names."""
    limits = shipped("context").numbers("kt_limits")
    names = os.fsencode(cgroup.path).strip(b"/").split(b"/")[: limits["KT_CGROUP_DEPTH"]]
    while sum(map(len, names)) + len(names) > limits["KT_CGROUP_PATH_BYTES"]:
        names.pop()
    path = reversed_names(names)
    return schema.pack(time=now, cgroup=cgroup.id, path=path, path_bytes=len(path), path_whole=True)


def _verdicts() -> dict[int, int]:
    """The kernel side's numbers for all verdicts."""
    numbers = shipped("context").numbers("kt_selected")
    sides = {bit: numbers[name] for bit, name in SIDES.items()}
    return {
        verdict: sum(number for bit, number in sides.items() if verdict & bit)
        for verdict in range(BOTH_SIDES + 1)
    }


def _new(told: Mapping[str, T], known: Mapping[str, T]) -> dict[str, T]:
    return {key: value for key, value in told.items() if known.get(key) != value}


def _cut(run: Run, most: int) -> tuple[Run, Run | None]:
    if run.count <= most:
        return run, None
    middle = run.start + (run.end - run.start) // run.count * most
    return (
        Run(run.kind, most, run.start, middle),
        Run(run.kind, run.count - most, middle, run.end),
    )
