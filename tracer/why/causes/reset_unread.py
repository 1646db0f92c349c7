# SPDX-License-Identifier: Apache-2.0
"""The pod reset connections by closing them with unread data."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.phrases import times, who
from tracer.why.common.resets import RESTS_ON, certainty, of_sort, peers, ports, total
from tracer.why.sorts import Sort
from tracer.why.story import Story
from tracer.why.verdict import Verdict


def _judge(story: Story) -> Verdict | None:
    found = of_sort(story, Sort.UNREAD)
    if not found:
        return None
    sure, doubts = certainty(found)
    closer = found[-1].last.about
    return Verdict(
        "reset_unread",
        f"reset {times(total(found), 'connection')} of {ports(found)} with {peers(found)}:"
        f" {who(closer) if closer else 'the program'} closed while data was unread",
        sure,
        tuple(found),
        "the program closes (or ends) before it has read the request: read to the end, or answer"
        " and shut down sending first; often a limit on the request's size or a time-out",
        doubts,
        harm=total(found),
    )


CAUSE = Cause(16, _judge, rests_on=RESTS_ON)
