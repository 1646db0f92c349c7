# SPDX-License-Identifier: Apache-2.0
"""The pod reset connections by closing them with SO_LINGER 0."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.phrases import times, who
from tracer.why.common.resets import RESTS_ON, certainty, of_sort, peers, ports, total
from tracer.why.sorts import Sort
from tracer.why.story import Story
from tracer.why.verdict import Verdict


def _judge(story: Story) -> Verdict | None:
    found = of_sort(story, Sort.LINGER)
    if not found:
        return None
    sure, doubts = certainty(found)
    closer = found[-1].last.about
    return Verdict(
        "reset_linger",
        f"reset {times(total(found), 'connection')} of {ports(found)} with {peers(found)}:"
        f" {who(closer) if closer else 'the program'} closed without lingering (SO_LINGER)",
        sure,
        tuple(found),
        "the program sets SO_LINGER so that close() resets: unsent data is thrown away; take the"
        " option away unless that is wanted",
        doubts,
        harm=total(found),
    )


CAUSE = Cause(15, _judge, rests_on=RESTS_ON)
