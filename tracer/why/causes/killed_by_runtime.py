# SPDX-License-Identifier: Apache-2.0
"""The runtime killed the container without asking it to end first."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.kubectl import describe
from tracer.why.common.phrases import who
from tracer.why.common.stopped import final_blow, request
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

# The longest time between the first signal of a normal stop and its SIGKILL.
GRACE_NS = 600_000_000_000


def _judge(story: Story) -> Verdict | None:
    blow = final_blow(story)
    if blow is None or request(story) is not None:
        return None
    assert story.end is not None
    missed = story.starts_before_tracing() and blow.boot_ns - story.began_ns < GRACE_NS
    doubts = ("a SIGTERM may have come before tracing began",) if missed else ()
    return Verdict(
        "killed_by_runtime",
        f"killed by the runtime: SIGKILL from {who(blow.event.by)} without a SIGTERM before it",
        Certainty.LIKELY if missed else Certainty.CERTAIN,
        (blow, story.end),
        _remedy(story),
        doubts,
    )


def _remedy(story: Story) -> str:
    if story.place.identity.pod_uid is None:
        return "docker kill, or a stop with a time of 0: look who gave that order"
    return (
        "a pod that is evicted at once gets no grace period, nor do containers that still run when"
        f" their pod's sandbox is removed: {describe(story.place)} says Evicted and what ran out"
    )


CAUSE = Cause(65, _judge, was_ordered=True)
