# SPDX-License-Identifier: Apache-2.0
"""Packets were dropped because no route leads to where they were to go."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.drops import RESTS_ON, certainty, of_reason, packets, total
from tracer.why.story import Story
from tracer.why.verdict import Verdict


def _judge(story: Story) -> Verdict | None:
    found = of_reason(story, "ip_innoroutes", "ip_outnoroutes", "ip_inaddrerrors")
    if not found:
        return None
    sure, doubts = certainty(found)
    forwards = all(entry.body["reason"] != "ip_inaddrerrors" for entry in found)
    why = "no route leads there" if forwards else "the host does not forward packets of others"
    return Verdict(
        "no_route",
        f"{packets(story, found)} dropped: {why}",
        sure,
        tuple(found),
        "ip route get ADDRESS in the namespace in which they were dropped (ktrace drops -o wide):"
        " is the network plugin's route to that pod or node missing, or one of type unreachable or"
        " blackhole there? Is net.ipv4.ip_forward 1?",
        doubts,
        harm=total(found),
    )


CAUSE = Cause(15, _judge, rests_on=RESTS_ON)
