# SPDX-License-Identifier: Apache-2.0
"""Verdicts on every container of the node, while it happens: each is told once, when it is settled.

A container is judged only after an event of its own or of its pod. An end is told as soon as what
belongs to it has come; harm may be part of an end to come, so it waits for longer. Pods in which
nothing happens are told by their runtimes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tracer.agent.runtime import WORDS_LOOK_SECONDS, Runtime
from tracer.model.bounded import keep
from tracer.model.event import Event, Place
from tracer.probes.exits import is_exit
from tracer.why.crash import FaultFinder
from tracer.why.engine import Explanation, explain_all
from tracer.why.life import ends_container, is_ordinary
from tracer.why.story import Story
from tracer.why.timelines import Timelines

# What belongs to an end has come by then; a kubelet ends a container after three failed probes,
# which come every ten seconds by default.
END_SECONDS, HARM_SECONDS = 0.5, 30.0
# Harm that goes on is told again after so long.
AGAIN_SECONDS = 600.0
LOOK_SECONDS = 0.1
# Judging takes at most this part of the time, with a bounded pause.
SHARE, MOST_PAUSE_SECONDS = 20, 1.0
MAX_TOLD, MAX_DUE = 4096, 4096
START_FAILED = "start_failed"


class Judge:
    """`tell` gets the explanations. `told` counts them. `clock` is in seconds. Without `runtime`,
    nobody is asked."""

    runtime: Runtime | None = None

    def __init__(
        self,
        timelines: Timelines,
        faults: FaultFinder,
        tell: Callable[[Explanation], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.told = 0
        self._timelines = timelines
        self._faults = faults
        self._tell = tell
        self._clock = clock
        self._due: dict[str, float] = {}  # by pod uid, or container id outside of pods
        self._told: dict[tuple[str, int | str], float] = {}
        self._next = 0.0
        self._ending = False

    def event(self, event: Event) -> None:
        self._timelines.event(event)
        key = _key(event.place)
        ends = is_exit(event) and ends_container(event)
        if key is None or (is_ordinary(event) and not ends):
            return
        due = self._clock() + (END_SECONDS if ends else HARM_SECONDS)
        if due < self._due.get(key, float("inf")):
            keep(self._due, key, due, MAX_DUE)

    def look(self, *, at_the_end: bool = False) -> None:
        """Judges what is due; at the end, everything."""
        now = self._clock()
        if not at_the_end and now < self._next:
            return
        self._ending = at_the_end
        if self.runtime and (quiet := self.runtime.quiet(self._timelines.now())):
            for story in quiet:
                story.told = self._timelines.told_of(story.place)
            self._explain(quiet, now)
        due = {key for key, when in self._due.items() if at_the_end or when <= now}
        if due:
            for key in due:
                del self._due[key]
            self._judge(due, now)
        spent = self._clock() - now
        self._next = now + spent + min(max(SHARE * spent, LOOK_SECONDS), MOST_PAUSE_SECONDS)

    def patience(self) -> float:
        """The seconds until something may be due."""
        if not self._due:
            return float("inf")
        return max(0.0, max(min(self._due.values()), self._next) - self._clock())

    def _judge(self, due: set[str], now: float) -> None:
        self._faults.listen()
        stories = self._timelines.stories(due)
        for story in stories:
            story.locate = self._faults.place_of
            story.refused_ns = self._faults.refused(story.place.identity)
            if self.runtime and story.end is not None:
                story.message = self.runtime.message(story)
        self._explain(stories, now)

    def _explain(self, stories: list[Story], now: float) -> None:
        for explanation in explain_all(stories):
            story = explanation.story
            who = _key(story.place) or ""
            if self._awaits_words(explanation):
                keep(self._due, who, now + WORDS_LOOK_SECONDS, MAX_DUE)
                continue
            mark = _mark(explanation, who)
            before = self._told.get(mark)
            goes_on = story.end is None and story.state is None
            if before is None or (goes_on and now - before >= AGAIN_SECONDS):
                keep(self._told, mark, now, MAX_TOLD)
                self.told += 1
                self._tell(explanation)

    def _awaits_words(self, explanation: Explanation) -> bool:
        if self._ending or self.runtime is None or explanation.verdict.id != START_FAILED:
            return False
        told = _mark(explanation, "") in self._told
        return not told and self.runtime.awaits_words(explanation.story)


def _mark(explanation: Explanation, who: str) -> tuple[str, int | str]:
    """What is told once: the end of a container, harm of one kind, or what a pod waits for."""
    story = explanation.story
    container = story.place.identity.container_id or who
    if story.end is not None:
        return container, story.end.boot_ns
    if story.state is not None:
        return container, " ".join([explanation.verdict.id, *story.state.waits_for])
    return container, explanation.verdict.id


def _key(place: Place | None) -> str | None:
    return place.identity.pod_uid or place.identity.container_id if place else None
