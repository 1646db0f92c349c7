# SPDX-License-Identifier: Apache-2.0
"""A page allocation failed because the node had no memory left."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.allocation import LACK, deciding, failures, gives_up_early, sentence
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = failures(story, LACK)
    if not found:
        return None
    early = all(gives_up_early(deciding(entry).body) for entry in found)
    return Verdict(
        "page_allocation_lack",
        f"the node is out of memory: {sentence(found)}; {deciding(found[-1]).body['reading']}",
        Certainty.LIKELY if early else Certainty.CERTAIN,
        tuple(found),
        "free memory on the node: fewer pods or smaller ones, true memory requests, and"
        " vm.min_free_kbytes for callers that cannot wait",
        ("files may hold memory that the kernel had no time to take back: see free -m",)
        if early
        else (),
    )


CAUSE = Cause(23, _judge, rests_on=frozenset(("pagealloc",)))
