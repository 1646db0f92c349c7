# SPDX-License-Identifier: Apache-2.0
"""The live view's memory of the events, and the snapshots that it draws.

`Model` is the sink of a session and belongs to the session's thread. It does little per event: it
counts and keeps the event, and makes text only for display. Its memory is bounded: old events leave
the view, but never a recording.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter

from tracer.live.opinions import Opinions
from tracer.model.event import Event, Place, is_loss
from tracer.model.selection import Selection
from tracer.probes import Probe
from tracer.recording.view import wants
from tracer.why.timelines import Timelines
from tracer.why.verdict import Verdict

MAX_PODS = 512
# Bounds in events, for the stream and for each pod, and in bytes, for the stream and for all pods
# together. Alarms and what Kubernetes says are kept separately, so a storm of other events cannot
# push them out.
MAX_STREAM, MAX_STREAM_BYTES = 10_000, 4 << 20
MAX_ALARMS = 50
MAX_OTHERS = 50
MAX_TOLD = 50
MAX_PODS_BYTES = 4 << 20
# Bodies of one kind have similar sizes, so one in this many is weighed.
WEIGHED = 32
RATE_SECONDS = 60
# A higher frame rate would cost more than it shows.
SNAPSHOT_SECONDS = 0.2
# The pause without new events: the rates still move, and the filter may change.
IDLE_SECONDS = 1.0

NS = 1_000_000_000
_BOOT_NS = attrgetter("boot_ns")

Alarm = Callable[[Event], bool]


@dataclass(frozen=True, slots=True)
class PodRow:
    """The events of one pod, or of a container outside pods; `place` is None for events of neither.
    `counts` are by kind of event. `rate` is events per second, oldest first. `worst` is the latest
    alarm, if any, and `verdict` explains it."""

    key: str
    place: Place | None
    verdict: Verdict | None
    counts: Mapping[str, int]
    alarms: int
    rate: tuple[int, ...]
    worst: Event | None
    last: Event
    kept: tuple[tuple[Event, ...], ...]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def timeline(self) -> list[Event]:
        """The latest events, the latest alarms and what Kubernetes said last, in the order of
        time."""
        return sorted(chain(*self.kept), key=_BOOT_NS)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment of the model. `stream` holds the latest events that pass the filter, `first` is
    the number of the first of them, `left` counts pods that have left the view, and `now` is in
    nanoseconds since boot."""

    now: int = 0
    events: int = 0
    lost: int = 0
    rate: int = 0
    pods: tuple[PodRow, ...] = ()
    left: int = 0
    stream: tuple[Event, ...] = ()
    first: int = 0

    def known_of(self, row: PodRow) -> list[Event]:
        """All events that are still kept of a pod: its timeline, and its events in the stream."""
        streamed = [e for e in self.stream if e.kind != "lost" and _key(e.place) == row.key]
        there = set(map(id, streamed))
        kept = [event for event in row.timeline() if id(event) not in there]
        return sorted(kept + streamed, key=_BOOT_NS)


class Model:
    """`now` returns the session's time. `begin` makes the timelines for the verdicts. `post` gets
    each snapshot, in the session's thread."""

    def __init__(
        self,
        probes: Mapping[str, Probe],
        now: Callable[[], int],
        begin: Callable[[], Timelines],
        post: Callable[[Snapshot], None],
    ) -> None:
        self._alarms: Mapping[str, Alarm] = {kind: p.alarm for kind, p in probes.items()}
        self._now = now
        self._begin = begin
        self._post = post
        self._posted = 0.0
        self._filter: Selection | None = None
        self._wanted_filter: Selection | None = None
        self.clear()

    def clear(self) -> None:
        """Forgets everything but the filter."""
        self._opinions = Opinions(self._begin())
        self._pods: dict[str, _Pod] = {}
        self._left = self._events = self._lost = 0
        self._rate = _Rate()
        self._size_of = _Scale()
        self._pods_bytes = 0
        self._stream = _Latest(MAX_STREAM, MAX_STREAM_BYTES)
        self._chosen = _Latest(MAX_STREAM, MAX_STREAM_BYTES)
        self._streamed = self._chosen_events = 0
        self._stale = True

    def choose(self, selection: Selection | None) -> None:
        """Sets the filter from the next snapshot on. Safe in any thread."""
        self._wanted_filter = selection

    @property
    def timelines(self) -> Timelines:
        return self._opinions.timelines

    def event(self, event: Event) -> None:
        lost = event.kind == "lost"
        alarm = not lost and self._alarms[event.kind](event)
        self._opinions.event(event, alarm)
        size = self._size_of(event)
        self._stream.add(event, size)
        self._streamed += 1
        self._stale = True
        if is_loss(event):
            self._lost += event.body["count"]
            self._choose(event, None, size)
            return
        self._events += 1
        second = event.boot_ns // NS
        self._rate.add(second)
        key = _key(event.place)
        pod = self._pods.get(key) or self._add_pod(key, event)
        self._pods_bytes += pod.add(event, alarm, second, size)
        if self._pods_bytes > MAX_PODS_BYTES:
            self._share()
        if self._filter is not None:
            self._choose(event, pod, size)

    def told(self, events: Iterable[Event]) -> None:
        """What Kubernetes says. It counts as no event of the kernel, and comes late."""
        self._opinions.renew()
        self._stale = True
        for event in events:
            size = self._size_of(event)
            self._stream.add(event, size)
            self._streamed += 1
            key = _key(event.place)
            pod = self._pods.get(key) or self._add_pod(key, event)
            self._pods_bytes += pod.tell(event, size)
            if self._pods_bytes > MAX_PODS_BYTES:
                self._share()
            if self._filter is not None:
                self._choose(event, pod, size)

    def flush(self) -> None:
        if self.patience() <= 0:
            self.post()

    def patience(self) -> float:
        """The seconds within which `flush` must be called again to keep the picture fresh."""
        if self._wanted_filter is not self._filter:
            return 0.0
        pause = SNAPSHOT_SECONDS if self._stale or self._opinions.due else IDLE_SECONDS
        return min(SNAPSHOT_SECONDS, self._posted + pause - time.monotonic())

    def post(self) -> None:
        if self._wanted_filter is not self._filter:
            self._refilter(self._wanted_filter)
        snapshot = self._snapshot()
        self._stale = False
        self._post(snapshot)
        self._posted = time.monotonic()

    def _add_pod(self, key: str, event: Event) -> _Pod:
        if len(self._pods) >= MAX_PODS:
            self._forget_quietest()
        pod = self._pods[key] = _Pod(key, event.place if key else None, event)
        return pod

    def _share(self) -> None:
        """Pods above their fair share drop their oldest events."""
        share = MAX_PODS_BYTES // len(self._pods)
        for pod in self._pods.values():
            pod.shrink(share * 3 // 4)
        self._pods_bytes = sum(pod.bytes for pod in self._pods.values())

    def _forget_quietest(self) -> None:
        quietest = min(self._pods.values(), key=lambda pod: (pod.alarms > 0, pod.last.boot_ns))
        del self._pods[quietest.key]
        self._pods_bytes -= quietest.bytes
        self._left += 1

    def _choose(self, event: Event, pod: _Pod | None, size: int) -> None:
        """Adds an event that passes the filter. Losses always pass."""
        if self._filter is None:
            return
        if event.kind != "lost" and wants(self._filter, event) is False:
            return
        self._chosen.add(event, size)
        self._chosen_events += 1
        if pod:
            pod.chosen = True

    def _refilter(self, selection: Selection | None) -> None:
        """Filters all kept events again."""
        self._filter = selection
        self._chosen = _Latest(MAX_STREAM, MAX_STREAM_BYTES)
        self._chosen_events = 0
        known = {id(event): event for event in self._stream.events}
        for pod in self._pods.values():
            pod.chosen = False
            known |= {id(event): event for kept in pod.kept for event in kept.events}
        for event in sorted(known.values(), key=_BOOT_NS):
            lost = event.kind == "lost"
            of = None if lost else self._pods.get(_key(event.place))
            self._choose(event, of, self._size_of(event))

    def _snapshot(self) -> Snapshot:
        now, verdicts = self._now(), self._opinions.verdicts()
        filtered = self._filter is not None
        stream = tuple((self._chosen if filtered else self._stream).events)
        streamed = self._chosen_events if filtered else self._streamed
        return Snapshot(
            now=now,
            events=self._events,
            lost=self._lost,
            rate=self._rate.until(now // NS)[-2],
            pods=tuple(
                pod.row(now // NS, verdicts.get(pod.key))
                for pod in self._pods.values()
                if pod.chosen or not filtered
            ),
            left=self._left,
            stream=stream,
            first=streamed - len(stream),
        )


@dataclass(slots=True)
class _Rate:
    """Events in each of the last seconds, by the events' own time."""

    counts: deque[int] = field(default_factory=lambda: deque([0] * RATE_SECONDS, RATE_SECONDS))
    second: int = 0

    def add(self, second: int) -> None:
        if second > self.second:
            self.advance(second)
        self.counts[-1] += 1

    def advance(self, second: int) -> None:
        self.counts.extend([0] * min(second - self.second, RATE_SECONDS))
        self.second = second

    def until(self, second: int) -> tuple[int, ...]:
        if second > self.second:
            self.advance(second)
        return tuple(self.counts)


class _Scale:
    """Estimates the size of an event in bytes."""

    def __init__(self) -> None:
        self._bodies: dict[str, tuple[int, int]] = {}  # by kind: uses left, and the size

    def __call__(self, event: Event) -> int:
        left, size = self._bodies.get(event.kind, (0, 0))
        if not left:
            left, size = WEIGHED, event.body_size
        self._bodies[event.kind] = left - 1, size
        return size + event.parties_size


class _Latest:
    """The latest events, bounded in number and bytes, but always at least one."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self.events: deque[Event] = deque()
        self.bytes = 0
        self._sizes: deque[int] = deque()
        self._most = most
        self._most_bytes = most_bytes

    def add(self, event: Event, size: int) -> int:
        """Returns the growth in bytes."""
        before = self.bytes
        self.events.append(event)
        self._sizes.append(size)
        self.bytes += size
        if len(self.events) > self._most:
            self._drop()
        self.shrink(self._most_bytes)
        return self.bytes - before

    def shrink(self, most_bytes: int) -> None:
        while self.bytes > most_bytes and len(self.events) > 1:
            self._drop()

    def _drop(self) -> None:
        self.events.popleft()
        self.bytes -= self._sizes.popleft()


@dataclass(slots=True)
class _Pod:
    key: str
    place: Place | None
    last: Event
    alarms: int = 0
    chosen: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    hurt: _Latest = field(default_factory=lambda: _Latest(MAX_ALARMS, MAX_PODS_BYTES))
    others: _Latest = field(default_factory=lambda: _Latest(MAX_OTHERS, MAX_PODS_BYTES))
    told: _Latest = field(default_factory=lambda: _Latest(MAX_TOLD, MAX_PODS_BYTES))
    rate: _Rate = field(default_factory=_Rate)

    @property
    def bytes(self) -> int:
        return sum(kept.bytes for kept in self.kept)

    @property
    def kept(self) -> tuple[_Latest, _Latest, _Latest]:
        return self.hurt, self.others, self.told

    def add(self, event: Event, alarm: bool, second: int, size: int) -> int:
        """Returns the growth in bytes."""
        self.counts[event.kind] = self.counts.get(event.kind, 0) + 1
        self.last = event
        self.rate.add(second)
        self.alarms += alarm
        return (self.hurt if alarm else self.others).add(event, size)

    def tell(self, event: Event, size: int) -> int:
        """What Kubernetes says. Returns the growth in bytes."""
        self.counts[event.kind] = self.counts.get(event.kind, 0) + 1
        self.last = max(self.last, event, key=_BOOT_NS)
        return self.told.add(event, size)

    def shrink(self, most: int) -> None:
        """Drops alarms last."""
        for kept in (self.others, self.told, self.hurt):
            kept.shrink(max(0, most - (self.bytes - kept.bytes)))

    def row(self, second: int, verdict: Verdict | None) -> PodRow:
        return PodRow(
            key=self.key,
            place=self.place,
            verdict=verdict,
            counts=dict(self.counts),
            alarms=self.alarms,
            rate=self.rate.until(second),
            worst=self.hurt.events[-1] if self.hurt.events else None,
            last=self.last,
            kept=tuple(tuple(kept.events) for kept in self.kept),
        )


def _key(place: Place | None) -> str:
    """The owner of an event: its pod, else its container, else none."""
    if place is None:
        return ""
    return place.identity.pod_uid or place.identity.container_id or ""
