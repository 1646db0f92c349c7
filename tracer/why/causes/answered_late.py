# SPDX-License-Identifier: Apache-2.0
"""A client closed the connection before the pod answered: the client's time-out is shorter than the
answer takes."""

from __future__ import annotations

from tracer.model.units import span
from tracer.why.cause import Cause
from tracer.why.common.phrases import times
from tracer.why.common.resets import RESTS_ON, Part, evidence, here, parts, peers, seen, total
from tracer.why.sorts import Sort
from tracer.why.story import Story
from tracer.why.verdict import Verdict


def _judge(story: Story) -> Verdict | None:
    found = list(parts(story, Sort.ANSWERED_LATE))
    if not found:
        return None
    sure, doubts = seen(found)
    last = max(found, key=lambda part: part.event.boot_ns)
    client, count = peers(found), total(found)
    heard = last.idle("heard_ns") or 0
    before = f"{', the last one' if count > 1 else ''} {span(heard)} before {here(story)} answered"
    return Verdict(
        "answered_late",
        f"{client} had closed {times(count, 'connection')}{before}{_waited(last, heard)}",
        sure,
        evidence(found),
        f"the time-out is {client}'s: a longer one there, or a faster answer here",
        doubts,
        harm=count,
    )


def _waited(part: Part, heard: int) -> str:
    received = part.idle("received_ns")
    if received is None or received <= heard:
        return ""
    return f": it had waited {span(received - heard)} for the answer, which took {span(received)}"


CAUSE = Cause(14, _judge, rests_on=RESTS_ON)
