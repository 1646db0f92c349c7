# SPDX-License-Identifier: Apache-2.0
"""The reverse path filter dropped packets, because answers would leave by another device."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.drops import RESTS_ON, certainty, devices, ends, of_reason, packets, total
from tracer.why.story import Story
from tracer.why.verdict import Verdict


def _judge(story: Story) -> Verdict | None:
    found = of_reason(story, "ip_rpfilter")
    if not found:
        return None
    sure, doubts = certainty(found)
    device = next((name for entry in found if (name := entry.body["device"])), None)
    by = f" does not lead out by {device}" if device else " leads elsewhere, or there is none"
    return Verdict(
        "rp_filter",
        f"{packets(story, found)} dropped{devices(found)} by the reverse path filter: the way back"
        f" to {ends(found, 'source')}{by}",
        sure,
        tuple(found),
        "compare ip route get ADDRESS with the device at which the packets come. If both ways are"
        " meant, net.ipv4.conf.DEVICE.rp_filter=2 (loose) takes what has any way back; of all and"
        " the device's own the larger value counts. Network plugins with an interface for each pod"
        " need 0 or 2 there",
        doubts,
        harm=total(found),
    )


CAUSE = Cause(16, _judge, rests_on=RESTS_ON)
