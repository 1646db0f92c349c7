# SPDX-License-Identifier: Apache-2.0
"""A tracing session: turns → decode → time order → identity → selection → sink.

One thread does it all; only names come from other threads. A session's only input is its turns, so
the same turns give the same output, live or from a recording.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, Protocol, runtime_checkable

from tracer.identity.resolver import Resolver
from tracer.model.event import Clock, Event, LostBody, Place
from tracer.model.kubernetes import Facts
from tracer.model.names import Names
from tracer.model.selection import Mode, Selection
from tracer.model.turn import CONTEXT_EVENTS, IDLE_SECONDS, NAME_SECONDS, Lost, Part, Source, Turn
from tracer.probes import DAMAGE, Decode, Probe, Stream
from tracer.session.patterns import MAX_PATTERNS, PATTERN, TIME, Pattern, Patterns, Sighting
from tracer.session.recorder import Recorder

MAX_HELD = 20_000
# By how much two neighbours in the ring can be out of order.
REORDER_NS = 1_000_000
# After a loss of cgroups' ends, what is gone is looked for this often.
CHECK_NS = 10_000_000_000

END = CONTEXT_EVENTS[2]
_AGAIN = attrgetter("event.again")


class Sink(Protocol):
    def event(self, event: Event) -> None: ...

    def flush(self) -> None:
        """Called at the end of each turn."""


@runtime_checkable
class Grouping(Sink, Protocol):
    """A sink that groups like events, and need not see each one."""

    def sightings(self, sightings: Iterable[Sighting]) -> None:
        """Events of one turn, in order; each could also have come as an `event`."""


@runtime_checkable
class Patient(Sink, Protocol):
    """A sink that keeps events until the names that decide on them are known."""

    def undecided(self, event: Event) -> None:
        """An event that a selector may want, of a pod whose name or labels are late."""

    def decided(self) -> tuple[int, int]:
        """The numbers of these events that turned out to be wanted, and not to be."""


@dataclass(slots=True)
class Summary:
    """`nameless` counts events left out because a selector needs their pod's name and it never
    became known. `undescribed` counts lost descriptions of processes and cgroups: events lack these
    details. `unknown` counts references to forgotten descriptions, `undecoded` records that cannot
    be decoded."""

    events: int = 0
    lost: int = 0
    nameless: int = 0
    seconds: float = 0.0
    undescribed: int = 0
    undecoded: int = 0
    unknown: int = 0


class Session:
    """Without a sink, events are not decoded: only cgroups and processes are followed, so that
    names are requested. It ends after `count` events. `facts` takes what Kubernetes says.
    `patterns` is how many bytes of patterns are kept. A `frugal` one remembers less of what is
    gone."""

    def __init__(
        self,
        source: Source,
        probes: Sequence[Probe],
        selection: Selection,
        sink: Sink | None,
        clock: Clock,
        count: int | None = None,
        facts: Facts | None = None,
        patterns: int = MAX_PATTERNS,
        *,
        frugal: bool = False,
    ) -> None:
        self.facts = Facts() if facts is None else facts
        self.resolver = Resolver(self._on_place, self._on_end, frugal=frugal)
        self.summary = Summary()
        self.stopping = False
        self._source = source
        self._selection = selection
        self._wants_all = selection.mode is Mode.ALL
        self._sink = sink
        self._grouping = sink if isinstance(sink, Grouping) else None
        self._patient = sink if isinstance(sink, Patient) else None
        self._clock = clock
        self._limit = count
        told = self.resolver.add_process, self.resolver.add_cgroup, self.resolver.end_cgroup
        self._context: dict[str, Callable[[Any], None]] = dict(
            zip(CONTEXT_EVENTS, told, strict=True)
        )
        self._decoders: dict[str, Decode] = {}
        self._probe_of: dict[str, str] = {}
        self._descriptions = set(CONTEXT_EVENTS)
        self._events_of = {name for probe in probes for name in probe.whose}
        stream = Stream(self.resolver)
        for probe in probes:
            decoders = probe.decoder(stream)
            self._decoders |= decoders
            self._probe_of |= dict.fromkeys(decoders.keys() - probe.state.keys(), probe.name)
            self._descriptions |= probe.state.keys()
        repeating = {name for probe in probes for name in probe.repeating}
        self._patterns = Patterns(
            self.resolver, {name: self._decoders[name] for name in repeating}, patterns
        )
        self.recorder: Recorder | None = None
        self._began = self._now = 0
        self._undecoded = 0
        self._ends_lost = False
        self._next_check = 0
        self._undecided: dict[int, Place] = {}
        self._asked: dict[int, int] = {}  # deadline by cgroup
        self._recent: list[Sighting] = []
        self._held: deque[Event] = deque()

    def run(self) -> Summary:
        """Runs to the last turn. Then raises the failure that ended the tracing, if any."""
        try:
            turn = self._source.turn(self.waiting, self._patience())
            while not self.take(turn):
                turn = self._source.turn(self.waiting, self._patience())
        finally:
            self._source.close()
        if turn.failure:
            raise turn.failure
        return self.summary

    def stop(self) -> None:
        """Ends `run` soon. May be called from a signal handler."""
        self.stopping = True
        self._source.stop()

    @property
    def waiting(self) -> bool:
        """Whether events wait for time to pass."""
        return bool(self._held or self._recent) and not self._finished()

    def take(self, turn: Turn) -> bool:
        """Processes a turn; returns whether it was the last."""
        waited = self.waiting
        self._began = self._began or turn.now
        self._now = turn.now
        self._learn(turn)
        for repeating, parts in groupby(turn.parts, self._is_repeating):
            if repeating:
                self._recent += self._patterns.sightings(list(parts))
            else:
                for part in parts:
                    self._decode(part)
        self._put_in_order(turn)
        self._release(turn)
        if turn.lost:
            self._report(turn.lost)
        if self._ends_lost and turn.now >= self._next_check:
            self._check(turn.now)
        if self._sink:
            self._sink.flush()
        if self.recorder:
            self.recorder.add(turn, waited, self.resolver)
        self.summary.seconds = (turn.now - self._began) / 1e9
        self.summary.unknown = self.resolver.unknown
        self.summary.undecoded = self._undecoded + self._patterns.undecoded
        if turn.last and self._patient:
            wanted, unwanted = self._patient.decided()
            self.summary.events += wanted
            self.summary.nameless -= wanted + unwanted
        return turn.last

    def _patience(self) -> float:
        return self.recorder.patience(self._now) if self.recorder else IDLE_SECONDS

    def _finished(self) -> bool:
        return self.summary.events == self._limit

    def _decode(self, part: Part) -> None:
        schema = self._source.schemas[part.kind]
        context = self._context.get(schema.name)
        if context:
            for record in schema.cells(part.cells):
                context(record)
        elif self._sink is None:
            self.summary.events += part.count * (schema.name in self._events_of)
        elif schema.name not in self._decoders:
            self._undecoded += part.count
        elif not self._finished():
            self._add_events(schema.cells(part.cells), self._decoders[schema.name])

    def _is_repeating(self, part: Part) -> bool:
        schema = self._source.schemas[part.kind]
        return (
            self._sink is not None
            and not self._finished()
            and self._patterns.hold(part.kind, schema)
        )

    def _add_events(self, records: Iterator[Any], decode: Decode) -> None:
        add = self._recent.append
        while True:
            try:
                for record in records:
                    event = decode(record)
                    if event is not None:
                        add((event.boot_ns, Pattern(event)))
                return
            except DAMAGE:
                self._undecoded += 1

    def _put_in_order(self, turn: Turn) -> None:
        """CPUs write into the ring in parallel, so neighbours can be swapped. Events of the last
        millisecond wait for earlier ones that may still come."""
        recent = self._recent
        if not recent:
            return
        recent.sort(key=TIME)
        newest = recent[-1][0] if turn.more else turn.now
        settled = len(recent)
        if not turn.last:
            settled = bisect_right(recent, newest - REORDER_NS, key=TIME)
        sightings = recent[:settled]
        del recent[:settled]
        if self._held or self._asked or any(map(_AGAIN, map(PATTERN, sightings))):
            for boot_ns, pattern in sightings:
                self._take(pattern.at(boot_ns))
        elif self._grouping and not self._selection.besides:
            self._pass_together(self._grouping, sightings)
        else:
            for boot_ns, pattern in sightings:
                self._pass(pattern.at(boot_ns))

    def _pass_together(self, sink: Grouping, sightings: Sequence[Sighting]) -> None:
        """As `_pass` does with each event."""
        if not self._wants_all:
            at = self.resolver.changes
            sightings = [one for one in sightings if one[1].wanted_at == at or self._wants(one)]
        if self._limit is not None:
            sightings = sightings[: self._limit - self.summary.events]
        self.summary.events += len(sightings)
        sink.sightings(sightings)
        if self._finished():
            self.stop()

    def _wants(self, sighting: Sighting) -> bool:
        _, pattern = sighting
        wanted = self._selection.wants(pattern.event)
        if wanted:
            pattern.wanted_at = self.resolver.changes
        elif wanted is None:
            self.summary.nameless += 1
        return bool(wanted)

    def _take(self, event: Event) -> None:
        settled = _settled(event)
        if settled is None:
            return
        if self._held or self._awaits(settled):
            self._held.append(settled)
            if len(self._held) > MAX_HELD:
                self._pass(_settled(self._held.popleft()))
        else:
            self._pass(settled)

    def _pass(self, event: Event | None) -> None:
        if event is None or self._sink is None or self.summary.events == self._limit:
            return
        event.again = None
        wanted = self._wants_all or self._selection.wants(event)
        if wanted:
            self.summary.events += 1
            self._sink.event(event)
            if self.summary.events == self._limit:
                self.stop()
        elif event.kind in self._selection.besides:
            self._sink.event(event)
        elif wanted is None:
            self.summary.nameless += 1
            if self._patient:
                self._patient.undecided(event)

    def _awaits(self, event: Event) -> bool:
        if event.again and self._now - event.boot_ns < event.awaits_ns:
            return True
        return bool(self._asked) and any(
            place is not None and place.cgroup in self._asked
            for place in (event.place, event.by_place)
        )

    def _release(self, turn: Turn) -> None:
        """Passes on held events in order, once their names have come or their time is up."""
        for cgroup in [c for c, deadline in self._asked.items() if deadline <= turn.now]:
            del self._asked[cgroup]
        while self._held:
            event = _settled(self._held.popleft())
            if event is not None and not turn.last and self._awaits(event):
                self._held.appendleft(event)
                break
            self._pass(event)

    def _on_place(self, place: Place) -> None:
        """A cgroup became known: decides on it, and asks for missing names."""
        if self._needs_name(place):
            self._source.ask(place.cgroup)
            self._asked[place.cgroup] = self._now + int(NAME_SECONDS * 1e9)
        self._decide(place)

    def _on_end(self, place: Place) -> None:
        """A cgroup is gone and needs no decision."""
        self._undecided.pop(place.cgroup, None)

    def _decide(self, place: Place) -> None:
        verdict = self._selection.verdict(place)
        if verdict is None:
            if place.ended is None:
                self._undecided[place.cgroup] = place
        else:
            self._undecided.pop(place.cgroup, None)
            self._source.select(place.cgroup, verdict)

    def _needs_name(self, place: Place) -> bool:
        pod, container = place.pod, place.container
        if pod and (pod.name is None or pod.labels is None):  # only the runtime knows labels
            return True
        return bool(container and container.name is None)

    def _learn(self, turn: Turn) -> None:
        self.facts.learn(turn.facts)
        if turn.names != Names():
            for place in self.resolver.learn(turn.names):
                if not self._needs_name(place):
                    self._asked.pop(place.cgroup, None)
                if place.pod and not place.identity.pod_uid:  # the runtime named the pod
                    self._decide(place)
            for place in list(self._undecided.values()):
                self._decide(place)
        for cgroup in turn.answered:
            self._asked.pop(cgroup, None)

    def _check(self, now: int) -> None:
        """Cgroups whose end was lost would stay known, and so would all that is kept for them."""
        self._ends_lost = not self._source.check(self.resolver.living())
        self._next_check = now + CHECK_NS

    def _report(self, lost: Lost) -> None:
        self._ends_lost |= END in lost.counts
        self.summary.undescribed += sum(lost.counts.get(name, 0) for name in self._descriptions)
        for name, count in lost.counts.items():
            if name in self._probe_of:
                self.summary.lost += count
                body: LostBody = {
                    "probe": self._probe_of[name],
                    "count": count,
                    "since": self._clock.iso(lost.since),
                }
                if self._sink:
                    self._sink.event(Event("lost", self._now, None, None, body))


def _settled(event: Event) -> Event | None:
    """The event with everything known of its references by now; None if it is no event at all."""
    return event.again() if event.again else event
