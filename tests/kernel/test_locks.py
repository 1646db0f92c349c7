# SPDX-License-Identifier: Apache-2.0
"""flock(1) of files named xtables.lock: each wait and each end of a wait is seen once, with the
holder, and every field is compared. Locks of other files, and those that nobody waits for, are not
told."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.checks import TIMES, check_circumstances
from tests.support.ktrace import Ktrace
from tests.support.raisers import check_process, facts
from tests.support.wait import wait_for

pytestmark = pytest.mark.any_kernel

Event = dict[str, Any]

KEYS = ["kind", "time", "boot_ns", "node", "pod", "container", "outcome", "file", "waited_ns"]
KEYS += ["process", "holder", "held_ns", "other_file"]
GIVEN_UP = 9  # the exit code


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "xtables.lock"
    path.touch()
    return path


@contextmanager
def holding(file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has locked the file. Its child has the descriptor, too."""
    with subprocess.Popen(
        ["flock", file, "sh", "-c", "echo; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout and process.stdout.read(1) == b"\n"
        yield process
        process.communicate(b"\n")


def waiting(file: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["flock", file, "true"])
    wait_for("flock(1) to wait for the lock", lambda: _waits(process.pid, file))
    return process


def _waits(pid: int, file: Path) -> bool:
    """`12: -> FLOCK ADVISORY WRITE 4711 fd:00:1234 0 EOF`"""
    inode = str(file.stat().st_ino)
    return any(
        "->" in line and f" {pid} " in line and f":{inode} " in line
        for line in Path("/proc/locks").read_text().splitlines()
    )


def of(file: Path, events: list[Event]) -> list[Event]:
    inode = file.stat().st_ino
    return [e for e in events if e["kind"] == "file_lock" and e["file"]["inode"] == inode]


def with_outcome(outcome: str, events: list[Event]) -> list[Event]:
    return [event for event in events if event["outcome"] == outcome]


def check(event: Event, file: Path, holder: dict[str, Any] | None) -> None:
    assert list(event) == KEYS
    check_circumstances(event)
    status = file.stat()
    device = f"{status.st_dev >> 8 & 0xFFF}:{status.st_dev & 0xFF}"
    assert event["file"] == {"path": str(file), "device": device, "inode": status.st_ino}
    assert event["process"]["comm"] == "flock"
    assert event["other_file"] is None
    if holder is None:
        assert event["holder"] is None
        assert event["held_ns"] is None
    else:
        check_process(event["holder"], holder)
        assert 0 < event["held_ns"] < 600_000_000_000


def test_refused(file: Path) -> None:
    with Ktrace("locks", "--all") as ktrace, holding(file) as holder:
        about = facts(holder.pid)
        for _ in range(TIMES):
            run = subprocess.run(["flock", "-E", str(GIVEN_UP), "-n", file, "true"], check=False)
            assert run.returncode == GIVEN_UP
        events = of(file, ktrace.stop())
    assert [event["outcome"] for event in events] == ["refused"] * TIMES
    for event in events:
        check(event, file, about)
        assert event["waited_ns"] == 0


def test_given_up(file: Path) -> None:
    """flock(1) waits as iptables does: until a timer's signal."""
    with Ktrace("locks", "--all") as ktrace, holding(file) as holder:
        about = facts(holder.pid)
        words = ["flock", "-E", str(GIVEN_UP), "-w", "1", str(file), "true"]
        waiters = [subprocess.Popen(words) for _ in range(TIMES)]
        assert {waiter.wait() for waiter in waiters} == {GIVEN_UP}
        events = of(file, ktrace.stop())
    pids = sorted(waiter.pid for waiter in waiters)
    for outcome in ("waiting", "given_up"):
        found = with_outcome(outcome, events)
        assert sorted(event["process"]["pid"] for event in found) == pids
        for event in found:
            check(event, file, about)
            assert (event["waited_ns"] >= 900_000_000) is (outcome == "given_up")
    assert len(events) == 2 * TIMES


def test_acquired(file: Path) -> None:
    with Ktrace("locks", "--all") as ktrace:
        with holding(file) as holder:
            about = facts(holder.pid)
            waiters = [waiting(file) for _ in range(TIMES)]
        assert {waiter.wait() for waiter in waiters} == {0}
        events = of(file, ktrace.stop())
    begun, got = with_outcome("waiting", events), with_outcome("acquired", events)
    pids = sorted(waiter.pid for waiter in waiters)
    assert sorted(event["process"]["pid"] for event in begun) == pids
    assert sorted(event["process"]["pid"] for event in got) == pids
    for event in begun:
        check(event, file, about)
    for event in got:
        check(event, file, None)
        assert event["waited_ns"] > 0
    assert len(events) == 2 * TIMES


def test_taken_before_the_start(file: Path) -> None:
    """The kernel knows the holder's number, and /proc the rest."""
    with holding(file) as holder, Ktrace("locks", "--all") as ktrace:
        about = facts(holder.pid)
        for _ in range(TIMES):
            subprocess.run(["flock", "-n", file, "true"], check=False)
        events = of(file, ktrace.stop())
    assert len(events) == TIMES
    for event in events:
        check_process(event["holder"], about)
    assert {event["held_ns"] for event in events} == {None}


def test_a_lock_that_nobody_waits_for_and_other_files(file: Path) -> None:
    other = file.with_name("xtables.lock2")
    other.touch()
    with Ktrace("locks", "--all") as ktrace, holding(other):
        for _ in range(TIMES):
            subprocess.run(["flock", "-n", other, "true"], check=False)
            subprocess.run(["flock", file, "true"], check=True)
        events = [*of(file, ktrace.stop()), *of(other, ktrace.events)]
    assert with_outcome("other_file", events) == events


def test_all_files(tmp_path: Path) -> None:
    file = tmp_path / "x\x1b[2J"
    file.touch()
    with Ktrace("locks", "--all", "--all-files") as ktrace, holding(file) as holder:
        about = facts(holder.pid)
        for _ in range(TIMES):
            subprocess.run(["flock", "-n", file, "true"], check=False)
        events = of(file, ktrace.stop())
    assert len(events) == TIMES
    for event in events:
        assert (event["outcome"], event["file"]["path"]) == ("refused", str(file))
        check_process(event["holder"], about)


def test_two_files_for_the_same_rules(file: Path, tmp_path: Path) -> None:
    """Each is told once, with the one who used the other."""
    second = tmp_path / "of-a-container" / "xtables.lock"
    second.parent.mkdir()
    second.touch()
    with Ktrace("locks", "--all") as ktrace:
        pids: dict[Path, int] = {}
        for _ in range(TIMES):
            for path in (file, second):
                with subprocess.Popen(["flock", path, "true"]) as process:
                    pids.setdefault(path, process.pid)
        events = ktrace.stop()
    (told,) = of(second, events)
    assert told["outcome"] == "other_file"
    assert told["file"]["path"] == str(second)
    assert told["other_file"] == {
        "path": None,
        "device": told["file"]["device"],
        "inode": file.stat().st_ino,
    }
    assert told["process"]["pid"] == pids[second]
    assert told["holder"]["pid"] == pids[file]
    assert len(of(file, events)) == 1


def test_the_same_name_in_another_network_namespace(file: Path, tmp_path: Path) -> None:
    """Another namespace has rules of its own."""
    second = tmp_path / "of-a-pod" / "xtables.lock"
    second.parent.mkdir()
    second.touch()
    with Ktrace("locks", "--all") as ktrace:
        subprocess.run(["flock", file, "true"], check=True)
        for _ in range(TIMES):
            subprocess.run(["unshare", "-n", "flock", second, "true"], check=True)
        events = ktrace.stop()
    assert of(second, events) == []
