# SPDX-License-Identifier: Apache-2.0
"""Finding the cgroups that exist: every form of mount table, and a tree of directories.

`tracer.kernel.cgroupfs` and `hierarchies` read /proc themselves, so their `Path` is replaced by one
that finds the test's files there. The cgroup directories are real ones elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tracer.kernel import cgroupfs, hierarchies
from tracer.kernel.cgroupfs import Cgroup, container_cgroups
from tracer.kernel.hierarchies import Hierarchy

UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
CID = "7dea796eb5d6826a85978fa316612874aa3d576ac576495bed83d77fbc9dc744"

USUAL = b"""\
22 28 0:21 / /proc rw,nosuid shared:12 - proc proc rw
23 28 0:22 / /sys rw,nosuid,noexec shared:2 master:1 - sysfs sysfs rw
"""
V2 = b"30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
UNIFIED = V2.replace(b"/sys/fs/cgroup", b"/sys/fs/cgroup/unified")
MEMORY = b"34 31 0:29 / /sys/fs/cgroup/memory rw shared:14 - cgroup cgroup rw,memory\n"
CPU = b"33 31 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:13 - cgroup cgroup rw,cpu,cpuacct\n"
NAMED = b"32 31 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"

CGROUPS_V1 = b"#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t4\t9\t1\nmemory\t7\t120\t1\n"
CGROUPS_V2 = CGROUPS_V1.replace(b"\t7\t", b"\t0\t").replace(b"\t4\t", b"\t0\t")


class FakeProc:
    def __init__(self, root: Path) -> None:
        self._root = root
        self.parts: set[str] = set()  # mounts that show only a part of their hierarchy

    def path(self, *parts: str) -> Path:
        whole = os.path.join(*parts)
        return self._root / whole[1:] if whole.startswith("/proc/") else Path(whole)

    def write(self, name: str, data: bytes | None) -> None:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(data)

    def mounts(self, *lines: bytes, cgroups: bytes | None = CGROUPS_V2) -> list[Hierarchy]:
        self.write("/proc/self/mountinfo", USUAL + b"".join(lines))
        self.write("/proc/cgroups", cgroups)
        return hierarchies.hierarchies()


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProc:
    fake = FakeProc(tmp_path / "fake")
    for module in (cgroupfs, hierarchies):
        monkeypatch.setattr(module, "Path", fake.path)
    monkeypatch.setattr(hierarchies, "_is_root", lambda mount: mount not in fake.parts)
    return fake


# Mounts


def test_version_2_alone(proc: FakeProc) -> None:
    assert proc.mounts(V2) == [Hierarchy(0, "/sys/fs/cgroup", 2)]


def test_version_1_and_an_empty_version_2(proc: FakeProc) -> None:
    found = proc.mounts(UNIFIED, NAMED, CPU, MEMORY, cgroups=CGROUPS_V1)
    assert found == [
        Hierarchy(7, "/sys/fs/cgroup/memory", 1),
        Hierarchy(0, "/sys/fs/cgroup/unified", 2),
    ]


def test_version_1_alone(proc: FakeProc) -> None:
    found = proc.mounts(NAMED, CPU, MEMORY, cgroups=CGROUPS_V1)
    assert found == [Hierarchy(7, "/sys/fs/cgroup/memory", 1)]


def test_hybrid_with_the_memory_controller_in_version_2(proc: FakeProc) -> None:
    found = proc.mounts(UNIFIED, NAMED, CPU, cgroups=CGROUPS_V2)
    assert found == [Hierarchy(0, "/sys/fs/cgroup/unified", 2)]


def test_several_controllers_in_one_hierarchy(proc: FakeProc) -> None:
    both = MEMORY.replace(b"rw,memory", b"rw,cpu,memory").replace(b"/memory", b"/cpu,memory")
    found = proc.mounts(both, cgroups=CGROUPS_V1)
    assert found == [Hierarchy(7, "/sys/fs/cgroup/cpu,memory", 1)]


def test_a_kernel_without_a_list_of_controllers(proc: FakeProc) -> None:
    assert proc.mounts(V2, cgroups=None) == [Hierarchy(0, "/sys/fs/cgroup", 2)]


def test_nothing_is_mounted(proc: FakeProc) -> None:
    assert proc.mounts() == []
    assert proc.mounts(CPU, cgroups=CGROUPS_V1) == []
    assert proc.mounts(MEMORY, cgroups=None) == []


def test_a_hierarchy_is_taken_once(proc: FakeProc) -> None:
    again = V2.replace(b"/sys/fs/cgroup", b"/mnt/again")
    assert proc.mounts(V2, again) == [Hierarchy(0, "/sys/fs/cgroup", 2)]
    memory = MEMORY.replace(b"/sys/fs/cgroup/memory", b"/mnt/again")
    found = proc.mounts(MEMORY, memory, cgroups=CGROUPS_V1)
    assert found == [Hierarchy(7, "/sys/fs/cgroup/memory", 1)]


def test_the_whole_hierarchy_is_preferred(proc: FakeProc) -> None:
    """A pod has its own part at the usual place, and the host's where it was mounted."""
    proc.parts = {"/sys/fs/cgroup"}
    host = V2.replace(b"/sys/fs/cgroup", b"/host/cgroup").replace(b"0:26 /", b"0:26 /../../..")
    assert proc.mounts(V2, host) == [Hierarchy(0, "/host/cgroup", 2)]
    assert proc.mounts(host, V2) == [Hierarchy(0, "/host/cgroup", 2)]
    assert proc.mounts(V2) == [Hierarchy(0, "/sys/fs/cgroup", 2, whole=False)]


@pytest.mark.parametrize(
    ("written", "mount"),
    [
        (b"/mnt/with\\040space", "/mnt/with space"),
        (b"/mnt/back\\134slash", "/mnt/back\\slash"),
        (b"/mnt/new\\012line", "/mnt/new\nline"),
        (b"/mnt/not\\134x41", "/mnt/not\\x41"),
        ("/mnt/grüße".encode(), "/mnt/grüße"),
        (b"/mnt/\xff", "/mnt/\udcff"),
        ("/mnt/\u2028\u3000x".encode(), "/mnt/\u2028\u3000x"),
    ],
)
def test_odd_mount_points(proc: FakeProc, written: bytes, mount: str) -> None:
    assert proc.mounts(V2.replace(b"/sys/fs/cgroup", written)) == [Hierarchy(0, mount, 2)]


@pytest.mark.parametrize(
    "line",
    [
        b"77 50 0:46 / /mnt rw,relatime - tmpfs  rw\n",  # mount -t tmpfs '' /mnt
        b"77 50 0:46 / /mnt/\xff rw - tmpfs none rw\n",
        b"77 50 0:46 / /mnt/\x0b\x1c rw - tmpfs none rw\n",
        "77 50 0:46 / /mnt/\u2028\u0085 rw - tmpfs none rw\n".encode(),
        b"77 50 0:46 / /mnt rw - fuse.x source\\040with\\040spaces rw,memory\n",
        b"77 50 0:46 / /mnt rw shared:1 master:2 propagate_from:3 - tmpfs none rw\n",
        b"77 50 0:3 net:[4026531833] /run/netns/x rw shared:9 - nsfs nsfs rw\n",
    ],
)
def test_mounts_of_others_do_no_harm(proc: FakeProc, line: bytes) -> None:
    for lines in ([line, V2], [V2, line]):
        assert proc.mounts(*lines) == [Hierarchy(0, "/sys/fs/cgroup", 2)]


# The tree


def make(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path.strip("/")).mkdir(parents=True)


@pytest.fixture
def mounted(proc: FakeProc, tmp_path: Path) -> Path:
    root = tmp_path / "cgroup"
    root.mkdir()
    proc.mounts(V2.replace(b"/sys/fs/cgroup", bytes(root)))
    return root


def found(cgroups: list[Cgroup]) -> dict[str, Cgroup]:
    assert len({c.path for c in cgroups}) == len(cgroups)
    return {c.path: c for c in cgroups}


def test_pods_containers_and_what_is_in_them(mounted: Path) -> None:
    pod = f"/kubepods/burstable/pod{UID}"
    container = f"{pod}/{CID}"
    make(mounted, f"{container}/nested", "/user.slice/session", f"/docker/{CID}", "/kubepods/x")
    cgroups = found(container_cgroups())
    assert cgroups.keys() == {pod, container, f"{container}/nested", f"/docker/{CID}"}
    one = cgroups[container]
    assert one.directory == f"{mounted}{container}"
    assert one.id == os.stat(one.directory).st_ino
    assert (one.identity.pod_uid, one.identity.container_id) == (UID, CID)


def test_the_number_of_a_hierarchy_is_part_of_the_id(proc: FakeProc, tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    make(root, f"/memory/docker/{CID}", f"/unified/docker/{CID}")
    proc.mounts(
        UNIFIED.replace(b"/sys/fs/cgroup", bytes(root)),
        MEMORY.replace(b"/sys/fs/cgroup", bytes(root)),
        cgroups=CGROUPS_V1,
    )
    first, second = container_cgroups()
    assert first.id == os.stat(root / "memory" / "docker" / CID).st_ino | 7 << 48
    assert second.id == os.stat(root / "unified" / "docker" / CID).st_ino


def test_the_processes_of_a_cgroup_and_below(mounted: Path) -> None:
    make(mounted, f"/docker/{CID}/a/b", f"/docker/{CID}/gone")
    (mounted / "docker" / CID / "cgroup.procs").write_text("1\n20\n")
    (mounted / "docker" / CID / "a" / "b" / "cgroup.procs").write_text("300\n")
    cgroup = found(container_cgroups())[f"/docker/{CID}"]
    assert sorted(cgroup.processes()) == [1, 20, 300]


def test_links_are_not_followed(mounted: Path) -> None:
    make(mounted, f"/docker/{CID}")
    (mounted / "docker" / CID / "loop").symlink_to(mounted)
    assert found(container_cgroups()).keys() == {f"/docker/{CID}"}


def test_files_are_no_cgroups(mounted: Path) -> None:
    make(mounted, "/docker")
    (mounted / "docker" / CID).write_text("")
    assert container_cgroups() == []


def test_a_mount_that_cannot_be_looked_at(proc: FakeProc) -> None:
    proc.mounts(V2.replace(b"/sys/fs/cgroup", b"/no/such/place"))
    assert container_cgroups() == []


def test_a_forest_of_cgroups_has_an_end(mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroupfs, "MAX_CGROUPS", 10)
    make(mounted, *(f"/docker/{CID}/{number}" for number in range(50)))
    assert 0 < len(container_cgroups()) <= 10
