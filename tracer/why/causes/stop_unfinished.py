# SPDX-License-Identifier: Apache-2.0
"""The runtime's SIGTERM reached the process, which did not end before SIGKILL."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.phrases import who
from tracer.why.common.stopped import between, final_blow, request
from tracer.why.entry import took_effect
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    asked, blow = request(story), final_blow(story)
    if asked is None or blow is None or not took_effect(asked):
        return None
    assert story.end is not None
    name = asked.body["signal"]["name"]
    return Verdict(
        "stop_unfinished",
        f"stopped by the runtime: {name} reached {who(story.init)}, which had not ended"
        f" {between(asked, blow)} later, when SIGKILL came",
        Certainty.CERTAIN,
        (asked, blow, story.end),
        f"make its handler of {name} finish sooner (it may also block {name} and never look), or"
        " raise terminationGracePeriodSeconds",
    )


CAUSE = Cause(71, _judge, was_ordered=True)
