# SPDX-License-Identifier: Apache-2.0
"""Ended by SIGSYS: a seccomp profile forbids a system call of the program."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.faults import SECCOMP, forbidden_call, own_fault
from tracer.why.common.phrases import who
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    blow = own_fault(story, ("SIGSYS",))
    if blow is None or blow.body["signal"]["code"] != SECCOMP:
        return None
    assert story.end is not None
    call = blow.body.get("call")
    what = forbidden_call(call)
    audit = "" if call else "the kernel's audit log names the call (type=1326, syscall=…); "
    return Verdict(
        "seccomp",
        f"ended by a seccomp profile: {who(story.init)} made {what} that it forbids (SIGSYS)",
        Certainty.CERTAIN,
        (blow, story.end),
        f"{audit}allow it in the profile (securityContext.seccompProfile), or find out why the"
        " program makes it",
    )


CAUSE = Cause(62, _judge)
