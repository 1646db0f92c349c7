# SPDX-License-Identifier: Apache-2.0
"""The memory charged to a pod's limit, by the cgroups in the pod, from their files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tracer.kernel.hierarchies import Hierarchy, hierarchies

MAX_FILE = 1 << 16
UNKNOWN = -1
NO_LIMIT = (1 << 63) - 1
_LIMIT = {1: "memory.limit_in_bytes", 2: "memory.max"}
_USAGE = {1: "memory.usage_in_bytes", 2: "memory.current"}
# Keys in memory.stat that include the cgroups below.
_ANON = {1: "total_rss", 2: "anon"}
_FILE = {1: "total_cache", 2: "file"}
_SHMEM = {1: "total_shmem", 2: "shmem"}


@dataclass(frozen=True, slots=True)
class Share:
    """Memory of one cgroup in bytes; UNKNOWN if it cannot be read. `name` is the directory's."""

    name: str
    limit: int
    usage: int
    anon: int
    file: int
    shmem: int


def memory_hierarchy() -> Hierarchy | None:
    """The hierarchy with the memory limits: version 1 if its controller is in use."""
    return next(iter(hierarchies()), None)


def pod_shares(hierarchy: Hierarchy, path: str) -> list[Share]:
    """The pod as a whole, then each cgroup directly in it. Empty if the pod cannot be read."""
    top = Path(hierarchy.mount + path)
    try:
        with os.scandir(top) as found:
            names = sorted(entry.name for entry in found if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
    return [_share(hierarchy.version, top, ""), *_parts(hierarchy.version, top, names)]


def _parts(version: int, top: Path, names: list[str]) -> list[Share]:
    """The cgroups directly in the pod, without those removed meanwhile."""
    shares = (_share(version, top / name, name) for name in names)
    return [share for share in shares if share.usage != UNKNOWN]


def _share(version: int, directory: Path, name: str) -> Share:
    stat = dict(line.split()[:2] for line in _lines(directory / "memory.stat") if " " in line)
    return Share(
        name,
        _number(directory / _LIMIT[version]),
        _number(directory / _USAGE[version]),
        *(_parsed(stat.get(names[version])) for names in (_ANON, _FILE, _SHMEM)),
    )


def _number(file: Path) -> int:
    lines = _lines(file)
    return _parsed(lines[0]) if lines else UNKNOWN


def _parsed(word: str | None) -> int:
    if word is None:
        return UNKNOWN
    if word == "max":
        return NO_LIMIT
    return int(word) if word.isdigit() else UNKNOWN


def _lines(file: Path) -> list[str]:
    try:
        with file.open() as opened:
            return opened.read(MAX_FILE).splitlines()
    except OSError:
        return []
