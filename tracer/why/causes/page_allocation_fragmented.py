# SPDX-License-Identifier: Apache-2.0
"""A page allocation failed although memory was free: all free pieces were too small."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.allocation import FRAGMENTED, deciding, failures, sentence
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = failures(story, FRAGMENTED)
    if not found:
        return None
    return Verdict(
        "page_allocation_fragmented",
        f"memory is fragmented: {sentence(found)}; {deciding(found[-1]).body['reading']}",
        Certainty.CERTAIN,
        tuple(found),
        "echo 1 > /proc/sys/vm/compact_memory helps at once; for good raise vm.min_free_kbytes and"
        " vm.watermark_scale_factor, or keep page cache smaller",
    )


CAUSE = Cause(22, _judge, rests_on=frozenset(("pagealloc",)))
