# SPDX-License-Identifier: Apache-2.0
"""Crashed by a fault of its own: SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.faults import FAULTS, SECCOMP, handled_before, in_full, own_fault
from tracer.why.common.phrases import ending, who
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    blow = own_fault(story, FAULTS)
    if blow is None or blow.body["signal"]["code"] == SECCOMP:
        return None
    assert story.end is not None
    first = handled_before(story, blow)
    found = story.locate(blow.event.about)
    place = f"; {found}" if found else ""
    return Verdict(
        "crashed",
        f"crashed by its own fault: {who(story.init)} ended by {ending(story.end.body)},"
        f" {in_full(story, blow)}{place}",
        Certainty.CERTAIN,
        (*([first] if first else []), blow, story.end),
        "a bug in the program or in a library: its log, and a core dump (ulimit -c,"
        " kernel.core_pattern) tell the place; the kernel log has the address and the file",
    )


CAUSE = Cause(60, _judge)
