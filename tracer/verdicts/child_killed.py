# SPDX-License-Identifier: Apache-2.0
"""Somebody killed a child, while the first process lived on: from outside of the container, or by
a command that the runtime executed in it (`kubectl exec`)."""

from __future__ import annotations

from tracer.executed import is_from_executed
from tracer.timeline import Entry, Story, took_effect
from tracer.verdicts import Cause, Certainty, Verdict
from tracer.verdicts._phrases import descent, where, who

INSIDE = "same-container"
OUTSIDE = ("same-pod", "other-pod", "host")


def _judge(story: Story) -> Verdict | None:
    blows = [entry for entry in story.of("signal") if _is_blow(story, entry)]
    if not blows:
        return None
    last = blows[-1]
    sender = last.event.by
    place = where(last)
    doubts: tuple[str, ...] = ()
    if last.body["origin"] == INSIDE:
        place += ", a command that the runtime executed there: kubectl exec, a probe or a hook"
        doubts = ("that the runtime executed the sender is told by its descent",)
    return Verdict(
        "child_killed",
        f"the child {who(last.event.about)} was killed: SIGKILL from {who(sender)} {place}"
        f"{descent(sender)}",
        Certainty.LIKELY if doubts else Certainty.CERTAIN,
        tuple(blows),
        "look at the sender and at who started it; Kubernetes shows nothing as long as the first"
        " process lives",
        doubts,
    )


def _is_blow(story: Story, entry: Entry) -> bool:
    return (
        entry.body["signal"]["name"] == "SIGKILL"
        and _is_foreign(entry)
        and took_effect(entry)
        and not story.is_init(entry.event.about)
    )


def _is_foreign(entry: Entry) -> bool:
    """A program may kill its own children as it likes."""
    origin = entry.body["origin"]
    return origin in OUTSIDE or (
        origin == INSIDE and is_from_executed(entry.event.by, entry.event.about)
    )


CAUSE = Cause(24, _judge, rests_on=frozenset(("signals",)))
