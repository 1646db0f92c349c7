# SPDX-License-Identifier: Apache-2.0
"""Somebody outside of the container killed a child, while the first process lived on."""

from __future__ import annotations

from tracer.timeline import Entry, Story, took_effect
from tracer.verdicts import Cause, Certainty, Verdict
from tracer.verdicts._phrases import descent, where, who

OUTSIDE = ("same-pod", "other-pod", "host")


def _judge(story: Story) -> Verdict | None:
    blows = [entry for entry in story.of("signal") if _is_blow(story, entry)]
    if not blows:
        return None
    last = blows[-1]
    sender = last.event.by
    return Verdict(
        "child_killed",
        f"the child {who(last.event.about)} was killed: SIGKILL from {who(sender)} {where(last)}"
        f"{descent(sender)}",
        Certainty.CERTAIN,
        tuple(blows),
        "look at the sender and at who started it; Kubernetes shows nothing as long as the first"
        " process lives",
    )


def _is_blow(story: Story, entry: Entry) -> bool:
    return (
        entry.body["signal"]["name"] == "SIGKILL"
        and entry.body["origin"] in OUTSIDE
        and took_effect(entry)
        and not story.is_init(entry.event.about)
    )


CAUSE = Cause(24, _judge, rests_on=frozenset(("signals",)))
