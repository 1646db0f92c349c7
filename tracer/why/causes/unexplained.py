# SPDX-License-Identifier: Apache-2.0
"""A signal ended a container and its origin was not seen: the verdict says so and does not
guess."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.phrases import where, who
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    if story.end is None or story.end.body["signal"] is None:
        return None
    name = story.end.body["signal"]["name"]
    blow = story.blow()
    if blow is None:
        reason = "who sent it was not seen"
    elif blow.body["origin"] == "kernel":
        reason = "the kernel itself sent it, and why was not seen"
    else:
        reason = f"sent by {who(blow.event.by)} {where(blow)}"
    return Verdict(
        "unexplained",
        f"ended by {name}: {reason}",
        Certainty.UNKNOWN,
        (*([blow] if blow else []), story.end),
        "trace it from before the end, with all probes: ktrace why POD; for SIGKILL by the kernel"
        " look for oom-kill: in the kernel log",
    )


CAUSE = Cause(30, _judge)
