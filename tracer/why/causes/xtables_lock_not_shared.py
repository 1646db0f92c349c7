# SPDX-License-Identifier: Apache-2.0
"""Two programs change the host's iptables' rules at the same time: each locks a file of its own."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.locks import RESTS_ON, holder, locks
from tracer.why.common.phrases import who
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = locks(story, "other_file")
    if not found:
        return None
    last = max(found, key=lambda entry: entry.last_ns)
    file = last.last.body["file"]
    return Verdict(
        "xtables_lock_not_shared",
        f"{who(last.last.about)} changed the host's iptables' rules with a lock of its own,"
        f" {file['path']} (inode {file['inode']}): {holder(last)} locks another file of that name,"
        " so that each may undo the other's rules",
        Certainty.CERTAIN,
        tuple(found),
        "mount the host's file into the pod: a hostPath volume of /run/xtables.lock, of type"
        " FileOrCreate, at the same path",
        harm=len(found),
    )


CAUSE = Cause(13, _judge, rests_on=RESTS_ON)
