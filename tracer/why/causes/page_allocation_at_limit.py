# SPDX-License-Identifier: Apache-2.0
"""A page allocation failed at the memory limit of the container's cgroup."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.allocation import LIMIT, failures, sentence
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = failures(story, LIMIT)
    if not found:
        return None
    return Verdict(
        "page_allocation_at_limit",
        f"the memory limit of its cgroup refused the kernel's memory: {sentence(found)}",
        Certainty.LIKELY,
        tuple(found),
        "raise resources.limits.memory: what the kernel keeps for a container (pipes, sockets,"
        " files) counts as well",
        ("the node had memory in such pieces, so it was the limit or what is kept for others",),
    )


CAUSE = Cause(21, _judge, rests_on=frozenset(("pagealloc",)))
