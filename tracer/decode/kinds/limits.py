# SPDX-License-Identifier: Apache-2.0
"""Limits of cgroups and of the node that were reached, other than memory."""

from __future__ import annotations

import re

from tracer.decode import whose
from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line

# kernel/cgroup/pids.c, pids_can_fork()
_FORK = re.compile(r"cgroup: fork rejected by pids controller in (?P<path>[^\n]{1,4096})")
_FILES = re.compile(r"VFS: file-max limit (?P<limit>\d{1,20}) reached")
_INOTIFY = re.compile(r"inotify[^\n]{0,80}(?:ENOSPC|no space left|limit)", re.I)
_HUGETLB = re.compile(
    r"(?:hugetlb|hugepages)[^\n]{0,40}(?:allocation|reserve)[^\n]{0,20}fail", re.I
)
_AUDIT = re.compile(
    r"audit: (?P<what>backlog limit exceeded|kauditd hold queue overflow|rate limit)"
)
_THROTTLED = re.compile(r"sched: (?:RT throttling activated|DL replenish)")


def _read(line: Line, _kernel: Kernel) -> Answer | None:
    text = line.text
    if found := _FORK.search(text):
        return [
            f"fork was refused: the pids limit of {whose.in_words(found['path'])}, or of a cgroup"
            " above it, was reached",
            *whose.facts(whose.identify(found["path"])),
        ]
    if found := _FILES.search(text):
        return [
            f"the node has {found['limit']} files open, which is all it may have (fs.file-max)",
            "open and connect fail with ENFILE for everybody but root",
        ]
    if _AUDIT.search(text):
        return ["the audit daemon is too slow: records of audit were lost"]
    if _THROTTLED.search(text):
        return ["real-time tasks have used all the time they may have: others got a turn"]
    if _INOTIFY.search(text):
        return ["a limit of inotify was reached: fs.inotify.max_user_watches or max_user_instances"]
    if _HUGETLB.search(text):
        return ["huge pages could not be had: memory is in pieces, or the pool is too small"]
    return None


KIND = Kind(
    _read,
    marks=("fork rejected", "file-max", "audit: ", "sched: ", "inotify", "huge"),
    rank=44,
)
