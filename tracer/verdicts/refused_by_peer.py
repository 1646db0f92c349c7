# SPDX-License-Identifier: Apache-2.0
"""The pod asked for connections that the other side refused."""

from __future__ import annotations

from tracer.timeline import Story
from tracer.verdicts import Cause, Certainty, Verdict
from tracer.verdicts._phrases import address, times
from tracer.verdicts._resets import RESTS_ON, peers, resets, total


def _judge(story: Story) -> Verdict | None:
    found = resets(story, "received", ("connection_refused",))
    if not found:
        return None
    return Verdict(
        "refused_by_peer",
        f"{times(total(found), 'connection')} of its own refused by"
        f" {address(found[-1].last.body['remote'])} ({peers(found)})",
        Certainty.CERTAIN,
        tuple(found),
        "the other side has nothing listening there: is that pod ready, and the port right?",
    )


CAUSE = Cause(12, _judge, rests_on=RESTS_ON)
