# SPDX-License-Identifier: Apache-2.0
"""Packets were dropped because they were larger than the next link takes, and must not be cut."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.drops import RESTS_ON, certainty, devices, of_reason, packets, total
from tracer.why.story import Story
from tracer.why.verdict import Verdict


def _judge(story: Story) -> Verdict | None:
    found = of_reason(story, "pkt_too_big")
    if not found:
        return None
    sure, doubts = certainty(found)
    size = max((entry.body["size"] or 0 for entry in found), default=0)
    mtus = {entry.body["mtu"] for entry in found} - {None}
    than = f"the MTU of {min(filter(None, mtus))}" if mtus else "the way on takes"
    largest = f" (up to {size} bytes)" if size else ""
    return Verdict(
        "mtu",
        f"{packets(story, found)}{largest} dropped{devices(found)}: larger than {than}",
        sure,
        tuple(found),
        "the sender's device has a larger MTU than the way has: give pods the MTU of the underlying"
        " network less the overlay's header (VXLAN 50, WireGuard 60 to 80, IPIP 20). The sender is"
        " told by ICMP: see that no firewall drops fragmentation-needed (type 3, code 4) and packet"
        " too big; net.ipv4.tcp_mtu_probing=1 helps where one does",
        doubts,
        harm=total(found),
    )


CAUSE = Cause(16, _judge, rests_on=RESTS_ON)
