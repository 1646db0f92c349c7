# SPDX-License-Identifier: Apache-2.0
"""The sink of live `ktrace why`: decides when there is something to explain, and when it is
settled."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf

from tracer.identity.resolver import Resolver
from tracer.identity.states import StateService
from tracer.model.bounded import keep
from tracer.model.event import Event, Place
from tracer.model.selection import AS_TARGET, Selection
from tracer.model.turn import IDLE_SECONDS, Turn
from tracer.probes.exits import is_container_init, is_exit
from tracer.probes.signals import SignalBody, is_signal
from tracer.session.session import Session
from tracer.why.crash import FaultFinder
from tracer.why.engine import Explanation, explain_all
from tracer.why.entry import SIGKILL, Entry
from tracer.why.life import ends_container
from tracer.why.story import Story
from tracer.why.timelines import Timelines
from tracer.why.waiting import Waiting

# Waits for what may follow. The reasons of an end precede it. Refused connections come in numbers,
# and an end may follow other trouble.
SETTLE_AFTER_END_SECONDS, SETTLE_SECONDS = 0.5, 2.0
# How long a busy runtime may take to say why a start failed.
WORDS_SECONDS = 5.0
# By default, a kubelet probes every ten seconds and ends a container after three failures.
PROBES, PROBES_SECONDS = 3, 30.0
MAX_TOLD = 4096
# Containers and pods of which the names or labels are late.
MAX_UNDECIDED = 512
# A replaced pod loses its sandbox after its last container. A container that the runtime stopped
# may belong to such a pod, and a busy node takes its time, unless the same pod starts another one.
REPLACED_SECONDS, STOPPED_SECONDS = 3.0, 30.0
LOOK_SECONDS = 0.1
NS = 1_000_000_000
# Judging takes at most this part of the time, with a bounded pause: an end is shown within a
# second.
SHARE, MOST_PAUSE_SECONDS = 20, 0.3
# How often to look again at containers without a process.
ROOTS_SECONDS = 1.0
# Signals with which a runtime stops a container, whatever its grace period is. Another one may be
# an image's STOPSIGNAL, or a message such as `docker kill -s HUP`: then nothing ends, and no longer
# than a kubelet's usual grace period is waited for.
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
MESSAGE_SECONDS = 30.0

# Identifies a verdict, which is shown once: the container's or pod's id, and its end in nanoseconds
# since boot.
Key = tuple[str | None, int | None]


@dataclass(slots=True)
class Told:
    """A shown verdict whose pod may be removed. `at` is when it was shown, or when the runtime had
    stopped the last container since. `stopped` says whether the runtime had stopped this one;
    `known` are the pod's containers so far."""

    pod_uid: str | None
    at: float
    stopped: bool = False
    known: frozenset[str | None] = frozenset()


@dataclass(slots=True)
class Undecided:
    """A container, or a pod as a whole, that may be selected once its name or its labels are known,
    and the number of its events so far."""

    place: Place
    events: int = 0


class Watch:
    """Keeps the timelines, and ends the session when there is something to explain. After a stop by
    the runtime, waits for the container's end.

    `say` informs the user. `tell` shows an explanation while the probes are still attached, as
    detaching them takes long on a busy node. With `follows`, watching goes on after an end: if its
    pod is removed, the next pod is watched."""

    def __init__(
        self,
        timelines: Timelines,
        faults: FaultFinder,
        say: Callable[[str], None],
        tell: Callable[[Explanation], None],
        follows: bool = False,
    ) -> None:
        self.session: Session | None = None
        self._timelines = timelines
        self._faults = faults
        self._selection = Selection()
        self._say = say
        self._tell = tell
        self._follows = follows
        self._states: StateService | None = None
        self._waiting: Waiting | None = None
        self._next_look = self._next_judging = self._next_roots = 0.0
        self._changes_seen = self._changes_decided = -1
        self._undecided: dict[str, Undecided] = {}
        self._wanted = self._unwanted = 0  # of the events of those
        self._deadline: float | None = None
        self._ended: dict[Key, float] = {}  # since when it settles
        self._hurt: float | None = None
        self._told: dict[Key, None] = {}
        self._leaving: list[Told] = []
        self._gone: dict[str | None, None] = {}
        self._stop_asked: dict[str | None, float] = {}  # until when its end is awaited
        self._stopped: dict[str | None, None] = {}  # containers that the runtime told to end
        self._fresh = self._noted = False

    def begin(self, session: Session, selection: Selection, states: StateService) -> None:
        self.session = session
        session.recorder = self
        self._selection = selection
        self._states = states
        self._waiting = Waiting(states, selection)

    @property
    def waiting(self) -> Waiting:
        assert self._waiting is not None
        return self._waiting

    def event(self, event: Event) -> None:
        self._timelines.event(event)
        self._fresh = True
        if event.kind in self._selection.besides:
            self._await_names(event.place, 0)
        if is_signal(event) and _is_by_runtime(event):
            keep(self._stopped, _container(event), None, MAX_TOLD)
        if is_signal(event) and _asks_to_end(event):
            patience = inf if event.body["signal"]["number"] in STOPS else MESSAGE_SECONDS
            until = max(self._stop_asked.get(_container(event), 0.0), time.monotonic() + patience)
            keep(self._stop_asked, _container(event), until, MAX_TOLD)
        elif is_exit(event) and ends_container(event):
            self._stop_asked.pop(_container(event), None)

    def undecided(self, event: Event) -> None:
        """Its pod's labels may come late: the runtime is busy, or rests after a failure."""
        self._timelines.event(event)
        self._await_names(event.place, 1)

    def decided(self) -> tuple[int, int]:
        self._decide()
        return self._wanted, self._unwanted

    def flush(self) -> None:
        now = time.monotonic()
        if self.session is None or now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        self._hold_roots(self.session, now)
        if not self._noted and self.waiting.known:
            self._noted = True
            for note in self.waiting.notes():
                self._say(f"ktrace: {note}; waiting for what comes next")
        self._decide()
        self._fresh = self._faults.listen() or self._fresh
        if self._fresh and now >= self._next_judging:
            self._judge(now)
            ended = time.monotonic()
            self._next_judging = ended + min(SHARE * (ended - now), MOST_PAUSE_SECONDS)
        if self._leaving:
            self._follow(now)
        if self._states is not None:
            self._states.hurry = bool(self._ended or self._leaving)
        if self._is_over(now):
            self._tell_settled()
            self.session.stop()

    @property
    def told(self) -> bool:
        """Whether a verdict was already shown while watching."""
        return bool(self._told)

    def add(self, turn: Turn, waited: bool, resolver: Resolver) -> None:
        """Does nothing: a `Recorder` for the sake of `patience`."""

    def patience(self, now: int) -> float:
        """Short while something is about to settle, which happens without further events."""
        soon = self._fresh or self._deadline is not None or self._leaving
        return LOOK_SECONDS if soon else IDLE_SECONDS

    def untold(self) -> list[Explanation]:
        """The explanations that were not shown while watching."""
        return self._without_told(self._explained())

    def _await_names(self, place: Place | None, events: int) -> None:
        """Does nothing for a place that is decided on."""
        if place is None or self._selection.verdict(place) is not None:
            return
        key = place.identity.container_id or place.identity.pod_uid
        if key is None:
            return
        entry = self._undecided.get(key) or Undecided(place)
        entry.events += events
        keep(self._undecided, key, entry, MAX_UNDECIDED)

    def _decide(self) -> None:
        """On what has got its names since the last look."""
        changes = self.session.resolver.changes if self.session else 0
        if not self._undecided or changes == self._changes_decided:
            return
        self._changes_decided = changes
        for key, entry in list(self._undecided.items()):
            verdict = self._selection.verdict(entry.place)
            if verdict is None:
                continue
            del self._undecided[key]
            if verdict & AS_TARGET:
                self._fresh = True
                self._wanted += entry.events
            else:
                self._timelines.forget(entry.place)
                self._unwanted += entry.events

    def _without_told(self, explanations: Iterable[Explanation]) -> list[Explanation]:
        """Drops those already shown. Of a removed pod, keeps only ends."""
        return [
            one
            for one in explanations
            if _key(one.story) not in self._told
            and (one.story.end or one.story.place.identity.pod_uid not in self._gone)
        ]

    def saw_pod(self) -> bool:
        places = self.session.resolver.places() if self.session else []
        return self.waiting.seen() or any(map(self._is_wanted, places))

    def _explained(self) -> list[Explanation]:
        stories = self._stories()
        for story in stories:
            story.locate = self._faults.place_of
            container = story.place.container
            if story.end is not None and container is not None:
                story.message = self.waiting.message(container.id)
        return explain_all([*stories, *self._waiting_stories()])

    def _stories(self) -> list[Story]:
        """Includes containers without an event to which the kernel refused a process or thread."""
        stories = [one for one in self._timelines.stories() if self._is_wanted(one.place)]
        known = {story.place.identity.container_id for story in stories}
        for place in self._wanted_places():
            if place.identity.container_id not in known and self._faults.refused(place.identity):
                began = self._timelines.began_ns or 0
                stories.append(Story(place, [], None, began, self._timelines.traced, []))
        for story in stories:
            story.refused_ns = self._faults.refused(story.place.identity)
        return stories

    def _wanted_places(self) -> list[Place]:
        places = self.session.resolver.places() if self.session else []
        return [place for place in places if place.identity.container_id and self._is_wanted(place)]

    def _is_wanted(self, place: Place) -> bool:
        return bool((self._selection.verdict(place) or 0) & AS_TARGET)

    def _waiting_stories(self) -> list[Story]:
        if self.session is None:
            return []
        known = self.session.resolver.names.pods
        stories = self.waiting.stories(known, self._timelines.now())
        for story in stories:
            story.told = self._timelines.told_of(story.place)
        return stories

    def _judge(self, now: float) -> None:
        """Sets the deadline by which the present findings are settled."""
        self._fresh = False
        fresh = self._without_told(explain_all(self._stories()))
        ends = [_key(one.story) for one in fresh if one.story.end]
        for one in fresh:
            if one.story.end:
                waited = (self._timelines.now() - one.story.end.boot_ns) / NS
                since = now - min(max(waited, 0.0), SETTLE_AFTER_END_SECONDS)
                self._ended.setdefault(_key(one.story), since)
        if ends:
            self._deadline = min(self._ended[key] for key in ends) + SETTLE_AFTER_END_SECONDS
        elif fresh:
            self._hurt = self._hurt or now
            if _may_be_probes(fresh):
                self._deadline = self._hurt + PROBES_SECONDS
            elif self._deadline is None or self._deadline > now + SETTLE_SECONDS:
                self._deadline = now + SETTLE_SECONDS

    def _follow(self, now: float) -> None:
        """Forgets removed pods; watching continues with their replacements."""
        if self._awaits_end(now):
            for told in self._leaving:
                told.at = now
        ended = self._timelines.ended_pods()
        for told in self._leaving:
            if told.pod_uid in ended or self.waiting.is_gone(told.pod_uid, told.at):
                keep(self._gone, told.pod_uid, None, MAX_TOLD)
                if told.pod_uid:
                    self._timelines.forget_pod(told.pod_uid)
        self._leaving = [told for told in self._leaving if told.pod_uid not in self._gone]

    def _is_over(self, now: float) -> bool:
        if self._waiting_stories():
            return True
        if any(self._is_staying(told, now) for told in self._leaving):
            return True
        if self._deadline is None or now < self._deadline or self._awaits_words(now):
            return False
        if not self._follows:
            return not self._awaits_end(now)
        return self._tell_ends(now) and not self._awaits_end(now)

    def _awaits_end(self, now: float) -> bool:
        """Whether a container that was asked to end may still do so."""
        return any(now < until for until in self._stop_asked.values())

    def _is_staying(self, told: Told, now: float) -> bool:
        """Whether the pod is not removed."""
        patience = STOPPED_SECONDS if told.stopped else REPLACED_SECONDS
        if now < told.at + REPLACED_SECONDS:
            return False
        return now >= told.at + patience or bool(self._containers(told.pod_uid) - told.known)

    def _containers(self, pod_uid: str | None) -> frozenset[str | None]:
        places = self.session.resolver.places() if self.session else []
        return frozenset(
            place.identity.container_id for place in places if place.identity.pod_uid == pod_uid
        )

    def _awaits_words(self, now: float) -> bool:
        """Whether the runtime has still to say why a container could not start."""
        if self._states is None or not self._states.asks_somebody:
            return False
        starting = [one.story for one in self.untold() if one.verdict.id == "start_failed"]
        return any(
            now < self._ended.get(_key(story), now) + WORDS_SECONDS
            and not self.waiting.is_ended(story.place.identity.container_id)
            for story in starting
        )

    def _tell_settled(self) -> None:
        """Shows what is settled: all up to the last end."""
        explanations = self.untold()
        while explanations and not explanations[-1].story.end:
            explanations.pop()
        for one in explanations:
            self._tell(one)
            keep(self._told, _key(one.story), None, MAX_TOLD)

    def _tell_ends(self, now: float) -> bool:
        """Shows ends, whose pods may be replaced. Returns whether there are other explanations."""
        explanations = self.untold()
        ends = [one for one in explanations if one.story.end]
        for one in ends:
            self._tell(one)
            key = _key(one.story)
            keep(self._told, key, None, MAX_TOLD)
            self._ended.pop(key, None)
            identity = one.story.place.identity
            stopped = identity.container_id in self._stopped
            known = self._containers(identity.pod_uid)
            self._leaving.append(Told(identity.pod_uid, now, stopped, known))
        del self._leaving[:-MAX_TOLD]
        if ends:
            self._deadline = None
        return len(ends) < len(explanations)

    def _hold_roots(self, session: Session, now: float) -> None:
        changes = session.resolver.changes
        if changes == self._changes_seen and now < self._next_roots:
            return
        self._changes_seen, self._next_roots = changes, now + ROOTS_SECONDS
        wanted = {
            place.identity.container_id
            for place in session.resolver.places()
            if place.ended is None and self._is_wanted(place)
        }
        self._faults.hold_roots(wanted)


def _key(story: Story) -> Key:
    identity = story.place.identity
    return identity.container_id or identity.pod_uid, story.end.boot_ns if story.end else None


def _container(event: Event) -> str | None:
    return event.place.identity.container_id if event.place else None


def _asks_to_end(event: Event[SignalBody]) -> bool:
    return event.body["signal"]["number"] != SIGKILL and _is_by_runtime(event)


def _is_by_runtime(event: Event[SignalBody]) -> bool:
    """Whether the runtime sent it to a container's first process."""
    if event.body["origin"] != "runtime":
        return False
    return event.about is not None and bool(is_container_init(event.about))


def _may_be_probes(explanations: Iterable[Explanation]) -> bool:
    """Whether everything is a refusal or two from outside of any pod. Only later events show
    whether these were probes, and their consequences."""
    for one in explanations:
        refused = [entry for entry in one.verdict.evidence if not _from_pod(entry)]
        if one.verdict.id != "closed_port" or len(refused) < len(one.verdict.evidence):
            return False
        if sum(entry.count for entry in refused) >= PROBES:
            return False
    return True


def _from_pod(entry: Entry) -> bool:
    place = entry.event.by_place
    return place is not None and place.pod is not None
