# SPDX-License-Identifier: Apache-2.0
"""A container ended by a signal of which the reason was not seen: that is said, not guessed."""

from __future__ import annotations

from tracer.timeline import Story
from tracer.verdicts import Cause, Certainty, Verdict
from tracer.verdicts._phrases import where, who


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
