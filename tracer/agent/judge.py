# SPDX-License-Identifier: Apache-2.0
"""Verdicts on every container of the node, while it happens: each is told once, when it is settled.

A container is judged only after an event of its own or of its pod. An end is told as soon as what
belongs to it has come; harm may be part of an end to come, so it waits for longer.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tracer.model.bounded import keep
from tracer.model.event import Event, Place
from tracer.probes.exits import is_exit
from tracer.why.crash import FaultFinder
from tracer.why.engine import Explanation, explain_all
from tracer.why.life import ends_container, is_ordinary
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


class Judge:
    """`tell` gets the explanations. `told` counts them. `clock` is in seconds."""

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
            return MOST_PAUSE_SECONDS
        return max(0.0, max(min(self._due.values()), self._next) - self._clock())

    def _judge(self, due: set[str], now: float) -> None:
        self._faults.listen()
        stories = self._timelines.stories(due)
        for story in stories:
            story.locate = self._faults.place_of
            story.refused_ns = self._faults.refused(story.place.identity)
        for explanation in explain_all(stories):
            story = explanation.story
            who = _key(story.place) or ""
            container = story.place.identity.container_id or who
            mark = (container, story.end.boot_ns if story.end else explanation.verdict.id)
            before = self._told.get(mark)
            if before is None or (story.end is None and now - before >= AGAIN_SECONDS):
                keep(self._told, mark, now, MAX_TOLD)
                self.told += 1
                self._tell(explanation)


def _key(place: Place | None) -> str | None:
    return place.identity.pod_uid or place.identity.container_id if place else None
