# SPDX-License-Identifier: Apache-2.0
"""A memory limit so small that nothing can run: a unit was mistaken."""

from __future__ import annotations

from tracer.timeline import Entry, Story
from tracer.units import size
from tracer.verdicts import Cause, Certainty, Verdict

# runc itself needs more to start a container; Docker refuses less than 6 MiB.
TINY = 1 << 20


def _judge(story: Story) -> Verdict | None:
    """The victim may be the runtime's own first step, before there is a first process."""
    tiny = [entry for entry in story.of("oom") if _is_tiny(entry)]
    if not tiny:
        return None
    last = tiny[-1]
    limit = last.body["limit_bytes"]
    return Verdict(
        "oom_tiny_limit",
        f"out of memory at a limit of {size(limit)}: too little for any program to start",
        Certainty.CERTAIN,
        (last, *([story.end] if story.end else [])),
        "a mistaken unit: in a manifest m means thousandths, and a number alone is bytes; write"
        " memory: 1024Mi, not 1024m or 1024",
    )


def _is_tiny(entry: Entry) -> bool:
    limit = entry.body["limit_bytes"]
    return limit is not None and limit < TINY and entry.body["limit_of"] in ("container", "pod")


CAUSE = Cause(93, _judge, rests_on=frozenset(("oom",)))
