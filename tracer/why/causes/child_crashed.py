# SPDX-License-Identifier: Apache-2.0
"""A child crashed by its own fault while the container's first process lived on. Kubernetes shows
nothing."""

from __future__ import annotations

from tracer.probes.signals import SignalBody
from tracer.why.cause import Cause
from tracer.why.common.children import called, own_blow
from tracer.why.common.faults import SECCOMP, handled_before, in_full
from tracer.why.common.phrases import ending
from tracer.why.entry import Entry
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    crashed = [
        (entry, blow)
        for entry in story.of("exit")
        if entry is not story.end and (blow := own_blow(story, entry)) is not None
    ]
    if not crashed:
        return None
    last, blow = crashed[-1]
    count = sum(entry.count for entry, _ in crashed)
    found = story.locate(blow.event.about)
    place = f"; {found}" if found else ""
    again = f" ({count} children in all)" if count > 1 else ""
    child, doubts = called(story, last.event.about)
    first = handled_before(story, blow)
    return Verdict(
        "child_crashed",
        f"{child} crashed: it ended by {ending(last.body)}, {in_full(story, blow)}{place}{again}",
        Certainty.LIKELY if doubts else Certainty.CERTAIN,
        (*([first] if first else []), *(one for pair in crashed for one in reversed(pair))),
        f"{_remedy(blow)}; Kubernetes shows nothing as long as the first process lives",
        doubts,
    )


def _remedy(blow: Entry[SignalBody]) -> str:
    if blow.body["signal"]["code"] == SECCOMP:
        return (
            "allow the call in the profile (securityContext.seccompProfile), or find out why the"
            " program makes it"
        )
    return (
        "a bug in the worker: its log, and a core dump (ulimit -c, kernel.core_pattern) tell the"
        " place"
    )


CAUSE = Cause(24, _judge, rests_on=frozenset(("signals", "exits")))
