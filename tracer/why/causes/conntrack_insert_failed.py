# SPDX-License-Identifier: Apache-2.0
"""Connection tracking dropped packets, because another packet of the same socket was first: the
five seconds that a DNS query takes."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.drops import (
    RESTS_ON,
    By,
    of_netfilter,
    packets,
    port_of,
    total,
    tracking,
)
from tracer.why.common.phrases import times
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

DNS = 53


def _judge(story: Story) -> Verdict | None:
    found = of_netfilter(story, By.OVERTAKEN)
    if not found:
        return None
    dns = all(port_of(entry) == DNS for entry in found)
    asks = ": a query that is lost is asked again after 5 s" if dns else ""
    resolved = tracking(found)["clash_resolved"]
    others = f", while {times(resolved, 'other clash')} was resolved" if resolved == 1 else ""
    if resolved > 1:
        others = f", while {resolved} other clashes were resolved"
    return Verdict(
        "conntrack_insert_failed",
        f"{packets(story, found)} dropped: two packets of one socket began the same connection at"
        f" once, and connection tracking kept only one (insert_failed){others}{asks}",
        Certainty.LIKELY,
        tuple(found),
        "the program asks for A and AAAA at the same moment from one socket: a DNS cache on the"
        " node (NodeLocal DNSCache), which is asked without translation; options"
        " single-request-reopen in dnsConfig (glibc; musl has none); or use-vc, for TCP"
        if dns
        else "use a new socket for each request, or leave out translation on the way (NOTRACK, a"
        " headless Service)",
        ("that it was these packets follows from the counter insert_failed of that second",),
        harm=total(found),
    )


CAUSE = Cause(17, _judge, rests_on=RESTS_ON)
