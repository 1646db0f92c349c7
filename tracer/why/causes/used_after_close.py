# SPDX-License-Identifier: Apache-2.0
"""The pod, as a client, used a connection that the other side had closed. This is the most common
502 of a proxy: its pool keeps connections longer than the server."""

from __future__ import annotations

from tracer.model.units import span
from tracer.why.cause import Cause
from tracer.why.common.phrases import times
from tracer.why.common.resets import RESTS_ON, Part, evidence, here, parts, peers, pods, seen, total
from tracer.why.sorts import CROSSING_NS, Sort, at_service
from tracer.why.story import Story
from tracer.why.verdict import Verdict

# What the other end reports about a connection that had ended there.
_ENDED = (Sort.CLOSED_BEFORE, Sort.NO_CONNECTION)


def _judge(story: Story) -> Verdict | None:
    every = parts(story, Sort.USED_AFTER_CLOSE, Sort.BY_PEER)
    found = [part for part in every if is_of_a_closed_one(part)]
    if not found:
        return None
    sure, doubts = seen(found)
    last = max(found, key=lambda part: part.event.boot_ns)
    back, front, count = peers(found), here(story), total(found)
    server = pods(found)
    kept = _kept_idle_ns(last)
    if kept is None:
        forgot = all(p.other is not None and p.other.sort is Sort.NO_CONNECTION for p in found)
        verb = "did not know" if forgot else "had closed"
        what = f"{back} {verb} {times(count, 'connection')}{_before(last, count)}"
        sentence = f"{what} on which {front} sent more"
        remedy = (
            f"ask {server} why it closed: a limit, a time-out, an end; and let {front} try again on"
            " a new connection"
        )
    else:
        which = "this idle connection" if count == 1 else f"{count} idle connections"
        it = "it" if count == 1 else "each"
        sentence = (
            f"{back} had closed {which}{_before(last, count)}, after {span(kept)} without data;"
            f" {front} used {it} once more"
        )
        remedy = (
            f"give {front}'s pool a shorter idle time-out than {server}'s keep-alive of"
            f" about {span(kept)}, and let it try again on a new connection: {server} saw nothing"
            " of what was sent"
        )
    return Verdict("used_after_close", sentence, sure, evidence(found), remedy, doubts, harm=count)


def is_of_a_closed_one(part: Part) -> bool:
    """Whether the service's end had closed it before the pod sent."""
    if at_service(part.event.body) or part.from_elsewhere:
        return False
    if part.other is not None:
        return part.other.sort in _ENDED
    return part.entry.sort is Sort.USED_AFTER_CLOSE


def _kept_idle_ns(part: Part) -> int | None:
    """How long the other side had kept it idle; None if it was in use."""
    received, heard = part.idle("received_ns"), part.idle("heard_ns")
    if received is None or heard is None or part.entry.sort is not Sort.USED_AFTER_CLOSE:
        return None
    return received - heard if received - heard >= CROSSING_NS else None


def _before(part: Part, count: int) -> str:
    """The FIN is the last segment heard from the side that closed."""
    heard = part.idle("heard_ns")
    if heard is None or part.entry.sort is not Sort.USED_AFTER_CLOSE:
        return ""
    return f"{', the last one' if count > 1 else ''} {span(heard)} before"


CAUSE = Cause(14, _judge, rests_on=RESTS_ON)
