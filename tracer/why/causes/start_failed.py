# SPDX-License-Identifier: Apache-2.0
"""The container's program never ran: the runtime gave up while preparing the container."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.kubectl import describe
from tracer.why.common.phrases import ending
from tracer.why.common.starting import is_preparing
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    if story.end is None or not is_preparing(story.init):
        return None
    blow = story.blow()
    by_runtime = blow is not None and blow.body["origin"] == "runtime"
    how = "gave up" if by_runtime else f"failed ({ending(story.end.body)})"
    return Verdict(
        "start_failed",
        f"never started: the container runtime {how} while it prepared the container"
        f"{_last_failed(story)}" + (f"; it says: {story.message}" if story.message else ""),
        Certainty.CERTAIN,
        (*([blow] if blow else []), story.end),
        f"its message is in {describe(story.place)}: often a command that the image does not have,"
        " a mount that fails, or a memory limit that is a mistaken unit (1024m is one byte, 1024Mi"
        " is meant)",
    )


def _last_failed(story: Story) -> str:
    """The last call of the container's first process that failed, if calls were watched."""
    every = [*story.of("start_failure"), *story.of("disk_failure")]
    own = [entry for entry in every if story.is_init(entry.last.about)]
    if not own:
        return ""
    body = max(own, key=lambda entry: entry.last_ns).last.body
    path = f" of {body['path']}" if body["path"] else ""
    return f"; its last call that failed was {body['call'] or 'a call'}{path}: {body['error']}"


CAUSE = Cause(76, _judge)
