# SPDX-License-Identifier: Apache-2.0
"""Connection attempts were dropped because the accept queue was full."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.phrases import times
from tracer.why.common.queues import depth, drops, listener, where
from tracer.why.common.resets import of_sort, ports, total
from tracer.why.sorts import Sort
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

_REMEDY = (
    "the program accepts too slowly, or not at all: look at what it does (a thread pool that is"
    " full, a pause of the garbage collector); a longer backlog in listen(), up to"
    " net.core.somaxconn, only bridges peaks"
)
_BY_RESET = (
    "with net.ipv4.tcp_abort_on_overflow=1 a full queue answers with resets instead of letting the"
    " client try again; 0 is the default"
)


def _judge(story: Story) -> Verdict | None:
    found, reset = drops(story, "accept"), of_sort(story, Sort.OVERFLOW)
    count = max(total(found), total(reset))
    if not count:
        return None
    answered = f"; {total(reset)} of them with a reset" if reset else ""
    at = where(found) or (f" at {ports(reset)}" if reset else "")
    full = f"the accept queue was full{depth(found) + listener(found) if found else ''}"
    doubts = () if found else ("that is told by resets of connections that nobody had accepted",)
    return Verdict(
        "accept_queue_full",
        f"{times(count, 'attempt')} to connect turned away{at}{answered}: {full}",
        Certainty.CERTAIN if found else Certainty.LIKELY,
        (*found, *reset),
        f"{_REMEDY}; {_BY_RESET}" if reset else _REMEDY,
        doubts,
        harm=count,
    )


CAUSE = Cause(19, _judge, rests_on=frozenset(("backlog",)))
