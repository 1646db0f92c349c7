# SPDX-License-Identifier: Apache-2.0
"""A page for people: one file with what happened, a timeline and every detail. It opens in any
browser, speaks to no network, and is readable without JavaScript.

Names in it are attackers'. Jinja2 escapes what the page shows, the script writes nothing but text,
and a Content-Security-Policy lets only this script and this style sheet run.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from tracer import probes
from tracer.model.event import Event, LostBody, is_loss
from tracer.outputs.exporters import Exporter, Target
from tracer.outputs.exporters.html.folding import Folding
from tracer.outputs.exporters.html.told import Told
from tracer.probes import DAMAGE, Alike, by_process
from tracer.session.patterns import Sighting

CERTAINTIES = ("certain", "likely", "unknown")
# The worst verdicts, and the first spans of losses: the others are counted.
MAX_VERDICTS, MAX_LOSSES = 1000, 1000


class HtmlExport:
    def __init__(self, target: Target) -> None:
        self._target = target
        self._folding = Folding(self._alarm, _alike)
        self._verdicts: list[Event] = []
        self._losses: list[Event[LostBody]] = []
        self._told = Told()

    def event(self, event: Event) -> None:
        if is_loss(event):
            self._told.lost += event.body["count"]
            self._told.losses += 1
            if len(self._losses) < MAX_LOSSES:
                self._losses.append(event)
        elif event.kind == "verdict":
            self._told.verdicts += 1
            self._verdicts.append(event)
            if len(self._verdicts) >= 2 * MAX_VERDICTS:
                self._verdicts = self._worst()
        else:
            self._folding.add(event)

    def sightings(self, sightings: Iterable[Sighting]) -> None:
        self._folding.sight(sightings)

    def flush(self) -> None:
        """Does nothing: the page is written as a whole."""

    def close(self) -> None:
        from tracer.outputs.exporters.html.page import Page

        page = Page(self._target, self._folding, self._worst(), self._losses, self._told)
        self._target.out.write(page.render())

    def _alarm(self, event: Event) -> bool:
        """What makes no sense stands out."""
        try:
            return self._target.alarm(event)
        except DAMAGE:
            return True

    def _worst(self) -> list[Event]:
        """What stands out first, then by certainty, then in order of time."""

        def badness(event: Event) -> tuple[bool, int, int]:
            certainty = event.body["certainty"]
            rank = CERTAINTIES.index(certainty) if certainty in CERTAINTIES else len(CERTAINTIES)
            return not self._alarm(event), rank, event.boot_ns

        return sorted(self._verdicts, key=badness)[:MAX_VERDICTS]


@cache
def _kinds() -> dict[str, probes.Probe]:
    every = [probes.get(name) for name in probes.names()]
    return {kind: probe for probe in every for kind in probe.whose}


def _alike(event: Event) -> Alike:
    probe = _kinds().get(event.kind)
    try:
        return (probe.grouping if probe else by_process)(event)
    except DAMAGE:
        return by_process(event)


EXPORTER = Exporter("a page for people, for any browser", ".html", True, HtmlExport)
