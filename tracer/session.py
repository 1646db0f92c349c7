# SPDX-License-Identifier: Apache-2.0
"""A tracing session: backend → decode → identity → selection → sink.

One thread does it all, in turns short enough that the ring is emptied often; only names come from
other threads. Records that were read wait in a bounded queue, so a storm is taken out of the
kernel's ring at the speed of memory and worked off afterwards.
"""

from __future__ import annotations

import queue
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Protocol

from tracer.backends import Backend
from tracer.backends.batch import Batch, Run
from tracer.bounded import keep
from tracer.event import Clock, Event, Place
from tracer.identity.model import Names
from tracer.identity.names import NameService
from tracer.identity.resolver import MAX_PLACES, Resolver
from tracer.identity.tree import container_cgroups
from tracer.probes import Probe
from tracer.selection import Selection

# Raw records read ahead; more stay in the ring, and what finds no room there is counted as lost.
MAX_BACKLOG_BYTES = 16 << 20
# Events of a pod whose name is just being asked for wait this long, and so does what follows.
NAME_SECONDS = 1.0
MAX_HELD = 20_000
# So many records are worked off before the ring is looked at again.
SLICE = 4096
IDLE_SECONDS = 1.0
# How far two neighbours in the ring can be out of order.
REORDER_NS = 1_000_000


CONTEXT_EVENTS = ("process", "cgroup")
_BOOT_NS = attrgetter("boot_ns")


class Sink(Protocol):
    def event(self, event: Event) -> None: ...

    def flush(self) -> None:
        """Called when nothing more is waiting."""


@dataclass(slots=True)
class Summary:
    """`nameless` counts events left out because their pod's name, which a selector asks for, never
    became known; `undescribed` the descriptions of processes and cgroups that were lost, so that
    events refer to less than they could."""

    events: int = 0
    lost: int = 0
    nameless: int = 0
    seconds: float = 0.0
    undescribed: int = 0


class Session:
    """`names` is running and puts what it finds into `arrivals`."""

    def __init__(
        self,
        backend: Backend,
        probes: Sequence[Probe],
        selection: Selection,
        names: NameService,
        arrivals: queue.SimpleQueue[Names],
        sink: Sink,
        clock: Clock,
    ) -> None:
        self.resolver = Resolver(self._on_place)
        self.summary = Summary()
        self._backend = backend
        self._probes = list(probes)
        self._selection = selection
        self._sink = sink
        self._clock = clock
        self._decoders: dict[int, Callable[[Any, Resolver], Event | None]] = {}
        self._context: dict[int, Callable[[Any], None]] = {}
        self._probe_of: dict[str, str] = {}
        self._names = names
        self._arrivals = arrivals
        self._undecided: dict[int, Place] = {}
        self._asked: dict[int, tuple[int, float]] = {}  # cgroup: (ticket, deadline)
        self._recent: list[Event] = []
        self._held: deque[Event] = deque()
        self._backlog: deque[tuple[Batch, Run]] = deque()
        self._backlog_bytes = 0
        self._lost_before: dict[str, int] = {}
        self._lost_checked = 0
        self._limit: int | None = None
        self.stopping = False

    def start(self, settings: Mapping[str, int]) -> None:
        """Attaches everything; from its return on nothing is missed."""
        mode, by_pid = self._selection.mode, bool(self._selection.pids)
        values = {"kt_mode": int(mode), "kt_by_pid": int(by_pid)}
        self._backend.attach(self._probes, values | dict(settings))
        self._lost_checked = self._clock.now()
        for pid in self._selection.pids:
            self._backend.trace_pid(pid)
        add = self.resolver.add_process, self.resolver.add_cgroup
        context = dict(zip(CONTEXT_EVENTS, add, strict=True))
        by_event = {event: probe for probe in self._probes for event in probe.decode}
        for kind, schema in self._backend.schemas.items():
            if schema.name in context:
                self._context[kind] = context[schema.name]
            else:
                self._decoders[kind] = by_event[schema.name].decode[schema.name]
                self._probe_of[schema.name] = by_event[schema.name].name
        self._running = container_cgroups()
        for cgroup in self._running:
            self.resolver.add_path(cgroup.id, cgroup.path)

    def run(self, duration: float | None = None, count: int | None = None) -> Summary:
        """Until `stop`, the end of `duration` seconds or `count` events."""
        started = time.monotonic()
        end = None if duration is None else started + duration
        self._limit = count
        next_check = started + IDLE_SECONDS
        try:
            self._remember_running()
            while not self.stopping:
                now = time.monotonic()
                if end is not None and now >= end:
                    break
                self._turn(min(end - now, IDLE_SECONDS) if end else IDLE_SECONDS)
                if now >= next_check:
                    self._report_lost()
                    next_check = now + IDLE_SECONDS
            self._drain()
        finally:
            self.summary.seconds = time.monotonic() - started
            self._names.stop()
            self._backend.close()
        return self.summary

    def _remember_running(self) -> None:
        for cgroup in self._running:
            place = self.resolver.place(cgroup.id)
            if place and self._selection.verdict(place) != 0:
                self.resolver.add_running(cgroup.own_processes())

    def stop(self) -> None:
        """Ends `run` soon. May be called from a signal handler."""
        self.stopping = True
        self._backend.wake()

    def _turn(self, timeout: float) -> None:
        busy = bool(self._backlog)
        while self._backlog_bytes < MAX_BACKLOG_BYTES:
            batch = self._backend.read(0 if busy else self._patience(timeout))
            if batch is None:
                break
            busy = True
            self._keep(batch)
        self._learn_arrivals()
        self._work()
        self._put_in_order()
        self._release()
        self._sink.flush()

    def _keep(self, batch: Batch) -> None:
        if batch.runs:
            self._backlog.extend((batch, run) for run in batch.runs)
            self._backlog_bytes += len(batch.data)

    def _patience(self, timeout: float) -> float:
        """Held events are looked at often: their deadlines are near."""
        return min(timeout, 0.02) if self._held or self._recent else timeout

    def _drain(self) -> None:
        """What was traced until now is still shown, then the books are closed."""
        self._backend.detach()
        while not self._finished():
            batch = self._backend.read(0)
            if batch is not None:
                self._keep(batch)
            elif not self._backlog:
                break
            self._work()
            self._put_in_order()
        self._put_in_order(everything=True)
        deadline = time.monotonic() + NAME_SECONDS
        while self._held and time.monotonic() < deadline and not self._finished():
            try:
                self._learn(self._arrivals.get(timeout=0.05))
            except queue.Empty:
                pass
            self._release()
        self._release(everything=True)
        self._report_lost()
        self._sink.flush()

    def _finished(self) -> bool:
        return self._limit is not None and self.summary.events >= self._limit

    def _work(self) -> None:
        """Decodes at most a slice of the backlog."""
        done = 0
        while self._backlog and done < SLICE and not self._finished():
            batch, run = self._backlog.popleft()
            part, rest = _cut(run, SLICE - done)
            if rest:
                self._backlog.appendleft((batch, rest))
            elif not self._backlog or self._backlog[0][0] is not batch:
                self._backlog_bytes -= len(batch.data)
            done += part.count
            records = self._backend.schemas[part.kind].cells(
                memoryview(batch.data)[part.start : part.end]
            )
            context = self._context.get(part.kind)
            if context:
                for record in records:
                    context(record)
            else:
                decode = self._decoders[part.kind]
                resolver = self.resolver
                events = (decode(record, resolver) for record in records)
                self._recent += [event for event in events if event is not None]

    def _put_in_order(self, everything: bool = False) -> None:
        """CPUs write into the ring side by side, so neighbours can be swapped: the last millisecond
        waits for what may still come before it."""
        recent = self._recent
        if not recent:
            return
        recent.sort(key=_BOOT_NS)
        newest = recent[-1].boot_ns if self._backlog else self._clock.now()
        settled = len(recent)
        if not everything:
            settled = bisect_right(recent, newest - REORDER_NS, key=_BOOT_NS)
        for event in recent[:settled]:
            self._take(event)
        del recent[:settled]

    def _take(self, event: Event) -> None:
        if self._held or (self._asked and self._awaits_name(event)):
            self._held.append(event)
            if len(self._held) > MAX_HELD:
                self._pass(self._held.popleft())
        else:
            self._pass(event)

    def _pass(self, event: Event) -> None:
        if self._finished():
            return
        wanted = self._selection.wants(event)
        if wanted:
            self.summary.events += 1
            self._sink.event(event)
            if self._finished():
                self.stopping = True
        elif wanted is None:
            self.summary.nameless += 1

    def _awaits_name(self, event: Event) -> bool:
        return any(
            place is not None and place.cgroup in self._asked
            for place in (event.place, event.by_place)
        )

    def _release(self, everything: bool = False) -> None:
        """Lets held events go, in order, as their names have come or their time is up."""
        now = time.monotonic()
        over = [
            cgroup
            for cgroup, (ticket, deadline) in self._asked.items()
            if deadline <= now or self._names.done(ticket)
        ]
        self._learn_arrivals()  # what made a ticket done has arrived before
        for cgroup in over:
            self._asked.pop(cgroup, None)
        while self._held and (everything or not self._awaits_name(self._held[0])):
            self._pass(self._held.popleft())

    def _on_place(self, place: Place) -> None:
        """A cgroup is known: decide on it, and ask for names that are missing."""
        if self._needs_name(place):
            ticket = self._names.refresh()
            self._asked[place.cgroup] = ticket, time.monotonic() + NAME_SECONDS
        self._decide(place)

    def _decide(self, place: Place) -> None:
        verdict = self._selection.verdict(place)
        if verdict is None:
            keep(self._undecided, place.cgroup, place, MAX_PLACES)
        else:
            self._undecided.pop(place.cgroup, None)
            self._backend.select(place.cgroup, verdict)

    @staticmethod
    def _needs_name(place: Place) -> bool:
        if place.pod and place.pod.name is None:
            return True
        return bool(place.pod and place.container and place.container.name is None)

    def _learn_arrivals(self) -> None:
        while not self._arrivals.empty():
            self._learn(self._arrivals.get())

    def _learn(self, names: Names) -> None:
        for place in self.resolver.learn(names):
            if not self._needs_name(place):
                self._asked.pop(place.cgroup, None)
        for place in list(self._undecided.values()):
            self._decide(place)

    def _report_lost(self) -> None:
        since, self._lost_checked = self._lost_checked, self._clock.now()
        lost = self._backend.lost()
        self.summary.undescribed = sum(lost.get(name, 0) for name in CONTEXT_EVENTS)
        for name, count in lost.items():
            new = count - self._lost_before.get(name, 0)
            if new and name in self._probe_of:
                self.summary.lost += new
                body = {
                    "probe": self._probe_of[name],
                    "count": new,
                    "since": self._clock.iso(since),
                }
                self._sink.event(Event("lost", self._lost_checked, None, None, body))
        self._lost_before = lost


def _cut(run: Run, most: int) -> tuple[Run, Run | None]:
    if run.count <= most:
        return run, None
    middle = run.start + (run.end - run.start) // run.count * most
    return (
        Run(run.kind, most, run.start, middle),
        Run(run.kind, run.count - most, middle, run.end),
    )
