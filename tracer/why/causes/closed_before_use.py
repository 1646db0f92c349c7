# SPDX-License-Identifier: Apache-2.0
"""The pod closed connections that its clients then used: the other end of used_after_close."""

from __future__ import annotations

from tracer.model.units import span
from tracer.why.cause import Cause
from tracer.why.common.phrases import times
from tracer.why.common.resets import RESTS_ON, Part, certainty, evidence, here, parts, peers, total
from tracer.why.sorts import CROSSING_NS, Sort, idle_ns
from tracer.why.story import Story
from tracer.why.verdict import Verdict


def _judge(story: Story) -> Verdict | None:
    found = list(parts(story, Sort.CLOSED_BEFORE))
    if not found:
        return None
    entries = evidence(found)
    sure, doubts = certainty(entries)
    last = max(found, key=lambda part: part.event.boot_ns)
    front, count = peers(found), total(found)
    ago, kept = _closed_ago(last), _kept_idle_ns(last)
    idle = f" that had been idle for {span(kept)}" if kept is not None else ""
    before = f", the last one {span(ago)} before" if ago is not None else " before"
    without = _unused_ns(last) if kept is None else None
    after = f", after {span(without)} without data" if without is not None else ""
    remedy = (
        f"give {front}'s pool a shorter idle time-out than {here(story)}'s keep-alive"
        + (f" of about {span(kept)}" if kept is not None else "")
        + ": who uses a connection must be the first to give it up"
    )
    if kept is None and without is None:
        remedy += (
            ". If it was in use, the program closed too early: a limit on the request's size, a"
            " time-out, or its end"
        )
    return Verdict(
        "closed_before_use",
        f"{here(story)} had closed {times(count, 'connection')}{idle}{before} {front} sent more"
        f"{after}",
        sure,
        entries,
        remedy,
        doubts,
        harm=count,
    )


def _closed_ago(part: Part) -> int | None:
    """How long ago the pod had closed it, by TIME_WAIT or by the client, which received the FIN."""
    own = part.idle("ended_ns")
    if own is not None:
        return own
    if part.other is None or part.other.event.body["state"] != "CLOSE_WAIT":
        return None
    return idle_ns(part.other.event.body, "heard_ns")


def _kept_idle_ns(part: Part) -> int | None:
    """How long it had been idle, by the client's socket."""
    if part.other is None or part.other.event.body["state"] != "CLOSE_WAIT":
        return None
    received = idle_ns(part.other.event.body, "received_ns")
    heard = idle_ns(part.other.event.body, "heard_ns")
    if received is None or heard is None or received - heard < CROSSING_NS:
        return None
    return received - heard


def _unused_ns(part: Part) -> int | None:
    """How long it had been idle before more data came, by the pod's own socket."""
    sent, received = part.idle("sent_ns"), part.idle("received_ns")
    if sent is None or received is None or min(sent, received) < CROSSING_NS:
        return None
    return min(sent, received)


CAUSE = Cause(14, _judge, rests_on=RESTS_ON)
