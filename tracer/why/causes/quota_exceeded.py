# SPDX-License-Identifier: Apache-2.0
"""The user, the group or the project has used up its quota of a file system."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.disks import RESTS_ON, failures, named
from tracer.why.common.phrases import times, who
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = failures(story, "EDQUOT")
    if not found:
        return None
    count = sum(entry.count for entry in found)
    last = max(found, key=lambda entry: entry.last_ns).last
    body = last.body
    uid = last.about.uid if last.about else None
    whose = f", as uid {uid}" if uid is not None else ""
    path = f" of {body['path']}" if body["path"] else ""
    return Verdict(
        "quota_exceeded",
        f"{times(count, 'call')} failed with EDQUOT, the last one {body['call'] or 'a call'}{path}"
        f" by {who(last.about)}{whose}: a quota of {named(body['file_system'])} is used up",
        Certainty.CERTAIN,
        tuple(found),
        "repquota -a on the node shows who has used how much (btrfs: btrfs qgroup show); raise the"
        " quota, or remove files of that user, group or project",
        harm=count,
    )


CAUSE = Cause(20, _judge, rests_on=RESTS_ON)
