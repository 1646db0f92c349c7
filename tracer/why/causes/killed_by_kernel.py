# SPDX-License-Identifier: Apache-2.0
"""The kernel killed the first process at its hard limit of processor time (RLIMIT_CPU), after
SIGXCPU at the soft one."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.memory import fatal_oom
from tracer.why.common.phrases import who
from tracer.why.entry import SIGKILL
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

WARNING = "SIGXCPU"


def _judge(story: Story) -> Verdict | None:
    blow = story.blow()
    if blow is None or blow.body["origin"] != "kernel" or fatal_oom(story) is not None:
        return None
    warnings = [
        entry
        for entry in story.signals()
        if entry.body["signal"]["name"] == WARNING and entry.body["origin"] == "kernel"
    ]
    if not warnings or blow.body["signal"]["number"] != SIGKILL:
        return None
    assert story.end is not None
    return Verdict(
        "killed_by_kernel",
        f"killed by the kernel at a limit of processor time: {who(story.init)} had got {WARNING} at"
        " its soft limit RLIMIT_CPU, went on, and got SIGKILL at the hard one",
        Certainty.LIKELY,
        (warnings[-1], blow, story.end),
        "raise the limit (ulimit -t in a start script, LimitCPU= of the runtime's unit), or find"
        " out what takes so much time",
        ("that SIGKILL was the hard limit's is told by the warning before it",),
    )


CAUSE = Cause(57, _judge)
