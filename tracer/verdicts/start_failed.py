# SPDX-License-Identifier: Apache-2.0
"""The container's program never ran: the runtime gave up while it prepared the container."""

from __future__ import annotations

from tracer.origin import is_runtime
from tracer.timeline import Story
from tracer.verdicts import Cause, Certainty, Verdict
from tracer.verdicts._phrases import ending

# What runc's own process in the container is called until it becomes the container's program.
PREPARING = "runc:["


def _judge(story: Story) -> Verdict | None:
    init = story.init
    if story.end is None or init is None or not (init.comm or "").startswith(PREPARING):
        return None
    if init.exe is not None and not is_runtime(init.exe):
        return None  # a program that took that name
    blow = story.blow()
    by_runtime = blow is not None and blow.body["origin"] == "runtime"
    how = "gave up" if by_runtime else f"failed ({ending(story.end.body)})"
    return Verdict(
        "start_failed",
        f"never started: the container runtime {how} while it prepared the container",
        Certainty.CERTAIN,
        (*([blow] if blow else []), story.end),
        "its message is in kubectl describe pod: often a command that the image does not have, a"
        " mount that fails, or a memory limit that is a mistaken unit (1024m is one byte, 1024Mi is"
        " meant)",
    )


CAUSE = Cause(76, _judge)
