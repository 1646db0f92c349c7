# SPDX-License-Identifier: Apache-2.0
"""The same container ends in the same way again and again."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from tracer.model.units import span
from tracer.probes.exits import ExitBody
from tracer.why.cause import RESTART_LOOP, Cause
from tracer.why.entry import Entry
from tracer.why.story import Story
from tracer.why.verdict import Verdict

# Two may be coincidence.
TIMES = 3
MAX_EVIDENCE = 50
# How much periods may differ and still be equal, and how much shorter a pause may be and still
# count as grown.
ALIKE, GROWS = 1.25, 0.9


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
    return replace(
        last,
        id=RESTART_LOOP,
        sentence=f"restarting in a loop: ended {len(ends)} times in the same way,"
        f" {_rhythm(ends)}; {last.sentence}",
        evidence=(*ends[-MAX_EVIDENCE:-1], *last.evidence),
    )


def _rhythm(ends: list[Entry[ExitBody]]) -> str:
    """The rhythm of the restarts. Pauses mostly grow (CrashLoopBackOff), so an average would match
    none of them."""
    between = [after.boot_ns - before.boot_ns for before, after in pairwise(ends)]
    if max(between) <= ALIKE * min(between):
        return f"every {span((ends[-1].boot_ns - ends[0].boot_ns) // (len(ends) - 1))}"
    pauses = [_pause(before, after) for before, after in pairwise(ends)]
    told = [pause for pause in pauses if pause is not None]
    if len(told) < len(pauses):
        return f"{_range(between)} apart{_growing(between)}"
    return f"started again after {_range(told)}{_growing(told)}"


def _pause(before: Entry[ExitBody], after: Entry[ExitBody]) -> int | None:
    """The time from an end to the next start."""
    started = after.event.about.start_boot_ns if after.event.about else None
    return None if started is None or started < before.boot_ns else started - before.boot_ns


def _range(times: list[int]) -> str:
    shortest, longest = span(min(times)), span(max(times))
    return shortest if shortest == longest else f"{shortest} to {longest}"


def _growing(times: list[int]) -> str:
    grows = all(later >= GROWS * earlier for earlier, later in pairwise(times))
    return ", later each time" if grows and times[-1] > ALIKE * times[0] else ""


CAUSE = Cause(100, _judge)
