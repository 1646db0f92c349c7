# SPDX-License-Identifier: Apache-2.0
"""Connections given up because the other side did not answer keepalives."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.phrases import times
from tracer.why.common.resets import RESTS_ON, idle, of_sort, parts, peers, total
from tracer.why.sorts import Sort
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = of_sort(story, Sort.UNANSWERED)
    if not found:
        return None
    return Verdict(
        "keepalive_unanswered",
        f"{times(total(found), 'connection')} given up: {peers(found)} answered no TCP keepalives"
        f"{idle(list(parts(story, Sort.UNANSWERED)))}",
        Certainty.CERTAIN,
        tuple(found),
        "the other side is gone without having closed, or something in between has forgotten the"
        " connection (conntrack, a load balancer's idle time-out): keepalives must come more often"
        " than that (net.ipv4.tcp_keepalive_time, TCP_KEEPIDLE)",
        harm=total(found),
    )


CAUSE = Cause(15, _judge, rests_on=RESTS_ON)
