# SPDX-License-Identifier: Apache-2.0
"""The cgroups that exist now, for `ktrace pods` and for the start of a session.

The kernel side numbers a cgroup by its kernfs id, which is its directory's inode. The number of the
hierarchy is in the top 16 bits: 0 for version 2, the number in /proc/cgroups for version 1's memory
controller. If version 1 has the memory controller, containers are looked up there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tracer.kernel import limits
from tracer.kernel.hierarchies import Hierarchy, hierarchies
from tracer.model.cgroup import CgroupIdentity, parse

MAX_CGROUPS = 50_000
# The hierarchy's number in a kt_cgroup_id.
HIERARCHY_SHIFT = 48
INODE = (1 << HIERARCHY_SHIFT) - 1


@dataclass(frozen=True, slots=True)
class Cgroup:
    id: int
    path: str
    directory: str
    identity: CgroupIdentity

    def own_processes(self) -> list[int]:
        """Pids in it, in no order."""
        try:
            return [int(pid) for pid in Path(self.directory, "cgroup.procs").read_text().split()]
        except (OSError, ValueError):  # gone, or a threaded cgroup, which has only threads
            return []

    def processes(self) -> list[int]:
        """Pids in it and below it, in no order."""
        return [
            pid
            for directory, _, _ in os.walk(self.directory)
            for pid in replace(self, directory=directory).own_processes()
        ]


def container_cgroups() -> list[Cgroup]:
    """Every cgroup of a pod or container, including the pods' own and nested ones."""
    found: list[Cgroup] = []
    for hierarchy in hierarchies():
        for path in _walk(hierarchy.mount):
            identity = parse(path)
            if not (identity.pod_uid or identity.container_id):
                continue
            directory = hierarchy.mount + path
            try:
                inode = os.stat(directory).st_ino
            except OSError:
                continue
            number = inode | hierarchy.number << HIERARCHY_SHIFT
            found.append(Cgroup(number, path, directory, identity))
    return found


def has_pods() -> bool:
    """Whether any pod is on this node."""
    return any(
        parse(path).pod_uid for hierarchy in hierarchies() for path in _walk(hierarchy.mount)
    )


def gone(cgroups: Iterable[int]) -> list[int]:
    """Those of the kernel side's numbers whose cgroup exists no more. One in a hierarchy that
    cannot be seen as a whole is not among them. Raises OSError."""
    there = {h.number: _inodes(h.mount) for h in hierarchies() if h.whole}
    found = []
    for cgroup in cgroups:
        inodes = there.get(cgroup >> HIERARCHY_SHIFT)
        if inodes is not None and cgroup & INODE not in inodes:
            found.append(cgroup)
    return found


def cgroup_of(pid: int, mounted: list[Hierarchy] | None = None) -> tuple[int, str]:
    """A process's cgroup by the kernel side's number, and its path: in version 1's memory hierarchy
    unless that is the root, else in version 2 (kt_cgroup_of() in probes/include/ktrace.h). Raises
    OSError, ValueError or KeyError if the process is gone. Frequent callers pass the hierarchies as
    `mounted`."""
    paths: dict[int, str] = {}
    for line in Path(f"/proc/{pid}/cgroup").read_bytes().splitlines():
        number, _, path = os.fsdecode(line).split(":", 2)
        paths[int(number)] = path.removesuffix(" (deleted)")
    for hierarchy in hierarchies() if mounted is None else mounted:
        path = paths.get(hierarchy.number, "/")
        if path != "/" or hierarchy.version == 2:
            inode = os.stat(hierarchy.mount + path).st_ino
            return inode | hierarchy.number << HIERARCHY_SHIFT, path
    raise KeyError(pid)


def _inodes(mount: str) -> set[int] | None:
    """Of all cgroups of a hierarchy; None if there are more than are looked at."""
    found = {os.stat(mount).st_ino}
    pending = [mount]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                below = [e for e in entries if e.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):  # removed meanwhile
            continue
        found.update(entry.inode() for entry in below)
        pending += [entry.path for entry in below]
        if len(found) > MAX_CGROUPS:
            return None
    return found


def _walk(mount: str) -> Iterator[str]:
    pending, seen = [""], 0
    while pending and seen < MAX_CGROUPS:
        path = pending.pop()
        seen += 1
        if path:
            yield path
        try:
            with os.scandir(mount + path) as entries:
                pending += [f"{path}/{e.name}" for e in entries if e.is_dir(follow_symlinks=False)]
        except OSError as error:
            if limits.behind(error):  # it may exist all the same
                raise
