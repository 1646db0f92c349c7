# SPDX-License-Identifier: Apache-2.0
"""A page allocation failed because the node had no memory left."""

from __future__ import annotations

from tracer.timeline import Story
from tracer.verdicts import Cause, Certainty, Verdict
from tracer.verdicts._allocation import LACK, failures, sentence


def _judge(story: Story) -> Verdict | None:
    found = failures(story, LACK)
    if not found:
        return None
    return Verdict(
        "page_allocation_lack",
        f"the node is out of memory: {sentence(found)}; {found[-1].last.body['reading']}",
        Certainty.CERTAIN,
        tuple(found),
        "free memory on the node: fewer pods or smaller ones, true memory requests, and"
        " vm.min_free_kbytes for callers that cannot wait",
    )


CAUSE = Cause(23, _judge, rests_on=frozenset(("pagealloc",)))
