# SPDX-License-Identifier: Apache-2.0
"""The pod's TCP sent resets for a reason without a verdict of its own."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.phrases import times, who
from tracer.why.common.resets import RESTS_ON, of_sort, peers, total
from tracer.why.sorts import Sort
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = of_sort(story, Sort.OTHER)
    if not found:
        return None
    meanings = dict.fromkeys(entry.body["meaning"] for entry in found)
    known = [meaning for meaning in meanings if meaning]
    closer = found[-1].last.about
    by = f" by {who(closer)}" if closer else ""
    why = "; ".join(known) if known else "why, the kernel does not say"
    return Verdict(
        "reset_sent",
        f"reset {times(total(found), 'connection')} with {peers(found)}{by}: {why}",
        Certainty.CERTAIN if len(known) == len(meanings) else Certainty.UNKNOWN,
        tuple(found),
        "packets that do not fit the connection are late, doubled, forged, or of an older"
        " connection that the other side still has: look at what changes them on the way (a load"
        " balancer, NAT, two hosts with one address), and for who ended without a word"
        if known
        else "newer kernels name the reason (6.10); ktrace resets shows the socket's state",
        harm=total(found),
    )


CAUSE = Cause(9, _judge, rests_on=RESTS_ON)
