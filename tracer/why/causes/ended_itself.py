# SPDX-License-Identifier: Apache-2.0
"""The container's first process sent itself the signal that ended it."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.kubectl import logs
from tracer.why.common.phrases import who
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    blow = story.blow()
    if blow is None or not story.is_init(blow.event.by):
        return None
    assert story.end is not None
    return Verdict(
        "ended_itself",
        f"ended itself: {who(story.init)} sent itself {blow.body['signal']['name']}",
        Certainty.CERTAIN,
        (blow, story.end),
        "programs do that after cleaning up for a signal, or to give up: the reason is in its log,"
        f" {logs(story.place)}",
    )


CAUSE = Cause(58, _judge)
