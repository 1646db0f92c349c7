# SPDX-License-Identifier: Apache-2.0
"""The program gave up by itself with abort(3): an assertion, a failed allocation, a runtime's
panic."""

from __future__ import annotations

from tracer.timeline import Story
from tracer.verdicts import Cause, Certainty, Verdict
from tracer.verdicts._faults import ABORT, abort_calls, own_fault
from tracer.verdicts._kubectl import logs
from tracer.verdicts._phrases import ending, who

# abort(3) tries its signal first and then refuses to go on.
AT_ONCE_NS = 100_000_000


def _judge(story: Story) -> Verdict | None:
    blow = own_fault(story, (ABORT, "SIGSEGV", "SIGILL", "SIGTRAP"))
    calls = abort_calls(story)
    if blow is None or not calls or blow.boot_ns - calls[-1].last.boot_ns > AT_ONCE_NS:
        return None
    assert story.end is not None
    direct = blow.body["signal"]["name"] == ABORT
    ignored = "" if direct else f": SIGABRT, which PID 1 ignores, and then {ending(story.end.body)}"
    return Verdict(
        "aborted",
        f"gave up by itself: {who(story.init)} called abort(){ignored}",
        Certainty.CERTAIN if direct else Certainty.LIKELY,
        tuple(dict.fromkeys((calls[-1], blow, story.end))),
        "an assertion or a failed allocation, said in the container's log just before:"
        f" {logs(story.place)}",
        () if direct else ("that abort() caused the fault is told by the order of events",),
    )


CAUSE = Cause(61, _judge)
