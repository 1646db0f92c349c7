# SPDX-License-Identifier: Apache-2.0
"""The other side refused the pod's connections."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.phrases import times
from tracer.why.common.resets import RESTS_ON, evidence, parts, peers, seen, total
from tracer.why.sorts import Sort
from tracer.why.story import Story
from tracer.why.verdict import Verdict


def _judge(story: Story) -> Verdict | None:
    found = [part for part in parts(story, Sort.REFUSED) if not part.from_elsewhere]
    if not found:
        return None
    sure, doubts = seen(found)
    remedy = "the other side has nothing listening there: is that pod ready, and the port right?"
    if doubts:
        remedy += " If something listens, look for a firewall's rule (REJECT) or a network policy"
    return Verdict(
        "refused_by_peer",
        f"{times(total(found), 'attempt')} of its own to connect refused by {peers(found)}",
        sure,
        evidence(found),
        remedy,
        doubts,
        harm=total(found),
    )


CAUSE = Cause(12, _judge, rests_on=RESTS_ON)
