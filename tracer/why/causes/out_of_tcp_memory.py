# SPDX-License-Identifier: Apache-2.0
"""The kernel cut connections off because TCP's memory was used up."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.phrases import times
from tracer.why.common.resets import RESTS_ON, of_sort, peers, total
from tracer.why.sorts import Sort
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = of_sort(story, Sort.NO_MEMORY)
    if not found:
        return None
    return Verdict(
        "out_of_tcp_memory",
        f"{times(total(found), 'connection')} with {peers(found)} cut off: the kernel has no more"
        " memory for TCP, or too many connections that nobody holds",
        Certainty.CERTAIN,
        tuple(found),
        "compare /proc/net/sockstat (mem, orphan) with net.ipv4.tcp_mem and"
        " net.ipv4.tcp_max_orphans; dmesg says which of the two",
        harm=total(found),
    )


CAUSE = Cause(16, _judge, rests_on=RESTS_ON)
