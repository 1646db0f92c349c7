# SPDX-License-Identifier: Apache-2.0
"""The kernel refused the container a process or thread because its own or its pod's limit was
reached. A JVM reports "unable to create native thread", which looks like a lack of memory."""

from __future__ import annotations

from tracer.model.units import span
from tracer.why.cause import Cause
from tracer.why.common.phrases import ending, who
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    end = story.end
    if story.refused_ns is None or (end is not None and not end.body["exit_code"]):
        return None
    words = (
        "refused a process or thread: the limit of the container or its pod (pids.max) was reached"
    )
    doubts: tuple[str, ...] = ()
    if end is not None:
        ago = span(max(end.boot_ns - story.refused_ns, 0))
        words += f"; {who(story.init)} ended {ago} later with {ending(end.body)}"
        doubts = ("that the one ended because of the other is told by the order of events",)
    return Verdict(
        "no_more_processes",
        words,
        Certainty.LIKELY if doubts else Certainty.CERTAIN,
        (end,) if end is not None else (),
        "raise the limit (podPidsLimit of the kubelet, pids_limit of the runtime), or have fewer"
        " threads: pools without a bound, and processes that nobody has waited for; it was not"
        " memory, whatever the program says",
        doubts,
    )


CAUSE = Cause(45, _judge, rests_on=frozenset())
