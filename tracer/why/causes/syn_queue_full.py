# SPDX-License-Identifier: Apache-2.0
"""Connection attempts were dropped because the SYN queue was full."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.phrases import times
from tracer.why.common.queues import depth, drops, listener, where
from tracer.why.common.resets import total
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

_REMEDY = (
    "the SYN queue is as long as the program's backlog in listen(), up to net.core.somaxconn of the"
    " pod: raise those two first; then net.ipv4.tcp_syncookies=1 turns nobody away (without it"
    " net.ipv4.tcp_max_syn_backlog counts, too). If no peak explains it, it is a flood of SYNs"
)


def _judge(story: Story) -> Verdict | None:
    found = drops(story, "syn")
    if not found:
        return None
    count = total(found)
    return Verdict(
        "syn_queue_full",
        f"{times(count, 'attempt')} to connect turned away{where(found)}: the SYN queue was"
        f" full{depth(found)}{listener(found)}",
        Certainty.CERTAIN,
        tuple(found),
        _REMEDY,
        harm=count,
    )


CAUSE = Cause(18, _judge, rests_on=frozenset(("backlog",)))
