# SPDX-License-Identifier: Apache-2.0
"""Full disks: from records to events, where paths lead, and which file systems are asked."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from tests.unit.bounds import Bound
from tests.unit.records import Decoding, reversed_path
from tracer.backends.objects import Objects
from tracer.kernel.bpf_object import shipped
from tracer.kernel.devices import device_number
from tracer.model.batch import cell
from tracer.probes import LAST_CALL
from tracer.probes.disk import (
    CALLS,
    MAX_FILES,
    MAX_HOLDERS,
    MAX_PLACES,
    MAX_STATES,
    PROBE,
    WRITES,
    call_table,
)
from tracer.probes.disk import companion as user_space
from tracer.probes.disk.companion import (
    Mount,
    Roots,
    below_of,
    is_short,
    local_mounts,
    mount_at,
    parse_mount,
    resolved,
)

SECOND = 1_000_000_000
DISK, OVERLAY, MEMORY = 259 << 20 | 1, 40, 50
FLAGS = shipped("disk").numbers("disk_flags")
BOUNDS = {
    "file systems, paths and large files that `disk` remembers": Bound(
        ("test_what_is_remembered_is_bounded",), (MAX_STATES, MAX_PLACES, MAX_FILES)
    ),
    "what `disk` looks at": Bound(
        ("test_what_is_looked_at_is_bounded", "test_links_that_lead_in_circles"),
        (user_space.MAX_MOUNTS, user_space.MAX_DESCRIPTORS, user_space.MAX_LINKS),
    ),
    "searches for who holds a mount (disk)": Bound(
        ("test_searches_for_holders_are_bounded",),
        (user_space.MAX_SEARCHES, user_space.MAX_HOLDERS),
    ),
    "failures whose paths `disk` has still to look up, and containers of which it knows the"
    " mounts": Bound(
        ("test_failures_that_wait_are_bounded", "test_roots_are_bounded"),
        (user_space.MAX_HEARD, user_space.MAX_ROOTS),
    ),
    "large files that `disk` tells at once, and has told": Bound(
        ("test_large_files_that_are_told_are_bounded",),
        (user_space.MAX_FOUND, user_space.MAX_TOLD),
    ),
    "failures that the kernel side only counted, and that `disk` has told": Bound(
        ("test_counted_failures_are_bounded",), (user_space.MAX_TOLD,)
    ),
}


@pytest.fixture
def stream() -> Decoding:
    return Decoding(PROBE)


def tell(stream: Decoding, kind: str, /, **values: Any) -> Any:
    schema = shipped("disk").schemas[kind]
    (record,) = schema.cells(memoryview(cell(schema.pack(**values))))
    return stream.decode[kind](record)


def state(stream: Decoding, flags: int, *, changed: bool = True, **values: Any) -> Any:
    told = {
        "device": DISK,
        "size": 1 << 20,
        "free": 0,
        "inodes": 16,
        "free_inodes": 3,
        "type": b"ext4",
        "mount": b"/data",
        "time": SECOND,
    }
    return tell(stream, "disk_state", flags=flags, changed=changed, **(told | values))


def failure(stream: Decoding, error: int = errno.ENOSPC, **values: Any) -> Any:
    path = reversed_path("/data/log")
    told = {
        "time": 2 * SECOND,
        "process_pid": 7,
        "process_tid": 7,
        "error": error,
        "call": 1,
        "device": DISK,
        "type": b"ext4",
        "path": path,
        "path_bytes": len(path),
        "path_whole": 1,
    }
    return tell(stream, "disk_failure", **(told | values))


def test_a_failure_has_the_state_of_its_file_system(stream: Decoding) -> None:
    event = state(stream, FLAGS["KT_DISK_NO_BLOCKS"])
    assert event.body["state"] == "full"
    assert PROBE.summary(event) == "/data is full (0 B of 1 MiB, 3 of 16 inodes free)"
    body = failure(stream).body
    assert (body["error"], body["path"], body["count"]) == ("ENOSPC", "/data/log", 1)
    assert body["file_system"] == {
        "type": "ext4",
        "device": "259:1",
        "mount": "/data",
        "lacks": ["blocks"],
        "size_bytes": 1 << 20,
        "free_bytes": 0,
        "inodes": 16,
        "free_inodes": 3,
    }


def test_a_state_that_is_only_looked_at_is_no_event(stream: Decoding) -> None:
    assert state(stream, FLAGS["KT_DISK_NO_INODES"], changed=False) is None
    assert failure(stream).body["file_system"]["lacks"] == ["inodes"]


def test_the_bad_state_before_explains_a_failure(stream: Decoding) -> None:
    """The look that follows it comes late, and finds room again."""
    state(stream, FLAGS["KT_DISK_NO_BLOCKS"])
    state(stream, 0, time=3 * SECOND)
    assert failure(stream).body["file_system"]["lacks"] == ["blocks"]
    assert failure(stream, time=9 * SECOND).body["file_system"]["lacks"] == []


def test_on_an_overlay_it_is_the_file_system_below(stream: Decoding) -> None:
    state(stream, FLAGS["KT_DISK_NO_BLOCKS"])
    assert failure(stream, device=OVERLAY, type=b"overlay").body["file_system"]["mount"] is None
    tell(stream, "disk_overlay", device=OVERLAY, below=DISK)
    assert failure(stream, device=OVERLAY, type=b"overlay").body["file_system"]["mount"] == "/data"


def test_a_path_from_the_root_may_lead_elsewhere(stream: Decoding) -> None:
    state(stream, FLAGS["KT_DISK_NO_BLOCKS"])
    values: dict[str, Any] = {"absolute": 1, "name": b"/data/x", "path": b"", "path_bytes": 0}
    body = failure(stream, **values).body
    assert (body["path"], body["file_system"]["device"]) == ("/data/x", None)
    tell(stream, "disk_place", pid=7, name=b"/data/x", device=DISK, type=b"ext4")
    assert failure(stream, **values).body["file_system"]["mount"] == "/data"
    tell(stream, "disk_place", pid=7, name=b"/data/x", device=60, type=b"cgroup2")
    assert failure(stream, **values) is None
    assert failure(stream, **values, process_pid=8).body["file_system"]["mount"] is None


def test_a_path_from_a_directory(stream: Decoding) -> None:
    assert failure(stream, name=b"x").body["path"] == "/data/log/x"
    assert failure(stream, name=b"x", path_whole=0).body["path"] == "…/data/log/x"
    assert failure(stream, name=b"e\x1b[31m\xff").body["path"] == "/data/log/e\x1b[31m\\xff"


@pytest.mark.parametrize("kind", [b"cgroup", b"cgroup2", b"proc", b"sysfs"])
def test_a_limit_that_is_no_disks(stream: Decoding, kind: bytes) -> None:
    assert failure(stream, device=60, type=kind) is None


def test_a_volume_that_is_meant_to_be_read_only(stream: Decoding) -> None:
    assert failure(stream, errno.EROFS) is None
    state(stream, FLAGS["KT_DISK_READ_ONLY"])
    assert failure(stream, errno.EROFS).body["error"] == "EROFS"


def test_failures_that_were_only_counted(stream: Decoding) -> None:
    assert tell(stream, "disk_more", pid=7, error=errno.ENOSPC, device=DISK, count=22) is None
    failure(stream)
    event = tell(stream, "disk_more", pid=7, error=errno.ENOSPC, device=DISK, count=22, time=9)
    assert (event.body["count"], event.body["path"], event.boot_ns) == (22, "/data/log", 9)
    assert PROBE.grouping(event).times == 22
    assert PROBE.summary(event).endswith("ENOSPC, 22 times")
    failure(stream, name=b"x")
    event = tell(stream, "disk_more", pid=7, error=errno.ENOSPC, device=DISK, count=22)
    assert (event.body["path"], event.body["file_system"]["device"]) == (None, "259:1")
    failure(stream, name=b"/x", absolute=1)
    event = tell(stream, "disk_more", pid=7, error=errno.ENOSPC, device=DISK, count=22)
    assert (event.body["path"], event.body["file_system"]["device"]) == (None, None)


def test_the_largest_files(stream: Decoding) -> None:
    state(stream, FLAGS["KT_DISK_NO_BLOCKS"])
    for number in range(9):
        tell(
            *(stream, "disk_file"),
            process_pid=7,
            descriptor=number,
            device=DISK,
            bytes=number << 20,
            deleted=number % 2,
            path=b"/data/%d" % number,
        )
    body = failure(stream).body
    assert [file["path"] for file in body["largest"]] == [f"/data/{n}" for n in (8, 7, 6, 5, 4)]
    state(stream, 0)
    state(stream, FLAGS["KT_DISK_NO_BLOCKS"])
    assert failure(stream).body["largest"] == []


def test_what_is_remembered_is_bounded(stream: Decoding) -> None:
    for number in range(MAX_STATES + 1):
        state(stream, FLAGS["KT_DISK_NO_BLOCKS"], device=1000 + number)
    assert failure(stream, device=1000).body["file_system"]["lacks"] is None
    assert failure(stream, device=1001).body["file_system"]["lacks"] == ["blocks"]
    there = {"absolute": 1, "time": SECOND}
    for number in range(MAX_PLACES + 1):
        tell(stream, "disk_place", pid=7, name=b"/%d" % number, device=1001, type=b"ext4")
    assert failure(stream, name=b"/0", **there).body["file_system"]["device"] is None
    assert failure(stream, name=b"/1", **there).body["file_system"]["device"] is not None
    for number in range(MAX_FILES + 1):
        tell(stream, "disk_file", process_pid=7, descriptor=number, device=1001, bytes=100 - number)
    largest = failure(stream, device=1001).body["largest"]
    assert [file["bytes"] for file in largest] == [99, 98, 97, 96, 95]


def test_what_is_looked_at_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(user_space.read_mounts("self")) <= user_space.MAX_MOUNTS
    monkeypatch.setattr(user_space, "MAX_MOUNTS", 1)
    assert len(user_space.read_mounts("self")) == 1
    monkeypatch.undo()
    looked: list[int] = []
    monkeypatch.setattr(user_space, "MAX_DESCRIPTORS", 0)
    monkeypatch.setattr(user_space, "processes", lambda: [os.getpid()] * 5)
    monkeypatch.setattr(user_space, "open_file", lambda pid, *_: looked.append(pid))
    device = user_space.read_mounts("self")[0].device
    assert list(user_space.open_files({device}, {})) == []
    once = len(looked)
    monkeypatch.setattr(user_space, "MAX_DESCRIPTORS", 3 * once)
    looked.clear()
    assert list(user_space.open_files({device}, {})) == []
    assert once < len(looked) < 5 * once


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The schemas; nothing is looked at in a thread."""
    monkeypatch.setattr(user_space.Look, "round", lambda look: [])
    objects = Objects()
    for name in ("context", "disk"):
        objects.open(name)
    return dict(objects.by_name())


def test_failures_that_wait_are_bounded(quiet: dict[str, Any]) -> None:
    watched = user_space.Watched(quiet, None, None)
    watched.close()
    watched.hear(iter(range(user_space.MAX_HEARD + 9)))
    assert watched._heard == list(range(user_space.MAX_HEARD))


def test_roots_are_bounded() -> None:
    roots, schema = Roots(), shipped("disk").schemas["disk_failure"]
    for device in range(1, user_space.MAX_ROOTS + 9):
        packed = schema.pack(name=b"/x", absolute=1, device=device << 20, process_pid=os.getpid())
        (record,) = schema.cells(memoryview(cell(packed)))
        assert roots.find(record) is not None
    assert len(roots._seen) == user_space.MAX_ROOTS


def test_large_files_that_are_told_are_bounded(
    quiet: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    look = user_space.Look(quiet, None)
    try:
        mount = user_space.read_mounts("self")[0]
        look._states = {DISK: user_space.State(mount, size=1)}
        files = [
            user_space.OpenFile(os.getpid(), number, DISK, number, 1 << 20, False, True, "/x")
            for number in range(user_space.MAX_FOUND + 9)
        ]
        monkeypatch.setattr(user_space, "open_files", lambda full, below: files)
        told = [len(record) for record in look._search({DISK})]
        assert told.count(look._file.size) == user_space.MAX_FOUND
        monkeypatch.setattr(user_space, "MAX_TOLD", 5)
        look._told.clear()
        look._search({DISK})
        assert len(look._told) == 5
    finally:
        look.close()


def test_counted_failures_are_bounded(
    quiet: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_space, "MAX_TOLD", 5)
    key, value = shipped("disk").layout("kt_failing"), shipped("disk").layout("kt_failed")

    class Failing:
        def items(self) -> Any:
            for pid in range(1, 10):
                yield pack(key, pid=pid), pack(value, count=3)

        def delete(self, key: bytes) -> None: ...

    def pack(layout: Any, **members: int) -> bytes:
        names = layout.make(layout.struct.unpack(bytes(layout.size)))._asdict()
        return bytes(layout.struct.pack(*(names | members).values()))

    watched = user_space.Watched(quiet, Failing(), None)
    assert len(watched.records(LAST_CALL)) == 9
    assert len(watched._more_told) == 5


def test_links_that_lead_in_circles(tmp_path: Path) -> None:
    known = user_space.read_mounts("self")
    (tmp_path / "real").mkdir()
    (tmp_path / "to").symlink_to("real")
    (tmp_path / "up").symlink_to(tmp_path / "to")
    (tmp_path / "round").symlink_to("round")
    assert resolved("", f"{tmp_path}/up/./x", known) == f"{tmp_path}/real/x"
    assert resolved("", f"{tmp_path}/up/../up", known) == f"{tmp_path}/up"
    assert resolved("", f"{tmp_path}/round/x", known) == f"{tmp_path}/round/x"
    # what others answer for is not looked at
    remote = [Mount(1, 1, "/", "nfs4", "")]
    assert resolved("", f"{tmp_path}/up/x", remote) == f"{tmp_path}/up/x"


def test_searches_for_holders_are_bounded(
    quiet: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = user_space.Look(quiet, None)
    mount = Mount(7, DISK, "/data", "ext4", "")
    held = [user_space.Held(0, "MOUNT", f"/data/{n}") for n in range(user_space.MAX_HOLDERS + 1)]
    monkeypatch.setattr(user_space, "holders", lambda *_: iter(held))
    for number in range(user_space.MAX_SEARCHES + 1):
        looking.search(user_space.Answer((number, b"/data"), mount, 16), [])
    told = looking.searched()
    assert len(told) == user_space.MAX_SEARCHES * (user_space.MAX_HOLDERS + 1)
    assert looking.searched() == []
    looking.close()


def test_who_holds_a_mount(tmp_path: Path) -> None:
    """A mount below it; by its number, also in another namespace if it would go with it."""
    own = next(m for m in reversed(user_space.read_mounts("self")) if m.point == "/")
    below = Mount(900, 5, "/x", "tmpfs", "", parent=own.id)
    with (tmp_path / "x").open("wb") as opened:
        found = list(user_space.holders(own, [own, below]))
        mine = [held for held in found if held.pid == os.getpid()]
        assert user_space.Held(os.getpid(), "OPEN", opened.name) in mine
    assert user_space.Held(0, "MOUNT", "/x") in found
    assert user_space.Held(os.getpid(), "CWD", os.getcwd()) in mine
    assert list(user_space.holders(Mount(901, 6, "/none", "tmpfs", ""), [own])) == []
    assert not list(user_space.holders(own._replace(id=902), [own]))


def test_attributes_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.touch()
    assert user_space.attributes_of(str(file)) & 0x30 == 0
    assert user_space.attributes_of(str(tmp_path / "gone")) == 0


def test_a_removal_is_told_for_what_forbids_it_only(stream: Decoding) -> None:
    marks = shipped("disk").numbers("disk_marks")
    values: dict[str, Any] = {"absolute": 1, "name": b"/data/x"}

    def told(mark: int) -> Any:
        place = {"pid": 7, "name": b"/data/x", "device": DISK, "type": b"ext4", "marks": mark}
        tell(stream, "disk_place", **place)
        return failure(stream, errno.EPERM, **values)

    assert told(0) is None
    assert told(marks["KT_MARK_MOUNT_POINT"]) is None
    for mark, attribute, of in (
        *(("IMMUTABLE", "immutable", "/data/x"), ("APPEND", "append-only", "/data/x")),
        *(("BELOW_IMMUTABLE", "immutable", "/data"), ("BELOW_APPEND", "append-only", "/data")),
    ):
        body = told(marks[f"KT_MARK_{mark}"]).body
        assert (body["attribute"], body["attribute_of"]) == (attribute, of)
    assert PROBE.summary(told(1)).endswith("EPERM: /data/x is immutable")


def test_a_mount_in_use_waits_for_its_holders(stream: Decoding) -> None:
    marks = shipped("disk").numbers("disk_marks")
    point, searched = marks["KT_MARK_MOUNT_POINT"], marks["KT_MARK_SEARCHED"]
    key: dict[str, Any] = {"pid": 7, "name": b"/data"}
    values: dict[str, Any] = {"absolute": 1, "name": b"/data"}
    place = {**key, "device": DISK, "type": b"ext4"}
    assert failure(stream, errno.EBUSY, **values) is None
    tell(stream, "disk_place", **place, marks=point)
    event = failure(stream, errno.EBUSY, **values)
    assert event.body["holders"] is None
    held = {**key, "process_pid": 9, "how": 1, "path": b"/data/e\x1b[31m"}
    tell(stream, "disk_holder", **held)
    tell(stream, "disk_place", **place, marks=point | searched)
    event = event.again()
    assert event.again is None
    (one,) = event.body["holders"]
    assert (one["how"], one["path"], one["process"].pid) == (
        *("working directory", "/data/e\x1b[31m"),
        9,
    )
    for _ in range(2 * MAX_HOLDERS):
        tell(stream, "disk_holder", **held)
    assert len(failure(stream, errno.EBUSY, **values).body["holders"]) == MAX_HOLDERS


UID = "5016bc16-7c78-4389-a89c-9c971211370b"


@pytest.mark.parametrize(
    "path", [f"/var/lib/kubelet/pods/{UID}/volumes/x", f"/run/task/k8s.io/{'a' * 64}/rootfs"]
)
def test_what_the_kubelet_cannot_remove_is_the_pods(stream: Decoding, path: str) -> None:
    cgroup = reversed_path(f"/kubepods/pod{UID}/{'a' * 64}")
    described = shipped("context").schemas["cgroup"]
    values: dict[str, Any] = {
        "cgroup": 5,
        "path": cgroup,
        "path_bytes": len(cgroup),
        "path_whole": 1,
    }
    (record,) = described.cells(memoryview(cell(described.pack(**values))))
    stream.add_cgroup(record)
    state(stream, FLAGS["KT_DISK_NO_BLOCKS"])
    raw = reversed_path(path)
    event = failure(stream, path=raw, path_bytes=len(raw))
    assert event.place.identity.pod_uid == UID
    assert failure(stream).place is None


def test_errors_of_disks(stream: Decoding) -> None:
    state(stream, 0)
    reporter = shipped("disk").numbers("disk_reporter")
    told = {"device": DISK, "error": 7, "sector": 8, "bytes": 4096, "writes": 0}
    event = tell(stream, "disk_error", **told, reporter=reporter["KT_BY_DEVICE"])
    assert (event.body["error"], event.body["sector"], event.body["bytes"]) == ("ENODATA", 8, 4096)
    assert PROBE.summary(event) == "/data: the disk's read failed: ENODATA"
    event = tell(stream, "disk_more", pid=0, error=7, device=DISK, count=22)
    assert (event.kind, event.body["count"], event.body["sector"]) == ("disk_error", 22, None)
    event = tell(stream, "disk_error", device=DISK, error=5, reporter=1, writes=1)
    assert (event.body["error"], event.body["bytes"]) == ("EIO", None)
    assert PROBE.summary(event) == "/data: the writing back failed: EIO"


def test_who_writes(stream: Decoding) -> None:
    state(stream, FLAGS["KT_DISK_NO_BLOCKS"])
    for cgroup in range(1, 9):
        told = {"cgroup": cgroup, "device": DISK, "bytes": cgroup << 20, "inodes": 3}
        event = tell(stream, "disk_writer", **told, seconds=60)
    assert event.body["inodes"] == 3
    assert PROBE.summary(event) == "the node wrote 8 MiB, 3 new files on /data in 60 s"
    most = [writer["bytes"] >> 20 for writer in failure(stream).body["writers"]]
    assert most == [8, 7, 6, 5, 4]


class Counts:
    """`kt_disk_writers`."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def put(self, cgroup: int, device: int, size: int, inodes: int) -> None:
        key, value = (shipped("disk").layout(name) for name in ("kt_writer", "kt_written"))
        own = key.plain(cgroup=cgroup, device=device)
        self.rows[own] = value.plain(bytes=size, inodes=inodes)

    def items(self) -> Any:
        return iter(self.rows.items())

    def delete(self, key: bytes) -> None:
        del self.rows[key]


def test_the_writers_of_the_last_minutes() -> None:
    counts, schema = Counts(), shipped("disk").schemas["disk_writer"]
    writers = user_space.Writers(schema, counts)

    def told(now: float, size: int = 100 << 20) -> list[tuple[int, int, int]]:
        raw = writers.told({DISK: size}, now)
        rows = [next(iter(schema.cells(memoryview(cell(one))))) for one in raw]
        return [(row.cgroup, row.bytes >> 20, row.seconds) for row in rows]

    counts.put(1, DISK, 9 << 20, 0)
    counts.put(2, DISK, 30 << 20, 0)
    counts.put(3, DISK, 1 << 10, 0)  # too little
    counts.put(4, MEMORY, 30 << 20, 0)  # has room
    counts.put(5, DISK, 0, user_space.LEAST_MADE)
    assert told(1000) == [(2, 30, 10), (1, 9, 10), (5, 0, 10)]
    counts.put(2, DISK, 50 << 20, 0)
    assert told(1005) == []
    assert told(1010) == [(2, 50, 20)]
    # the window's beginning moves on
    counts.put(2, DISK, 55 << 20, 0)
    assert (2, 5, 301) in told(1311)
    assert writers.told({}, 1400) == []


def test_the_calls_have_numbers() -> None:
    table = call_table()
    ways = shipped("disk").numbers("disk_call")
    assert len(table) == shipped("disk").numbers("disk_bounds")["KT_DISK_CALLS"]
    named = [call for calls in CALLS.values() for call in calls]
    assert len(named) == len(set(named))
    if os.uname().machine == "x86_64":
        assert table[1] == ways["KT_CALL_FD"]  # write
        assert table[257] == ways["KT_CALL_AT"]  # openat
        assert table[254] == ways["KT_CALL_OTHER"]  # inotify_add_watch
        assert sum(map(bool, table)) == len(named)


# User space


LINES = """\
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
23 22 0:50 / /data\\040x rw - tmpfs none rw,size=1024k
24 22 0:60 / /srv rw - nfs4 server:/srv rw,addr=198.51.100.1
25 24 0:51 / /srv/below rw - tmpfs none rw
26 22 259:1 /var /mnt/again rw - ext4 /dev/root rw
27 22 0:40 / /run/rootfs rw - overlay overlay rw,lowerdir=/l,upperdir={upper},workdir=/w
28 22 0:61 / /proc rw - proc proc rw
29 22 0:62 / /fuse rw - fuse.sshfs x rw
"""


def mounts(upper: Path = Path("/")) -> list[Mount]:
    lines = LINES.format(upper=upper).splitlines()
    return [mount for line in lines if (mount := parse_mount(line)) is not None]


def test_only_what_cannot_hang_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_space, "block_types", lambda: {"ext4", "xfs"})
    assert [mount.point for mount in local_mounts(mounts())] == ["/", "/data x"]
    assert not any(one.startswith(("nfs", "fuse")) for one in user_space.block_types())


def test_a_damaged_line_is_no_mount() -> None:
    assert parse_mount("") is None
    assert parse_mount("22 1 x / / rw - ext4 /dev/root rw") is None


def test_below_an_overlay(tmp_path: Path) -> None:
    device = device_number(tmp_path.stat().st_dev)
    found = {mount.type: below_of(mount) for mount in mounts(tmp_path)}
    assert found["overlay"] == device
    assert found["ext4"] is None
    assert {below_of(mount) for mount in mounts(tmp_path / "gone")} == {None}


@pytest.mark.parametrize(
    ("path", "device"),
    [("/x", DISK), ("/data x/a", 50), ("/data xy", DISK), ("/srv/below/a", 51), ("/srv", 60)],
)
def test_where_a_path_leads(path: str, device: int) -> None:
    found = mount_at(path, mounts())
    assert found is not None
    assert found.device == device
    assert mount_at(path, []) is None


def test_where_the_path_of_a_process_that_is_gone_leads() -> None:
    """By the mounts of others with the same root."""
    roots = Roots()
    schema = shipped("disk").schemas["disk_failure"]
    own = device_number(os.stat("/").st_dev)

    def record(**values: Any) -> Any:
        packed = schema.pack(process_pid=1 << 22, **values)
        (made,) = schema.cells(memoryview(cell(packed)))
        return made

    found = roots.find(record(absolute=1, name=b"/no/such", device=own))
    assert found is not None
    assert found.mount.device == own
    assert roots.find(record(absolute=1, name=b"/no/such", device=own + 1)) is None
    assert roots.find(record(device=own)) is None


@pytest.mark.parametrize(
    ("free", "of", "short"),
    [
        *((0, 16, True), (1, 16, False), (0, 0, False)),
        *((10 << 10, 1 << 20, True), (11 << 10, 1 << 20, False)),
        *((64 << 20, 1 << 40, True), (65 << 20, 1 << 40, False)),
    ],
)
def test_when_it_is_full(free: int, of: int, short: bool) -> None:
    assert is_short(free, of, user_space.FULL_BYTES) is short


@pytest.mark.parametrize("accepted", [True, False])
def test_armed_only_while_one_is_bad(monkeypatch: pytest.MonkeyPatch, accepted: bool) -> None:
    """And for a while after a disk's error; what counts who writes, while one is filling."""
    monkeypatch.setattr(user_space.Look, "round", lambda look: [])
    objects = Objects()
    for name in ("context", "disk"):
        objects.open(name)
    asked: list[tuple[str, ...]] = []

    def arm(names: Collection[str]) -> bool:
        asked.append(tuple(names))
        return accepted

    watched = user_space.Watched(objects.by_name(), None, None)
    watched.arm_with(arm)
    for bad in (False, True, True, False, False):
        watched._look.bad = bad
        assert watched.records(frozenset()) == []
    ends = ("on_sys_exit",)
    assert asked == ([ends, ()] if accepted else [ends, ends])
    asked.clear()
    watched._look.filling = True
    watched.records(frozenset())
    watched.records(frozenset(("disk_error",)))
    assert asked == [WRITES, (*ends, *WRITES)]
    monkeypatch.setattr(user_space, "AFTER_SECONDS", -1.0)
    watched.records(frozenset(("disk_error",)))
    assert asked[-1] == WRITES
    watched.close()


def test_open_files_of_this_process(tmp_path: Path) -> None:
    device = device_number(tmp_path.stat().st_dev)
    known = {mount.id: device for mount in user_space.read_mounts("self")}
    file = tmp_path / "x"
    with file.open("wb") as opened, file.open("rb") as read:
        opened.write(bytes(8192))
        opened.flush()
        found = user_space.open_file(os.getpid(), opened.fileno(), known)
        assert found is not None
        assert (found.path, found.bytes, found.deleted, found.writes) == (
            *(str(file), 8192),
            *(False, True),
        )
        assert user_space.open_file(os.getpid(), read.fileno(), known) is None
        file.unlink()
        found = user_space.open_file(os.getpid(), read.fileno(), known)
        assert found is not None
        assert (found.path, found.deleted) == (str(file), True)
        assert user_space.open_file(os.getpid(), read.fileno(), {}) is None
