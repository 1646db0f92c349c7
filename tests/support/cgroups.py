# SPDX-License-Identifier: Apache-2.0
"""Cgroups for tests, in this machine's layout: version 1, version 2, or both."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from tests.support.wait import wait_for

_number = count(1)


@contextmanager
def plain_cgroup() -> Iterator[Path]:
    """A cgroup of version 2."""
    with _version_2() as root, _made_below(root) as cgroup:
        yield cgroup


@contextmanager
def memory_cgroup(limit_bytes: int) -> Iterator[Path]:
    """A cgroup with a memory limit and no swap."""
    version_1 = _mounted("cgroup", "memory")
    if version_1:
        with _made_below(version_1) as cgroup:
            (cgroup / "memory.limit_in_bytes").write_text(str(limit_bytes))
            (cgroup / "memory.swappiness").write_text("0")
            yield cgroup
        return
    with _version_2() as root:
        (root / "cgroup.subtree_control").write_text("+memory")
        with _made_below(root) as cgroup:
            (cgroup / "memory.max").write_text(str(limit_bytes))
            swap = cgroup / "memory.swap.max"
            if swap.exists():
                swap.write_text("0")
            yield cgroup


def move(pid: int, cgroup: Path) -> None:
    (cgroup / "cgroup.procs").write_text(str(pid))


@contextmanager
def _made_below(parent: Path) -> Iterator[Path]:
    cgroup = parent / f"ktrace-test-{os.getpid()}-{next(_number)}"
    cgroup.mkdir()
    try:
        yield cgroup
    finally:
        wait_for(f"{cgroup} to be removable", lambda: _removed(cgroup))


def _removed(cgroup: Path) -> bool:
    """Whether the cgroup could be removed: a killed process stays for a moment."""
    try:
        cgroup.rmdir()
    except OSError:
        return False
    return True


@contextmanager
def _version_2() -> Iterator[Path]:
    mounted = _mounted("cgroup2")
    if mounted:
        yield mounted
        return
    place = Path(tempfile.mkdtemp(prefix="ktrace-test-"))
    subprocess.run(["mount", "-t", "cgroup2", "none", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


def _mounted(kind: str, controller: str | None = None) -> Path | None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, found, options, *_ = line.split()
        if found == kind and (controller is None or controller in options.split(",")):
            return Path(place)
    return None
