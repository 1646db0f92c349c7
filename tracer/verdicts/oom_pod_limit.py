# SPDX-License-Identifier: Apache-2.0
"""Killed at the limit of the pod as a whole, or of a cgroup around it."""

from __future__ import annotations

from tracer.timeline import Story
from tracer.verdicts import Cause, Verdict
from tracer.verdicts._memory import fatal_oom, judged


def _judge(story: Story) -> Verdict | None:
    oom = fatal_oom(story)
    if oom is None or oom.body["scope"] != "cgroup" or oom.body["limit_of"] != "pod":
        return None
    return judged(
        story,
        oom,
        "oom_pod_limit",
        "the containers of the pod together used up its limit, and this one was chosen: add up what"
        " all of them use (ktrace oom -o json shows the largest), and raise the limits",
        more="; that limit is shared by all containers of the pod",
    )


CAUSE = Cause(90, _judge)
