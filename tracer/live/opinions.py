# SPDX-License-Identifier: Apache-2.0
"""The verdict on each pod so far: `ktrace why`, run repeatedly."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tracer.model.event import Event
from tracer.probes import DAMAGE
from tracer.why.engine import explain_all
from tracer.why.timelines import Timelines
from tracer.why.verdict import Verdict

# Judging takes at most this fraction of the time, and begins at most once a second.
SHARE = 10
PAUSE_SECONDS = 1.0


class Opinions:
    """`due` says whether judging again is worthwhile."""

    def __init__(self, timelines: Timelines) -> None:
        self.timelines = timelines
        self._verdicts: dict[str, Verdict] = {}
        self._fresh = False
        self._next = 0.0

    def event(self, event: Event, alarm: bool) -> None:
        self.timelines.event(event)
        self._fresh = self._fresh or alarm

    def renew(self) -> None:
        """Something else than an event has come, which verdicts may need."""
        self._fresh = True

    @property
    def due(self) -> bool:
        return self._fresh and time.monotonic() >= self._next

    def verdicts(self) -> Mapping[str, Verdict]:
        """The latest verdicts by the pod's uid; for a container outside pods, by its id."""
        if self.due:
            began = time.monotonic()
            self._fresh = False
            self._verdicts = self._judged()
            ended = time.monotonic()
            self._next = ended + max(PAUSE_SECONDS, SHARE * (ended - began))
        return self._verdicts

    def _judged(self) -> dict[str, Verdict]:
        try:
            explanations = explain_all(self.timelines.stories())
        except DAMAGE:  # a crafted recording may decode into anything
            return self._verdicts
        found = {}
        for explanation in explanations:
            identity = explanation.story.place.identity
            found[identity.pod_uid or identity.container_id or ""] = explanation.verdict
        return found
