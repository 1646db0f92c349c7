# SPDX-License-Identifier: Apache-2.0
"""A child was ended from outside the container, or by a command that the runtime executed in it
(`kubectl exec`), while the first process lived on. If the parent then ends its other children, as
PostgreSQL does, the verdict says so."""

from __future__ import annotations

from tracer.model.event import Process
from tracer.probes.signals import SignalBody
from tracer.why.cause import Cause
from tracer.why.common.children import ended_by, parent_of
from tracer.why.common.phrases import ending, times, who
from tracer.why.common.senders import doubts_of, is_foreign, sender_of
from tracer.why.common.stopped import between
from tracer.why.entry import SIGKILL, Entry, took_effect
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

# A parent that ends its other children because it lost one does so at once.
AT_ONCE_NS = 1_000_000_000
# A process asked to end from outside may finish a request first or notice late: gunicorn's worker
# checks every half of its --timeout.
IN_TIME_NS = 60_000_000_000


def _judge(story: Story) -> Verdict | None:
    blows = [
        (entry, ended_by(story, entry, IN_TIME_NS))
        for entry in story.of("signal")
        if _is_blow(story, entry)
    ]
    deadly = [(blow, end) for blow, end in blows if end is not None or _kills(blow)]
    if not deadly:
        return None
    last, end = deadly[-1]
    name = last.body["signal"]["name"]
    doubts = doubts_of(last)
    by_itself = end is not None and end.body["signal"] is None
    if by_itself:
        doubts += (f"that {name} made it end is told by the order of events",)
    how = (
        f"was asked to end, and did {between(last, end)} later, with {ending(end.body)}"
        if by_itself and end
        else "was killed"
    )
    return Verdict(
        "child_killed",
        f"the child {who(last.event.about)} {how}: {name} from {sender_of(last)}"
        f"{_consequence(story, last)}",
        Certainty.LIKELY if doubts else Certainty.CERTAIN,
        tuple(entry for pair in deadly for entry in pair if entry is not None),
        "look at the sender and at who started it; Kubernetes shows nothing as long as the first"
        " process lives",
        doubts,
    )


def _is_blow(story: Story, entry: Entry[SignalBody]) -> bool:
    return is_foreign(entry) and took_effect(entry) and not story.is_init(entry.event.about)


def _kills(entry: Entry[SignalBody]) -> bool:
    """Whether the signal kills for certain, even if the exit was not seen."""
    return bool(entry.body["signal"]["number"] == SIGKILL)


def _consequence(story: Story, blow: Entry[SignalBody]) -> str:
    """The parent's signals to the victim's siblings, if it ended them because of the loss."""
    victim = blow.event.about
    parent = parent_of(victim)
    if victim is None or parent is None:
        return ""
    others: dict[int, Process] = {}
    names: dict[str, None] = {}
    by = None
    for entry in story.of("signal"):
        about, sender = entry.event.about, entry.event.by
        soon = 0 <= entry.boot_ns - blow.boot_ns <= AT_ONCE_NS
        if not soon or sender is None or sender.pid != parent or about is None:
            continue
        if about.pid in (victim.pid, parent) or ended_by(story, entry) is None:
            continue
        others[about.pid] = about
        names[entry.body["signal"]["name"]] = None
        by = sender
    if not others:
        return ""
    ended = (
        f"{times(len(others), 'other child').replace('childs', 'children')} by {', '.join(names)}"
    )
    return f"; its parent {who(by)} ended {ended} for that"


CAUSE = Cause(24, _judge, rests_on=frozenset(("signals",)))
