# SPDX-License-Identifier: Apache-2.0
"""Nobody answered the pod's attempts to connect."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.connects import (
    RESTS_ON,
    asked,
    by_icmp,
    connects,
    dropped,
    none_seen,
    of_queues,
    of_theirs,
    remote,
    still_waiting,
    to,
    turned_away,
)
from tracer.why.common.phrases import times
from tracer.why.common.resets import total
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    ended = connects(story, "timeout")
    told_by_others = by_icmp(story)
    given_up = [e for e in connects(story, "given_up") if remote(e) not in told_by_others]
    waiting = {end: n for end, n in still_waiting(story).items() if end not in told_by_others}
    trying = [entry for entry in connects(story, "unanswered") if remote(entry) in waiting]
    found = [*ended, *given_up, *trying]
    if not found:
        return None
    count = total(ended) + total(given_up) + sum(waiting.values())
    parts = []
    if given_up:
        parts.append(f"the program gave {total(given_up)} of them up")
    if waiting:
        parts.append(f"{sum(waiting.values())} of them still wait")
    drops, queues = dropped(story, found), turned_away(story, found)
    what = of_theirs(story, drops) + of_queues(queues)
    return Verdict(
        "connect_timeout",
        f"{times(count, 'attempt')} to connect to {to(found)} not answered"
        f" (the last one: {asked(found)}){''.join(f'; {part}' for part in parts)}"
        f"{what or none_seen(story, found)}",
        Certainty.CERTAIN,
        (*found, *drops, *queues),
        "is that address right, and does its pod run? If it does, something drops the packets on"
        " the way there or back: a network policy of either pod, a firewall or security group, a"
        " node without a route to that pod; or that side's queue is full (ktrace backlog there)",
        harm=count,
    )


CAUSE = Cause(15, _judge, rests_on=RESTS_ON)
