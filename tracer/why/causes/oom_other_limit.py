# SPDX-License-Identifier: Apache-2.0
"""Killed by the OOM killer at a limit that is neither the container's nor the pod's, or that the
kernel did not name."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.memory import fatal_oom, judged, unknown_limit
from tracer.why.story import Story
from tracer.why.verdict import Verdict


def _judge(story: Story) -> Verdict | None:
    oom = fatal_oom(story)
    if oom is None or oom.body["scope"] == "system" or oom.body["limit_of"] in ("container", "pod"):
        return None
    unknown = "the kernel log has the report, which ktrace needs /dev/kmsg for; "
    return judged(
        story,
        oom,
        "oom_other_limit",
        (unknown if unknown_limit(oom.body) else "")
        + "compare the limits of the container, its pod and the cgroups around it"
        " (memory.max, memory.limit_in_bytes) with what was used; the kernel log has the report",
    )


CAUSE = Cause(85, _judge, headline="OutOfMemory")
