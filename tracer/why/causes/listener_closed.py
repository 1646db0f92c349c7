# SPDX-License-Identifier: Apache-2.0
"""Connections still waited to be accepted when the program closed its listening socket."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.phrases import times
from tracer.why.common.resets import RESTS_ON, certainty, of_sort, peers, ports, total
from tracer.why.sorts import Sort
from tracer.why.story import Story
from tracer.why.verdict import Verdict


def _judge(story: Story) -> Verdict | None:
    found = of_sort(story, Sort.NOT_ACCEPTED)
    if not found:
        return None
    sure, doubts = certainty(found)
    return Verdict(
        "listener_closed",
        f"the listener of {ports(found)} was closed before it had accepted"
        f" {times(total(found), 'connection')} from {peers(found)}: they were reset",
        sure,
        tuple(found),
        "at its end the program must accept and answer what waits before it closes, and get no more"
        " traffic by then: a preStop hook that sleeps for some seconds, and readiness that fails"
        " first",
        doubts,
        harm=total(found),
    )


CAUSE = Cause(15, _judge, rests_on=RESTS_ON)
