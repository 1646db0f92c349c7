# SPDX-License-Identifier: Apache-2.0
"""Limits of cgroups and of the node that were reached, other than memory."""

from __future__ import annotations

import re

from tracer.decode import whose
from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line
from tracer.model.units import size

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
# mm/mmap.c, may_expand_vm(); mm/vmalloc.c; lib/ratelimit.c
_DATA = re.compile(
    r"(?:mmap: )?(?P<comm>[^\n:]{1,64}) \((?P<pid>\d{1,10})\): VmData (?P<used>\d{1,20})"
    r" exceed data ulimit (?P<limit>\d{1,20})"
)
_VMAP = re.compile(r"vmap allocation for size (?P<bytes>\d{1,20}) failed")
_SUPPRESSED = re.compile(r"(?P<what>[\w.]{1,64}): (?P<count>\d{1,10}) callbacks suppressed")
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
    if found := _DATA.search(text):
        used, limit = size(int(found["used"])), size(int(found["limit"]))
        return [
            f"{found['comm'].strip()}, pid {found['pid']}, was refused memory: it has {used} of"
            f" data, and its limit is {limit} (RLIMIT_DATA, ulimit -d)"
        ]
    if found := _VMAP.search(text):
        return [
            f"the kernel found no range of its own addresses for {size(int(found['bytes']))}:"
            " memory may be free all the same (vmalloc=SIZE at boot, or a leak)"
        ]
    if found := _SUPPRESSED.search(text):
        return [
            f"{found['count']} messages of {found['what']} are missing before this line: the kernel"
            " logs so many of a sort only"
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
    marks=(
        "fork rejected",
        "file-max",
        "audit: ",
        "sched: ",
        "inotify",
        "huge",
        "VmData",
        "vmap ",
        "suppressed",
    ),
    rank=44,
)
