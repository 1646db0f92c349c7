# SPDX-License-Identifier: Apache-2.0
"""From a record of a lock to an event, and who took it before the start."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.bounds import Bound
from tests.unit.records import Decoding
from tracer.kernel.bpf_object import shipped
from tracer.model.batch import cell
from tracer.model.event import Clock, Event, to_json
from tracer.probes import locks as probe
from tracer.probes.locks import PROBE, companion

WAITING, ACQUIRED, REFUSED, GIVEN_UP, OTHER_FILE = range(5)
SCHEMAS = shipped("locks").schemas | shipped("context").schemas
BOUNDS = {
    "holders of locks from before the start": Bound(
        ("test_many_holders", "test_many_in_one_read"),
        (probe.MAX_HOLDERS, companion.MAX_HOLDERS),
    ),
}


@pytest.fixture
def resolver() -> Decoding:
    return Decoding(PROBE)


def record_of(kind: str, **values: Any) -> Any:
    schema = SCHEMAS[kind]
    (record,) = schema.cells(memoryview(cell(schema.pack(**values))))
    return record


def lock(resolver: Decoding, **values: Any) -> Event[Any]:
    given = {
        "time": 5,
        "process_pid": 41,
        "process_tid": 41,
        "inode": 4,
        "device": 26,
        "path": b"xtables.lock\0run\0",
        "path_bytes": 17,
        "path_whole": 1,
    }
    event = resolver.decode["file_lock"](record_of("file_lock", **(given | values)))
    assert event is not None
    return event


def shown(event: Event[Any]) -> dict[str, Any]:
    return dict(json.loads(to_json(event, Clock(0), "node")))


def test_a_wait(resolver: Decoding) -> None:
    event = lock(resolver, outcome=WAITING, holder_pid=7, holder_tid=7, held=2_000_000_000)
    body = shown(event)
    assert body["outcome"] == "waiting"
    assert body["file"] == {"path": "/run/xtables.lock", "device": "0:26", "inode": 4}
    assert (body["process"]["pid"], body["holder"]["pid"]) == (41, 7)
    assert (body["held_ns"], body["other_file"]) == (2_000_000_000, None)
    assert PROBE.summary(event) == "[41] waits for /run/xtables.lock, which [7] holds since 2 s"


def test_without_a_holder(resolver: Decoding) -> None:
    event = lock(resolver, outcome=GIVEN_UP, waited=5_000_000_000)
    assert shown(event)["holder"] is None
    assert PROBE.summary(event) == "[41] gave up waiting for /run/xtables.lock after 5 s"


def test_a_file_without_a_path_and_with_a_long_one(resolver: Decoding) -> None:
    nothing = lock(resolver, outcome=REFUSED, path=b"", path_bytes=0, device=259 << 20 | 3)
    assert shown(nothing)["file"] == {"path": None, "device": "259:3", "inode": 4}
    assert PROBE.summary(nothing) == "[41] did not get 259:3 inode 4, and did not wait"
    assert shown(lock(resolver, path_whole=0))["file"]["path"] == "…/run/xtables.lock"


def test_another_file(resolver: Decoding) -> None:
    event = lock(resolver, outcome=OTHER_FILE, holder_pid=7, held=9, other_inode=5, other_device=26)
    body = shown(event)
    assert body["other_file"] == {"path": None, "device": "0:26", "inode": 5}
    assert body["held_ns"] is None


@pytest.mark.parametrize(
    ("values", "alarm"),
    [
        ({"outcome": WAITING}, False),
        ({"outcome": ACQUIRED, "waited": 999_999_999}, False),
        ({"outcome": ACQUIRED, "waited": 1_000_000_000}, True),
        ({"outcome": REFUSED}, True),
        ({"outcome": GIVEN_UP, "waited": 1}, True),
        ({"outcome": OTHER_FILE}, True),
    ],
)
def test_what_stands_out(resolver: Decoding, values: dict[str, int], alarm: bool) -> None:
    assert PROBE.alarm(lock(resolver, **values)) is alarm


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[os.stat_result]:
    with (tmp_path / "xtables.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield os.fstat(file.fileno())


def heard(found: os.stat_result, pid: int, process: int = 0) -> Any:
    device = os.major(found.st_dev) << 20 | os.minor(found.st_dev)
    values = {"holder_pid": pid, "holder_process": process}
    return record_of("file_lock", device=device, inode=found.st_ino, **values)


def test_who_took_it_before_the_start(locked: os.stat_result) -> None:
    holders = companion.Holders(SCHEMAS)
    holders.hear(iter([heard(locked, os.getpid()), heard(locked, os.getpid())]))
    told = holders.records(frozenset(("file_lock",)))
    assert len(told) == 3  # a cgroup, a process, and whose number is whose
    assert holders.records(frozenset(("file_lock",))) == []


def test_a_number_that_is_another_process_by_now(locked: os.stat_result) -> None:
    holders = companion.Holders(SCHEMAS)
    holders.hear(iter([heard(locked, os.getppid()), heard(locked, os.getpid(), process=9)]))
    assert holders.records(frozenset(("file_lock",))) == []


def test_many_in_one_read(locked: os.stat_result, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(companion, "_has_open", lambda pid, file: asked.append(pid))
    holders = companion.Holders(SCHEMAS)
    holders.hear(heard(locked, pid) for pid in range(1, 2 * companion.MAX_HOLDERS))
    assert holders.records(frozenset(("file_lock",))) == []
    assert len(asked) == companion.MAX_HOLDERS


def test_many_holders(resolver: Decoding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MAX_HOLDERS", 3)
    for pid in range(1, 9):
        resolver.decode["lock_holder"](record_of("lock_holder", pid=pid, process=pid << 10))
    decoder = resolver.decode["lock_holder"].__self__  # type: ignore[attr-defined]
    assert list(decoder._holders) == [6, 7, 8]
