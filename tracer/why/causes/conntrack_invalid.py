# SPDX-License-Identifier: Apache-2.0
"""A rule dropped packets that connection tracking had called INVALID."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.drops import RESTS_ON, By, of_netfilter, packets, total, tracking
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = of_netfilter(story, By.INVALID)
    if not found:
        return None
    return Verdict(
        "conntrack_invalid",
        f"{packets(story, found)} dropped: they fit no connection that connection tracking knows"
        f" ({tracking(found)['invalid']} called INVALID in that second), and a rule drops such"
        " packets, as kube-proxy's does",
        Certainty.LIKELY,
        tuple(found),
        "they are outside of the window that connection tracking expects, or came by another way"
        " than the packets before them: net.netfilter.nf_conntrack_tcp_be_liberal=1 takes the"
        " former (kube-proxy: --conntrack-tcp-be-liberal); for the latter see that both directions"
        " pass this node, and that nobody deletes entries of live connections (conntrack -D)",
        ("that it was these packets follows from the counter invalid of that second",),
        harm=total(found),
    )


CAUSE = Cause(16, _judge, rests_on=RESTS_ON)
