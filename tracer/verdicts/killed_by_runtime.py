# SPDX-License-Identifier: Apache-2.0
"""The runtime killed the container without asking it to end first."""

from __future__ import annotations

from tracer.timeline import Story
from tracer.verdicts import Cause, Certainty, Verdict
from tracer.verdicts._phrases import who
from tracer.verdicts._stopped import final_blow, request

# The longest that a stop may well take between its first signal and SIGKILL.
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
        "a grace period of 0 does that (kubectl delete --force, a failed liveness probe with"
        " terminationGracePeriodSeconds: 0), and so does the removal of a pod's sandbox: kubectl"
        " get events tells who ordered it",
        doubts,
    )


CAUSE = Cause(65, _judge)
