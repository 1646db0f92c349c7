# SPDX-License-Identifier: Apache-2.0
"""Killed at the container's own memory limit."""

from __future__ import annotations

from tracer.probes.oom.decoder import limit_owner
from tracer.why.cause import Cause
from tracer.why.common.memory import fatal_oom, judged, what_counted
from tracer.why.story import Story
from tracer.why.verdict import Verdict


def _judge(story: Story) -> Verdict | None:
    oom = fatal_oom(story)
    if oom is None or limit_owner(oom.body) != "container":
        return None
    return judged(
        story,
        oom,
        "oom_container_limit",
        "raise resources.limits.memory, or bound what the program keeps (heap size, caches,"
        " workers); tmpfs and emptyDir in memory count as well",
        more=what_counted(oom.body),
    )


CAUSE = Cause(90, _judge, headline="OutOfMemory")
