# SPDX-License-Identifier: Apache-2.0
"""Full file systems of the test's own: whose calls fail, on which file, how full they are, and who
has the largest files there. What fails for another reason is not told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.checks import TIMES, check_circumstances
from tests.support.ktrace import BACKEND, IN_GUEST, Ktrace
from tests.support.raisers import _Child, check_process, facts
from tests.support.wait import wait_for
from tracer.probes.described import boot_ns

pytestmark = pytest.mark.skipif(
    BACKEND not in ("auto", "core"), reason="cannot: the backend cannot attach while it traces"
)

Event = dict[str, Any]

SIZE, INODES = 1 << 20, 64
PROGRAM = r"""
import ctypes, errno, json, os, sys

def failed(times, call):
    count = 0
    for number in range(times):
        try:
            call(number)
        except OSError as error:
            assert error.errno in (errno.ENOSPC, errno.EROFS), error
            count += 1
    return count

def fill(path):
    global file
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        while True:
            os.write(file, bytes(4096))
    except OSError as error:
        assert error.errno == errno.ENOSPC
    return file

def use_up(directory):
    count = 0
    try:
        while True:
            os.close(os.open(f"{directory}/n{count}", os.O_WRONLY | os.O_CREAT))
            count += 1
    except OSError as error:
        assert error.errno == errno.ENOSPC
    return count

def write(times):
    return failed(times, lambda number: os.write(file, b"x" * 4096))

def make(directory, times):
    return failed(times, lambda number: os.mkdir(f"{directory}/d{number}"))

def create_below(directory, times):
    # by a path that leads from the working directory
    os.chdir(directory)
    count = failed(times, lambda number: os.open(f"c{number}", os.O_WRONLY | os.O_CREAT))
    os.chdir("/")
    return count

def delete(path):
    os.unlink(path)

def refused(path, times, error):
    # a name that cannot be removed
    count = 0
    for _ in range(times):
        try:
            os.unlink(path)
        except OSError as failure:
            count += failure.errno == getattr(errno, error)
    return count

def in_use(path, times):
    umount = ctypes.CDLL(None, use_errno=True).umount
    return sum(bool(umount(path.encode())) and ctypes.get_errno() == errno.EBUSY
               for _ in range(times))

def hold(path):
    os.chdir(path)

def be_nobody():
    os.setuid(65534)

def synced(path, times):
    # each write is lost: the disk fails
    count = 0
    for number in range(times):
        handle = os.open(f"{path}/{number}", os.O_WRONLY | os.O_CREAT)
        os.write(handle, bytes(4096))
        try:
            os.fsync(handle)
        except OSError as error:
            assert error.errno in (errno.EIO, errno.ENOSPC), error
            count += 1
        os.close(handle)
    return count

print(json.dumps(None), flush=True)
for line in sys.stdin:
    function, *arguments = json.loads(line)
    print(json.dumps(globals()[function](*arguments)), flush=True)
"""


class Writer(_Child):
    def __init__(self, directory: Path) -> None:
        program = directory / "writer.py"
        if not program.exists():
            program.write_text(PROGRAM)
        super().__init__([sys.executable, "-I", "-S", str(program)])
        self._read("its start")

    def do(self, *order: Any) -> Any:
        self._write(json.dumps(order))
        return json.loads(self._read(str(order)))


@contextmanager
def mounted(directory: Path, options: str = f"size={SIZE},nr_inodes={INODES}") -> Iterator[str]:
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(directory)], check=True)
    try:
        yield str(directory)
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[str]:
    with mounted(tmp_path / "full") as directory:
        yield directory


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    with Writer(tmp_path) as running:
        yield running


def of(kind: str, events: list[Event], directory: str) -> list[Event]:
    return [
        event
        for event in events
        if event["kind"] == kind and event["file_system"]["mount"] == directory
    ]


def until_watched(ktrace: Ktrace, directory: str) -> None:
    """It is known as full, and what fails from now on is seen: a call that fails shows that."""
    wait_for("the full file system", lambda: of("disk_state", ktrace.events, directory))
    probe = Path(directory, "is it seen")

    def seen() -> list[Event]:
        with suppress(OSError):
            probe.write_bytes(bytes(4096))
        return of("disk_failure", ktrace.events, directory)

    wait_for("the first failure", seen, interval=0.2)


def failures(events: list[Event], directory: str, pid: int, since: int = 0) -> list[Event]:
    """From a moment on: another full file system of the machine may have armed ktrace before."""
    return [
        event
        for event in of("disk_failure", events, directory)
        if event["process"]["pid"] == pid and event["boot_ns"] >= since
    ]


def check(events: list[Event], writer: Writer, directory: str, call: str, lacks: str) -> None:
    who = facts(writer.pid)
    for event in events:
        check_circumstances(event)
        assert (event["error"], event["count"]) == ("ENOSPC", 1)
        assert event["call"] in (call, f"{call}at")
        system = event["file_system"]
        assert (system["type"], system["mount"]) == ("tmpfs", directory)
        assert lacks in system["lacks"]
        assert (system["size_bytes"], system["inodes"]) == (SIZE, INODES)
        check_process(event["process"], who)


def test_no_blocks(full: str, writer: Writer) -> None:
    """And by whose file: also when it is deleted."""
    with Ktrace("disk", "--all") as ktrace:
        writer.do("fill", f"{full}/big")
        wait_for("the full file system", lambda: of("disk_state", ktrace.events, full))
        wait_for("the large file", lambda: of("disk_file", ktrace.events, full))
        until_watched(ktrace, full)
        since = boot_ns()
        assert writer.do("write", TIMES) == TIMES
        writer.do("delete", f"{full}/big")
        wait_for(
            "the deleted file",
            lambda: [e for e in of("disk_file", ktrace.events, full) if e["deleted"]],
        )
        every = ktrace.stop()
        assert ktrace.summary.lost == 0
    events = failures(every, full, writer.pid, since)
    assert len(events) == TIMES
    check(events, writer, full, "write", "blocks")
    assert {event["path"] for event in events} == {f"{full}/big"}
    for event in events:
        (largest,) = event["largest"]
        assert (largest["path"], largest["bytes"]) == (f"{full}/big", SIZE)
        check_process(largest["process"], facts(writer.pid))
    first, last = of("disk_file", every, full)
    assert [first["deleted"], last["deleted"]] == [False, True]
    assert last["bytes"] == SIZE
    assert last["path"] == f"{full}/big"


def test_no_inodes(full: str, writer: Writer) -> None:
    """By paths from the root and from the working directory."""
    with Ktrace("disk", "--all") as ktrace:
        writer.do("use_up", full)
        until_watched(ktrace, full)
        since = boot_ns()
        assert writer.do("make", full, TIMES) == TIMES
        assert writer.do("create_below", full, TIMES) == TIMES
        wait_for(
            "the failures",
            lambda: len(failures(ktrace.events, full, writer.pid, since)) >= 2 * TIMES,
        )
        every = ktrace.stop()
        assert ktrace.summary.lost == 0
    events = failures(every, full, writer.pid, since)
    made = [event for event in events if event["call"].startswith("mkdir")]
    created = [event for event in events if event["call"].startswith("open")]
    assert len(made) == len(created) == TIMES
    check(made, writer, full, "mkdir", "inodes")
    check(created, writer, full, "open", "inodes")
    assert Counter(e["path"] for e in made) == Counter(f"{full}/d{n}" for n in range(TIMES))
    assert Counter(e["path"] for e in created) == Counter(f"{full}/c{n}" for n in range(TIMES))


def test_a_storm_is_counted(full: str, writer: Writer) -> None:
    """Few records a second, and every failure in one of them."""
    times = 5_000
    with Ktrace("disk", "--all") as ktrace:
        writer.do("fill", f"{full}/big")
        until_watched(ktrace, full)
        since = boot_ns()
        assert writer.do("write", times) == times
        wait_for(
            "the count",
            lambda: (
                sum(e["count"] for e in failures(ktrace.events, full, writer.pid, since)) >= times
            ),
        )
        every = ktrace.stop()
        assert ktrace.summary.lost == 0
    events = failures(every, full, writer.pid, since)
    assert sum(event["count"] for event in events) == times
    assert len(events) < times / 10


def test_what_is_not_the_disks(full: str, writer: Writer) -> None:
    """While one is full: a call that fails for a cgroup's limit, and one on another file system
    that has room, are not told of it."""
    with Ktrace("disk", "--all") as ktrace:
        writer.do("fill", f"{full}/big")
        until_watched(ktrace, full)
        with Writer(Path(full).parent) as other, mounted(Path(full).with_name("other")) as roomy:
            assert other.do("make", roomy, TIMES) == 0
            ktrace.stop()
            assert of("disk_state", ktrace.events, roomy) == []
            assert [
                e for e in ktrace.events if (e.get("process") or {}).get("pid") == other.pid
            ] == []


def test_a_file_system_with_room_arms_nothing(full: str, writer: Writer) -> None:
    """The program on the end of system calls is loaded, and not attached."""
    with Ktrace("disk", "--all") as ktrace:
        assert writer.do("make", full, 5) == 0
        ktrace.stop()
        assert of("disk_state", ktrace.events, full) == []
        assert of("disk_failure", ktrace.events, full) == []


def test_a_file_system_that_becomes_read_only(full: str, writer: Writer) -> None:
    """One that always was is meant to be."""
    with Ktrace("disk", "--all") as ktrace, mounted(Path(full).with_name("ro"), "ro") as never:
        # another that is full shows that all have been asked while this one could be written to
        with mounted(Path(full).with_name("first"), "size=4k") as first:
            Path(first, "x").write_bytes(bytes(4096))
            wait_for("a look", lambda: of("disk_state", ktrace.events, first))
        subprocess.run(["mount", "-o", "remount,ro", full], check=True)
        wait_for("the state", lambda: of("disk_state", ktrace.events, full))

        def seen() -> list[Event]:
            writer.do("make", full, 1)
            return failures(ktrace.events, full, writer.pid)

        wait_for("the first failure", seen, interval=0.2)
        with Writer(Path(full).parent) as one, Writer(Path(full).parent) as other:
            assert one.do("make", never, TIMES) == TIMES
            assert other.do("make", full, TIMES) == TIMES
            wait_for(
                "the failures",
                lambda: len(failures(ktrace.events, full, other.pid)) >= TIMES,
            )
        every = ktrace.stop()
    (state,) = of("disk_state", every, full)
    assert state["state"] == "read_only"
    events = failures(every, full, other.pid)
    assert [(e["error"], e["call"]) for e in events] == [("EROFS", "mkdir")] * TIMES
    assert [e for e in every if (e.get("path") or "").startswith(never)] == []


@contextmanager
def image(directory: Path) -> Iterator[str]:
    """ext4 in a file, mounted by way of a loop device."""
    if IN_GUEST and not shutil.which("mkfs.ext4"):
        pytest.skip("cannot: the guest makes no ext4")
    file, point = directory / "image", directory / "ext4"
    with file.open("wb") as made:
        made.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(file)], check=True)
    point.mkdir()
    subprocess.run(["mount", "-o", "loop", str(file), str(point)], check=True)
    try:
        yield str(point)
    finally:
        subprocess.run(["umount", "--lazy", str(point)], check=True)


@contextmanager
def armed(ktrace: Ktrace, directory: Path) -> Iterator[None]:
    """Another file system is full, so that every call is looked at."""
    with mounted(directory, "size=4k") as other:
        Path(other, "x").write_bytes(bytes(4096))
        until_watched(ktrace, other)
        yield


def test_an_immutable_file(tmp_path: Path, writer: Writer) -> None:
    """And a directory; not what a process has no right to remove: another's, in a sticky one."""
    with (
        image(tmp_path) as directory,
        Ktrace("disk", "--all") as ktrace,
        armed(ktrace, tmp_path / "other"),
        Writer(tmp_path) as other,
        Writer(tmp_path) as nobody,
    ):
        kept, below, sticky = (Path(directory, n) for n in ("kept\x1b[31m", "below", "sticky"))
        below.mkdir()
        sticky.mkdir()
        sticky.chmod(0o1777)
        for file in (kept, below / "x", sticky / "x"):
            file.touch()
        subprocess.run(["chattr", "+i", str(kept), str(below)], check=True)
        try:
            assert writer.do("refused", str(kept), TIMES, "EPERM") == TIMES
            assert other.do("refused", str(below / "x"), TIMES, "EPERM") == TIMES
            nobody.do("hold", str(sticky))
            nobody.do("be_nobody")
            assert nobody.do("refused", "x", TIMES, "EPERM") == TIMES
            wait_for(
                "the failures",
                lambda: len(failures(ktrace.events, directory, other.pid)) >= TIMES,
            )
            every = ktrace.stop()
            assert ktrace.summary.lost == 0
        finally:
            subprocess.run(["chattr", "-i", str(kept), str(below)], check=True)
    for who, path, of_what in ((writer, kept, kept), (other, below / "x", below)):
        events = failures(every, directory, who.pid)
        assert len(events) == TIMES
        for event in events:
            assert (event["error"], event["path"]) == ("EPERM", str(path))
            assert (event["attribute"], event["attribute_of"]) == ("immutable", str(of_what))
    assert [e for e in every if (e.get("process") or {}).get("pid") == nobody.pid] == []


def test_a_mount_in_use(tmp_path: Path, writer: Writer) -> None:
    """By whom, and where."""
    with (
        mounted(tmp_path / "busy") as directory,
        Ktrace("disk", "--all") as ktrace,
        armed(ktrace, tmp_path / "other"),
        Writer(tmp_path) as holder,
    ):
        holder.do("hold", directory)
        who = facts(holder.pid)
        assert writer.do("in_use", directory, TIMES) == TIMES
        wait_for(
            "the failures",
            lambda: len(failures(ktrace.events, directory, writer.pid)) >= TIMES,
        )
        every = ktrace.stop()
        assert ktrace.summary.lost == 0
    events = failures(every, directory, writer.pid)
    assert len(events) == TIMES
    for event in events:
        assert (event["error"], event["call"], event["path"]) == ("EBUSY", "umount2", directory)
        (held,) = event["holders"]
        assert (held["how"], held["path"]) == ("working directory", directory)
        check_process(held["process"], who)


def test_a_disk_that_fails(tmp_path: Path, writer: Writer) -> None:
    """Whose writes are lost: at fsync, without a look at every call. Before that the device."""
    with (
        mounted(tmp_path / "small", "size=20m") as below,
        image(Path(below)) as directory,
        Ktrace("disk", "--all") as ktrace,
    ):
        writer.do("fill", f"{below}/rest")
        lost = writer.do("synced", directory, TIMES)
        assert lost > 0
        wait_for(
            "the failures",
            lambda: len(failures(ktrace.events, directory, writer.pid)) >= lost,
        )
        wait_for("the disk's", lambda: len(of("disk_error", ktrace.events, directory)) >= 2)
        every = ktrace.stop()
    events = failures(every, directory, writer.pid)
    assert len(events) == lost
    assert {event["error"] for event in events} <= {"EIO", "ENOSPC"}
    assert {event["call"] for event in events} == {None}
    assert {Path(event["path"]).parent for event in events} == {Path(directory)}
    errors = of("disk_error", every, directory)
    assert {event["reporter"] for event in errors} == {"device", "writeback"}
    assert {event["error"] for event in errors} <= {"EIO", "ENOSPC"}
    assert all(event["writes"] for event in errors)
