# SPDX-License-Identifier: Apache-2.0
"""Connections refused because nothing listens on the port, as with a failing health check."""

from __future__ import annotations

from tracer.model.units import span
from tracer.why.cause import Cause
from tracer.why.common.kubectl import kubectl
from tracer.why.common.phrases import times
from tracer.why.common.resets import RESTS_ON, of_sort, peers, ports, total
from tracer.why.entry import Entry
from tracer.why.sorts import Sort
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = of_sort(story, Sort.CLOSED_PORT)
    if not found:
        return None
    regular = next((entry for entry in reversed(found) if entry.period_ns), None)
    every = f", every {span(regular.period_ns or 0)}" if regular else ""
    return Verdict(
        "closed_port",
        f"nothing listens on {ports(found)}: {times(total(found), 'attempt')} to connect"
        f" refused{every}, from {peers(found)}",
        Certainty.CERTAIN,
        tuple(found),
        "compare the port of the probe or service with what the program listens on"
        " (ss -ltn in the container); does it listen on 127.0.0.1 only, or has it not started yet?"
        + (_probes(story, regular) if regular else ""),
        harm=total(found),
    )


def _probes(story: Story, regular: Entry) -> str:
    """Regular attempts that come from no pod are most likely the kubelet's."""
    if regular.event.by_place is not None and regular.event.by_place.pod is not None:
        return ""
    return (
        f" A kubelet's probe comes as regularly: {kubectl('describe pod', story.place)} names the"
        " one that fails, and the pod gets no traffic until readiness succeeds"
    )


CAUSE = Cause(17, _judge, rests_on=RESTS_ON, headline="ConnectionsRefused")
