# SPDX-License-Identifier: Apache-2.0
"""Crashed by a fault of its own: SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP."""

from __future__ import annotations

from tracer.timeline import Story
from tracer.verdicts import Cause, Certainty, Verdict
from tracer.verdicts._faults import CODES, FAULTS, SECCOMP, own_fault
from tracer.verdicts._phrases import ending, who


def _judge(story: Story) -> Verdict | None:
    blow = own_fault(story, FAULTS)
    if blow is None or blow.body["signal"]["code"] == SECCOMP:
        return None
    assert story.end is not None
    meaning = CODES.get(blow.body["signal"]["code"], blow.body["signal"]["code"])
    place = f"; {story.fault}" if story.fault else ""
    return Verdict(
        "crashed",
        f"crashed by its own fault: {who(story.init)} ended by {ending(story.end.body)},"
        f" {meaning}{place}",
        Certainty.CERTAIN,
        (blow, story.end),
        "a bug in the program or in a library: its log, and a core dump (ulimit -c,"
        " kernel.core_pattern) tell the place; the kernel log has the address and the file",
    )


CAUSE = Cause(60, _judge)
