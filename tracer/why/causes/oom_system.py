# SPDX-License-Identifier: Apache-2.0
"""Killed because the whole node was out of memory, whatever the container's own limit was."""

from __future__ import annotations

from tracer.model.units import size
from tracer.why.cause import Cause
from tracer.why.common.memory import fatal_oom, judged
from tracer.why.story import Story
from tracer.why.verdict import Verdict


def _judge(story: Story) -> Verdict | None:
    oom = fatal_oom(story)
    if oom is None or oom.body["scope"] != "system":
        return None
    largest = [
        f"{row['comm']}[{row['pid']}] {size(row['rss_bytes'])}"
        for row in (oom.body["largest"] or [])[:3]
    ]
    return judged(
        story,
        oom,
        "oom_system",
        "the node is overcommitted: give the pods memory requests that are true, and look at the"
        " largest processes; a Guaranteed pod is chosen last",
        more=f"; the largest were {', '.join(largest)}" if largest else "",
    )


CAUSE = Cause(91, _judge, headline="OutOfMemory")
