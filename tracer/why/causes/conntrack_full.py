# SPDX-License-Identifier: Apache-2.0
"""Packets were dropped because connection tracking's table was full."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.drops import (
    RESTS_ON,
    By,
    certainty,
    of_netfilter,
    packets,
    total,
    tracking,
)
from tracer.why.story import Story
from tracer.why.verdict import Verdict


def _judge(story: Story) -> Verdict | None:
    found = of_netfilter(story, By.FULL)
    if not found:
        return None
    sure, doubts = certainty(found)
    counted = tracking(found)
    of = f" of {counted['maximum']}" if counted["maximum"] else ""
    return Verdict(
        "conntrack_full",
        f"{packets(story, found)} dropped: the table of connection tracking was full"
        f" ({counted['entries']}{of} entries)",
        sure,
        tuple(found),
        "conntrack -L | awk shows whose entries they are: many of one address are a client that"
        " opens a connection for each request, or a scan. Raise net.netfilter.nf_conntrack_max"
        " (kube-proxy: --conntrack-max-per-core), or shorten"
        " net.netfilter.nf_conntrack_tcp_timeout_established; the kernel log says: table full,"
        " dropping packet",
        doubts,
        harm=total(found),
    )


CAUSE = Cause(17, _judge, rests_on=RESTS_ON)
