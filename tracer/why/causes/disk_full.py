# SPDX-License-Identifier: Apache-2.0
"""A file system was full, and the container's calls failed for it."""

from __future__ import annotations

from tracer.probes.disk import INODES
from tracer.why.cause import Cause
from tracer.why.common.disks import RESTS_ON, failures, lack, largest, most, named
from tracer.why.common.phrases import times, who
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

_BLOCKS = (
    "make room: du -x there finds what is large; a file that is deleted gives its room back only"
    " when its last holder closes it. A limit (ephemeral-storage, sizeLimit of an emptyDir) keeps"
    " one pod from filling the others' disk"
)
_INODES = (
    "there is room, but no inode: too many small files (df -i; du --inodes -x). Fewer files, or a"
    " file system with more inodes"
)


def _judge(story: Story) -> Verdict | None:
    every = failures(story, "ENOSPC")
    found = [entry for entry in every if entry.last.body["file_system"]["lacks"]]
    if not found:
        return None
    count = sum(entry.count for entry in found)
    last = max(found, key=lambda entry: entry.last_ns).last
    system = last.body["file_system"]
    path = f" of {last.body['path']}" if last.body["path"] else ""
    return Verdict(
        "disk_full",
        f"{times(count, 'call')} failed with ENOSPC, the last one {last.body['call'] or 'a call'}"
        f"{path} by {who(last.about)}: {named(system)} is full, {lack(system)}{most(last.body)}"
        f"{largest(last.body)}",
        Certainty.CERTAIN,
        tuple(found),
        _INODES if system["lacks"] == [INODES] else _BLOCKS,
        harm=count,
    )


CAUSE = Cause(20, _judge, rests_on=RESTS_ON)
