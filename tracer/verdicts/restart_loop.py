# SPDX-License-Identifier: Apache-2.0
"""The same container ends in the same way again and again."""

from __future__ import annotations

from dataclasses import replace

from tracer.timeline import Story
from tracer.units import span
from tracer.verdicts import RESTART_LOOP, Cause, Verdict

# Two may be chance.
TIMES = 3
MAX_EVIDENCE = 50


def _judge(story: Story) -> Verdict | None:
    if story.end is None or not story.found:
        return None
    last = story.found[-1]
    ends = [story.end]
    for end, verdict in reversed(story.earlier):
        if verdict.id != last.id:
            break
        ends.append(end)
    ends.reverse()
    if len(ends) < TIMES:
        return None
    period = (ends[-1].boot_ns - ends[0].boot_ns) // (len(ends) - 1)
    return replace(
        last,
        id=RESTART_LOOP,
        sentence=f"restarting in a loop: ended {len(ends)} times in the same way, every"
        f" {span(period)}; {last.sentence}",
        evidence=(*ends[-MAX_EVIDENCE:-1], *last.evidence),
    )


CAUSE = Cause(100, _judge)
