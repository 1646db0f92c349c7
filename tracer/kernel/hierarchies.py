# SPDX-License-Identifier: Apache-2.0
"""Mount points of the cgroup hierarchies."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_ESCAPED = re.compile(rb"\\([0-3][0-7]{2})")  # blanks in mount points, proc(5)


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """`number` is the one in /proc/PID/cgroup. `mount` is the mount point. `whole` says that all of
    the hierarchy is visible there: a cgroup namespace or a runtime shows a container only its own
    part."""

    number: int
    mount: str
    version: int
    whole: bool = True


def hierarchies() -> list[Hierarchy]:
    """Version 1's memory hierarchy if it is in use, then version 2."""
    memory = _memory_hierarchy()
    found: dict[int, Hierarchy] = {}
    for line in Path("/proc/self/mountinfo").read_bytes().split(b"\n"):
        left, _, right = line.partition(b" - ")
        fields, types = left.split(b" "), right.split(b" ")
        if len(fields) < 5 or len(types) < 3:
            continue
        mount = os.fsdecode(_ESCAPED.sub(lambda m: bytes([int(m[1], 8)]), fields[4]))
        if types[0] == b"cgroup2":
            _prefer(found, Hierarchy(0, mount, 2, _is_root(mount)))
        elif types[0] == b"cgroup" and memory and b"memory" in types[-1].split(b","):
            _prefer(found, Hierarchy(memory, mount, 1, _is_root(mount)))
    return [found[version] for version in sorted(found)]


def _prefer(found: dict[int, Hierarchy], another: Hierarchy) -> None:
    known = found.get(another.version)
    if known is None or (another.whole and not known.whole):
        found[another.version] = another


def _is_root(mount: str) -> bool:
    """The root of a kernfs has the inode number 1."""
    try:
        return os.stat(mount).st_ino == 1
    except OSError:
        return False


def _memory_hierarchy() -> int:
    try:
        lines = Path("/proc/cgroups").read_text().splitlines()
    except OSError:
        return 0
    return next((int(f[1]) for f in map(str.split, lines) if f[0] == "memory"), 0)
