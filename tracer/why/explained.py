# SPDX-License-Identifier: Apache-2.0
"""Adds to a recording's events one `verdict` event for each container that ended or was hurt."""

from __future__ import annotations

from collections.abc import Iterable

from tracer.model.event import Clock, Event
from tracer.model.kubernetes import Facts
from tracer.probes import DAMAGE
from tracer.recording.metadata import Metadata
from tracer.recording.view import Chosen
from tracer.session.patterns import Sighting
from tracer.why.engine import explain_all
from tracer.why.render import to_event
from tracer.why.timelines import MAX_RECORDED, Timelines, sees_both_ends, sees_drops


class Explained:
    """A sink that passes everything on and adds the verdicts in `explain`. The verdicts rest on the
    whole recording, including events that are not selected. A verdict itself is selected like any
    event."""

    def __init__(
        self, chosen: Chosen, told: Metadata, clock: Clock, facts: Facts | None = None
    ) -> None:
        self._chosen = chosen
        self._clock = clock
        self._timelines = Timelines(
            clock,
            told.began,
            frozenset(told.attached),
            sees_both_ends(told.selection, told.cannot_tell),
            sees_drops(told.selection, told.cannot_tell),
            most=MAX_RECORDED,
        )
        self._timelines.facts = facts

    def event(self, event: Event) -> None:
        self._chosen.event(event)
        try:
            self._timelines.event(event)
        except DAMAGE:
            self._chosen.unshown += 1

    def sightings(self, sightings: Iterable[Sighting]) -> None:
        """As `event` for each."""
        every = list(sightings)
        self._chosen.sightings(every)
        rest = iter(every)
        while True:
            try:
                return self._timelines.sightings(rest)
            except DAMAGE:
                self._chosen.unshown += 1

    def flush(self) -> None:
        self._chosen.flush()

    def explain(self) -> None:
        """Call once, after the last event."""
        try:
            explanations = explain_all(self._timelines.stories())
            verdicts = [to_event(explanation, self._clock) for explanation in explanations]
        except DAMAGE:
            self._chosen.unshown += 1
            return
        for verdict in verdicts:
            self._chosen.event(verdict)
        self._chosen.flush()
