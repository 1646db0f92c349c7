# SPDX-License-Identifier: Apache-2.0
"""The runtime asked the container to end, and it did."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.phrases import ending, who
from tracer.why.common.stopped import between, request
from tracer.why.entry import took_effect
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    asked = request(story)
    if asked is None or story.end is None or not took_effect(asked):
        return None
    by_itself = story.end.body["exit_code"] is not None
    if not by_itself and story.blow() is not asked:
        return None
    name = asked.body["signal"]["name"]
    return Verdict(
        "stopped_in_time",
        f"stopped by the runtime: {who(story.init)} ended {between(asked, story.end)} after {name},"
        f" with {ending(story.end.body)}",
        Certainty.LIKELY if by_itself else Certainty.CERTAIN,
        (asked, story.end),
        "an orderly stop, in which the program has nothing to mend",
        (f"that {name} made it end is told by the order of events",) if by_itself else (),
    )


CAUSE = Cause(70, _judge, was_ordered=True)
