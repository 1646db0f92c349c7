# SPDX-License-Identifier: Apache-2.0
"""Crashed by a fault of its own: SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP."""

from __future__ import annotations

from tracer.timeline import Story
from tracer.verdicts import Cause, Certainty, Verdict
from tracer.verdicts._faults import FAULTS, SECCOMP, meaning, own_fault
from tracer.verdicts._phrases import ending, who


def _judge(story: Story) -> Verdict | None:
    blow = own_fault(story, FAULTS)
    if blow is None or blow.body["signal"]["code"] == SECCOMP:
        return None
    assert story.end is not None
    found = story.locate(blow.event.about)
    place = f"; {found}" if found else ""
    return Verdict(
        "crashed",
        f"crashed by its own fault: {who(story.init)} ended by {ending(story.end.body)},"
        f" {meaning(blow)}{place}",
        Certainty.CERTAIN,
        (blow, story.end),
        "a bug in the program or in a library: its log, and a core dump (ulimit -c,"
        " kernel.core_pattern) tell the place; the kernel log has the address and the file",
    )


CAUSE = Cause(60, _judge)
