# SPDX-License-Identifier: Apache-2.0
"""Events in words, with the same colour and sign on every screen."""

from __future__ import annotations

from collections.abc import Mapping

from tracer.live.anatomy import joined
from tracer.live.look import ALARM, LOST, TOLD, Times, whole
from tracer.live.model import PodRow
from tracer.live.told import KIND
from tracer.live.told import sentence as told
from tracer.model.event import Event, is_loss
from tracer.outputs.escape import escape
from tracer.probes import DAMAGE, Probe
from tracer.probes.columns import container_name, pod_name
from tracer.why.verdict import Certainty

# Red becomes too dark where colours become shades of grey.
ALARM_STYLE, ALARM_WITHOUT_COLOUR = "bold red", "bold"

LOST_STYLE, TOLD_STYLE = "bold yellow", "cyan"
_SIGNS = {"lost": LOST, KIND: TOLD}


class Words:
    """Events in words, as their probes describe them."""

    def __init__(self, probes: Mapping[str, Probe], times: Times, *, colour: bool) -> None:
        self.alarm_style = ALARM_STYLE if colour else ALARM_WITHOUT_COLOUR
        self._probes = probes
        self._times = times

    def sentence(self, event: Event) -> str:
        if is_loss(event):
            body = event.body
            return f"{whole(body['count'])} {body['probe']} events lost here: too fast to be read"
        try:
            if event.kind == KIND:
                return escape(told(event.body))
            return escape(self._probes[event.kind].summary(event))
        except DAMAGE:
            return "cannot be told: the recording is not what ktrace wrote"

    def sign(self, event: Event) -> str:
        if event.kind in _SIGNS:
            return _SIGNS[event.kind]
        try:
            return ALARM if self._probes[event.kind].alarm(event) else ""
        except DAMAGE:
            return ""

    def worst(self, row: PodRow) -> str:
        """The explaining line, else the worst event, else the latest."""
        if row.verdict is None:
            return self.sentence(row.worst or row.last)
        certain = row.verdict.certainty is Certainty.CERTAIN
        return escape(row.verdict.sentence) + ("" if certain else f" ({row.verdict.certainty})")

    def style(self, event: Event) -> str:
        styles = {LOST: LOST_STYLE, TOLD: TOLD_STYLE, ALARM: self.alarm_style}
        return styles.get(self.sign(event), "")

    def time(self, event: Event) -> str:
        return self._times.of_day(event.boot_ns)

    def line(self, event: Event) -> str:
        where = joined((pod_name(event.place), container_name(event.place)), " ")
        parts = self.time(event), self.sign(event), event.kind, escape(where), self.sentence(event)
        return joined(parts, "  ")
