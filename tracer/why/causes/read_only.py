# SPDX-License-Identifier: Apache-2.0
"""A file system that had been writable became read-only, and the container's calls failed."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.disks import RESTS_ON, failures, named
from tracer.why.common.phrases import times, who
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = failures(story, "EROFS")
    if not found:
        return None
    count = sum(entry.count for entry in found)
    last = max(found, key=lambda entry: entry.last_ns).last
    path = f" of {last.body['path']}" if last.body["path"] else ""
    return Verdict(
        "read_only",
        f"{times(count, 'call')} failed with EROFS, the last one {last.body['call'] or 'a call'}"
        f"{path} by {who(last.about)}: {named(last.body['file_system'])} was writable, and is not"
        " any more",
        Certainty.CERTAIN,
        tuple(found),
        "somebody remounted it, or the kernel did after an error of the disk: dmesg says so"
        " (EXT4-fs error, I/O error); then look after the disk before you mount it writable again",
        harm=count,
    )


CAUSE = Cause(20, _judge, rests_on=RESTS_ON)
