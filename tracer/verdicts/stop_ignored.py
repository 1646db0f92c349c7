# SPDX-License-Identifier: Apache-2.0
"""The runtime's SIGTERM was ignored by PID 1, and SIGKILL followed."""

from __future__ import annotations

from tracer.timeline import Story
from tracer.verdicts import Cause, Certainty, Verdict
from tracer.verdicts._phrases import who
from tracer.verdicts._stopped import between, final_blow, request


def _judge(story: Story) -> Verdict | None:
    asked, blow = request(story), final_blow(story)
    if asked is None or blow is None or asked.body["signal"]["result"] != "ignored":
        return None
    assert story.end is not None
    name = asked.body["signal"]["name"]
    return Verdict(
        "stop_ignored",
        f"stopped by the runtime: {who(story.init)}{_as_first(story)} ignored {name} because it has"
        f" no handler for it, and SIGKILL followed {between(asked, blow)} later",
        Certainty.CERTAIN,
        (asked, blow, story.end),
        f"let the program itself be PID 1 (exec in the shell script, or the array form of the"
        f" command) and handle {name}, or put an init such as tini in front",
    )


def _as_first(story: Story) -> str:
    """Only PID 1 is spared what it has no handler for; others ignore what they want to."""
    return ", as PID 1," if story.init and story.init.pid_in_pod == 1 else ""


CAUSE = Cause(72, _judge, was_ordered=True)
