# SPDX-License-Identifier: Apache-2.0
"""A container did not come up, and a page allocation of its start had failed just before."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.allocation import sentence
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

STARTING_NS = 10_000_000_000


def _judge(story: Story) -> Verdict | None:
    end, init = story.end, story.init
    if end is None or init is None or init.start_boot_ns is None or end.body["exit_code"] == 0:
        return None
    failed = [
        entry
        for entry in story.of("page_alloc_failure")
        if entry.boot_ns - init.start_boot_ns <= STARTING_NS
        and end.boot_ns - entry.last_ns <= STARTING_NS
    ]
    if not failed or end.body["signal"] is not None:
        return None
    return Verdict(
        "start_without_memory",
        f"did not start: {sentence(failed)}, and it ended with exit code {end.body['exit_code']}",
        Certainty.LIKELY,
        (*failed, end),
        "see ktrace decode < /proc/buddyinfo on the node: compact memory if it is fragmented, free"
        " some if it is gone, raise the limit if it is the cgroup's",
        ("that the one followed from the other is told by the order of events",),
    )


CAUSE = Cause(55, _judge, rests_on=frozenset(("exits", "pagealloc")))
