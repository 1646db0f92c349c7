# SPDX-License-Identifier: Apache-2.0
"""Connections cut off while in use: by connect(AF_UNSPEC), or from outside."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.phrases import times, who
from tracer.why.common.resets import RESTS_ON, of_sort, peers, total
from tracer.why.sorts import Sort
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = of_sort(story, Sort.DISCONNECTED)
    if not found:
        return None
    closer = found[-1].last.about
    how = (
        f"{who(closer)} disconnected the socket"
        if closer
        else "not by a call of the program that holds it"
    )
    return Verdict(
        "disconnected",
        f"{times(total(found), 'connection')} with {peers(found)} cut off: {how}",
        Certainty.CERTAIN,
        tuple(found),
        "the program calls connect() with AF_UNSPEC on a connected socket"
        if closer
        else "somebody destroys sockets (ss -K, a CNI plugin that does so when a service's end goes"
        " away), or a time-out of the kernel gave it up (TCP_USER_TIMEOUT, tcp_retries2)",
        harm=total(found),
    )


CAUSE = Cause(14, _judge, rests_on=RESTS_ON)
