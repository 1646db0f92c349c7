# SPDX-License-Identifier: Apache-2.0
"""Packets came in with an address of this very host or pod as their source, and were dropped."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.drops import RESTS_ON, certainty, devices, ends, of_reason, total
from tracer.why.common.phrases import times
from tracer.why.common.resets import here
from tracer.why.story import Story
from tracer.why.verdict import Verdict


def _judge(story: Story) -> Verdict | None:
    found = of_reason(story, "ip_local_source")
    if not found:
        return None
    sure, doubts = certainty(found)
    return Verdict(
        "local_source",
        f"{times(total(found), 'packet')} for {here(story)} came in{devices(found)} from"
        f" {ends(found, 'source')}, which is its own address: the kernel takes such a source for"
        " forged and dropped them",
        sure,
        tuple(found),
        "something sends what leaves this host back to it without changing its source, mostly a"
        " load balancer that a client reaches from its own backend (loopback): ask the service by"
        " its cluster address from inside, let the load balancer translate sources, or keep its"
        " backends and their clients on different nodes; net.ipv4.conf.DEVICE.accept_local=1 takes"
        " such packets, if nothing forges them",
        doubts,
        harm=total(found),
    )


CAUSE = Cause(16, _judge, rests_on=RESTS_ON)
