# SPDX-License-Identifier: Apache-2.0
"""Packets were dropped because the next host on their way did not answer (ARP, NDP)."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.connects import are_told
from tracer.why.common.drops import RESTS_ON, certainty, devices, of_reason, packets, total
from tracer.why.story import Story
from tracer.why.verdict import Verdict

_WORDS = {
    "neigh_createfail": "the table of neighbours is full",
    "neigh_queuefull": "the next host had not answered yet, and too many packets waited for that",
}


def _judge(story: Story) -> Verdict | None:
    every = of_reason(story, "neigh_failed", "neigh_dead", *_WORDS)
    found = [entry for entry in every if not are_told(story, entry)]
    if not found:
        return None
    sure, doubts = certainty(found)
    reasons = {entry.body["reason"] or "" for entry in found}
    why = _WORDS[reasons.pop()] if len(reasons) == 1 and reasons <= _WORDS.keys() else None
    remedy = (
        "ip neigh show on that device: FAILED or INCOMPLETE is an address that nobody has there. Is"
        " the other host or pod gone, is a route to it via the wrong device, or are ARP and NDP"
        " dropped on the way (a security group, a bridge)?"
    )
    if "neigh_createfail" in reasons or why == _WORDS["neigh_createfail"]:
        remedy = "compare ip neigh | wc -l with net.ipv4.neigh.default.gc_thresh3, and raise that"
    return Verdict(
        "no_neighbour",
        f"{packets(story, found)} dropped{devices(found)}:"
        f" {why or 'the next host on the way does not answer'}",
        sure,
        tuple(found),
        remedy,
        doubts,
        harm=total(found),
    )


CAUSE = Cause(15, _judge, rests_on=RESTS_ON)
