# SPDX-License-Identifier: Apache-2.0
"""Killed at the limit of the pod as a whole, or of a cgroup around it."""

from __future__ import annotations

from tracer.probes.oom.decoder import KillBody, limit_owner
from tracer.why.cause import Cause
from tracer.why.common.memory import fatal_oom, judged, what_counted
from tracer.why.story import Story
from tracer.why.verdict import Verdict


def _judge(story: Story) -> Verdict | None:
    oom = fatal_oom(story)
    if oom is None or oom.body["scope"] != "cgroup" or limit_owner(oom.body) != "pod":
        return None
    return judged(
        story,
        oom,
        "oom_pod_limit",
        "the containers of the pod together used up its limit, and this one was chosen: add up what"
        " all of them use (ktrace oom -o json shows the largest), and raise the limits",
        more=f"; {_shared(oom.body)}{what_counted(oom.body)}",
    )


def _shared(body: KillBody) -> str:
    """Whose limit it is. It is the pod's own if it is below the sum of the containers' limits, or
    if a container has none: a kubelet then sets no limit for the pod. A higher one may include a
    container that does not run now."""
    parts = [part for part in body.get("memory", {"parts": ()})["parts"] if part["container"]]
    limits = [part["limit_bytes"] for part in parts]
    without = any(limit is None for limit in limits)
    if without or sum(limit or 0 for limit in limits) > (body["limit_bytes"] or 0):
        return "that limit is the pod's own, and shared by all its containers"
    return "that limit is shared by all containers of the pod, and may be the sum of theirs"


CAUSE = Cause(90, _judge, headline="OutOfMemory")
