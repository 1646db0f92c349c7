# SPDX-License-Identifier: Apache-2.0
"""The history on disk: its bounds, its index, and what faults of disk and clock leave of it."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.wait import wait_for
from tests.unit.recording.test_recording import metadata
from tracer.agent.history import INDEX, indexing, query
from tracer.agent.history import disk as disk_module
from tracer.agent.history import index as index_module
from tracer.agent.history import store as module
from tracer.agent.history.bounds import Bounds
from tracer.agent.history.entry import Entries, Told, entries_of
from tracer.agent.history.index import Damaged, Index
from tracer.agent.history.query import History, exists, wants
from tracer.agent.history.segments import Segment, entries_in, name_of, segments
from tracer.agent.history.store import MIN_PART, Store
from tracer.agent.item import Life
from tracer.agent.lock import Lock, holder
from tracer.model.errors import BadRecording, KtraceError, MissingPrivilege
from tracer.model.event import Clock
from tracer.recording.files import RecordingFile
from tracer.recording.format import Kind, block, file_header, json_block

NS = 1_000_000_000
WIDE = Bounds(7 * 86400, 1 << 30, 1.0)
NOW = time.time_ns() - 24 * 3600 * NS
WEB = Life("uid-1", "shop", "web-0", "app", "a" * 64, "containerd", NOW - 60 * NS, NOW, 137, 9)


def told(life: Life = WEB, at_ns: int = NOW, verdict: str = "killed_from_host") -> Told:
    sentence = f"killed {life.pod}"
    text = f"{life.title}: {sentence}\n  certain: the kernel said so\n"
    json = b'{"kind":"verdict","verdict":"' + verdict.encode() + b'"}\n'
    return Told(life, at_ns, verdict, "certain", sentence, True, json, text)


def death(number: int, at_ns: int = NOW) -> Told:
    pod, uid, container = f"web-{number}", f"uid-{number}", f"{number:064x}"
    life = replace(WEB, pod=pod, pod_uid=uid, container_id=container, ended_ns=at_ns)
    return told(life, at_ns)


class Keeping:
    """A store, and the part of a session in it. Each `second` writes a block of three events."""

    def __init__(self, directory: Path, bounds: Bounds = WIDE) -> None:
        self.directory = directory
        self.said: list[str] = []
        self.now = 1000 * NS
        self.clock = Clock()
        self.store = Store(directory, self.clock, bounds, self.said.append)
        self.store.begin(self._beginning, self.now)

    def _beginning(self, now: int) -> bytes:
        return file_header() + json_block(Kind.META, metadata(began=now).json())

    def second(self, size: int = 100) -> None:
        data = os.urandom(size)
        now = self.now = self.now + NS
        self.store.tick(now)
        self.store.write(block(Kind.EVENTS, data, count=3, first=now, last=now), now, now)

    def tell(self, *verdicts: Told) -> None:
        for one in verdicts:
            self.store.tell(one, self.now)
        self.second()

    def written(self) -> None:
        """Waits for the thread."""
        wait_for("the disk", lambda: self.store._disk.idle)

    def close(self) -> None:
        self.store.close(json_block(Kind.END, {}))
        self.store.finish(60)


@pytest.fixture
def keep(tmp_path: Path) -> Iterator[Callable[..., Keeping]]:
    kept: list[Keeping] = []

    def make(bounds: Bounds = WIDE) -> Keeping:
        kept.append(Keeping(tmp_path, bounds))
        return kept[-1]

    yield make
    for one in kept:
        one.store.finish(60)


def names(history: History, what: str | None = None, *, running: bool = False) -> list[str | None]:
    return [row.life.pod for row in history.rows(wants(what), -(1 << 63), running=running)]


def asked(directory: Path, what: str | None = None) -> list[str | None]:
    history = History(directory)
    try:
        return names(history, what)
    finally:
        history.close()


def test_the_dead_are_found_by_name_uid_and_id(
    keep: Callable[..., Keeping], tmp_path: Path
) -> None:
    keeping = keep()
    keeping.tell(*(death(number) for number in range(12)))
    keeping.close()
    history = History(tmp_path)
    assert len(names(history)) == 12
    for what in ("shop/web-7", "web-7", "uid-7", f"{7:064x}", "shop/web-7*"):
        assert names(history, what) == ["web-7"], what
    assert names(history, "web-1*") == ["web-1", "web-10", "web-11"]
    assert names(history, "00000") == [], "too short for an id"
    found = history.last_death(wants("shop/web-7"))
    assert found is not None
    assert (found.life.exit_code, found.verdict, found.text) == (
        *(137, "killed_from_host", death(7).text),
    )
    assert history.last_death(wants("web-7", ("other",))) is None
    assert history.last_death(wants("web-7", (), ("app",))) is not None
    assert history.last_death(wants("web-7", (), ("proxy",))) is None
    assert history.doubt is None


def test_the_last_death_is_the_last(keep: Callable[..., Keeping], tmp_path: Path) -> None:
    keeping = keep()
    for hour in (3, 1, 2):
        again = replace(WEB, container_id=f"{hour:064x}")
        keeping.tell(told(again, NOW + hour * 3600 * NS, f"end_{hour}"))
    harm = replace(told(WEB, NOW + 4 * 3600 * NS, "closed_port"), is_end=False)
    keeping.tell(harm)
    keeping.close()
    history = History(tmp_path)
    found = history.last_death(wants("web-0"))
    assert found is not None
    assert found.verdict == "end_3"


def test_lives_without_a_verdict(keep: Callable[..., Keeping], tmp_path: Path) -> None:
    keeping = keep()
    running = replace(WEB, pod="new", container_id="b" * 64, ended_ns=None, exit_code=None)
    keeping.store.live(replace(WEB, ended_ns=None, exit_code=None, signal=None))
    keeping.store.live(running)
    keeping.store.live(WEB)
    keeping.second()
    keeping.written()
    lock = Lock(tmp_path)
    history = History(tmp_path)
    assert names(history) == ["web-0"]
    rows = history.rows(wants(None), -(1 << 63), running=True)
    assert [(row.life.pod, row.running, row.life.exit_code) for row in rows] == [
        ("web-0", False, 137),
        ("new", True, None),
    ]
    history.close()
    lock.release()
    history = History(tmp_path)
    rows = history.rows(wants("new"), -(1 << 63), running=True)
    assert [row.running for row in rows] == [None], "no agent runs, so nobody knows"


@pytest.mark.parametrize("removed_first", [True, False])
def test_an_end_is_one_row(
    keep: Callable[..., Keeping], tmp_path: Path, removed_first: bool
) -> None:
    """Its cgroup is removed a moment after the exit, and may be told before the verdict."""
    keeping = keep()
    removed = replace(WEB, ended_ns=NOW + NS, exit_code=None, signal=None)
    if removed_first:
        keeping.store.live(removed)
    keeping.tell(told())
    if not removed_first:
        keeping.store.live(removed)
    keeping.close()
    history = History(tmp_path)
    (row,) = history.rows(wants("web-0"), -(1 << 63), running=True)
    assert (row.life.ended_ns, row.told is not None) == (NOW, True)


def test_a_container_that_its_runtime_starts_again_has_two_lives() -> None:
    index = Index(None)

    def note(**changes: Any) -> None:
        index.take(1, 1, None, Entries((replace(WEB, **changes),)), NOW)

    note(ended_ns=None, exit_code=None, signal=None)
    note()
    note(ended_ns=NOW + NS, exit_code=None, signal=None)  # its cgroup is removed
    assert [(life.ended_ns, life.exit_code) for life, *_ in index.lives()] == [(NOW, 137)]
    note(ended_ns=NOW + 5 * NS, exit_code=1, signal=None)
    note(began_ns=NOW + 6 * NS, ended_ns=None, exit_code=None, signal=None)
    assert [life.exit_code for life, *_ in index.lives()] == [137, 1, None]


def test_many_at_once(keep: Callable[..., Keeping], tmp_path: Path) -> None:
    """They do not wait for the next second, nor stand in one block."""
    keeping = keep()
    for number in range(1000):
        keeping.store.tell(death(number), keeping.now)
        assert len(keeping.store._told) < module.MAX_ENTRIES
    keeping.close()
    assert len(asked(tmp_path)) == 1000
    (segment,) = segments(tmp_path)
    assert [len(entries.verdicts) for _, entries in entries_in(segment.path)] == [
        *(256, 256, 256, 232, 0),
    ]


# Recordings and index


def test_the_index_is_made_again(keep: Callable[..., Keeping], tmp_path: Path) -> None:
    """By whoever asks, in memory, and by the next agent, on disk."""
    keeping = keep()
    keeping.tell(death(1))
    keeping.close()
    for spoil in (_remove, _overwrite, _truncate, _other_layout):
        spoil(tmp_path / INDEX)
        history = History(tmp_path)
        assert history.doubt
        assert names(history) == ["web-1"], spoil.__name__
        history.close()
        again = keep()
        again.second()
        again.close()
        assert any("made again" in words for words in again.said) == (spoil is not _remove)
        history = History(tmp_path)
        assert history.doubt is None
        assert names(history) == ["web-1"], spoil.__name__
        history.close()


def _clear(index: Path) -> None:
    index_module.remove(index)
    index.touch()


def _break(index: Path) -> None:
    """All but the first page, which is all that opening looks at."""
    with sqlite3.connect(index) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    database.close()
    with index.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (index.stat().st_size - 4096))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda index: _remove(index), "the index is missing"),
        (lambda index: _clear(index), "the index is empty"),
        (lambda index: _overwrite(index), "cannot be used: it is damaged: file is not a database"),
        (lambda index: _break(index), "the index is damaged: database disk image is malformed"),
        (lambda index: _other_layout(index), "another version of ktrace made it, with layout 99"),
    ],
    ids=["missing", "empty", "overwritten", "broken", "another version's"],
)
def test_what_is_wrong_with_the_index_is_said(
    keep: Callable[..., Keeping],
    tmp_path: Path,
    spoil: Callable[[Path], None],
    words: str,
) -> None:
    keeping = keep()
    keeping.tell(death(1))
    keeping.close()
    for ask in (
        lambda history: names(history) == ["web-1"],
        lambda history: history.last_death(wants("web-1")).at_ns == NOW,
    ):
        spoil(tmp_path / INDEX)
        history = History(tmp_path)
        assert ask(history)
        assert history.doubt is not None and words in history.doubt
        history.close()


def test_a_locked_index(
    keep: Callable[..., Keeping], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping = keep()
    keeping.tell(death(1))
    keeping.close()
    monkeypatch.setattr(index_module, "BUSY_SECONDS", 0.05)
    with sqlite3.connect(tmp_path / INDEX) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        history = History(tmp_path)
        assert names(history) == ["web-1"]
        assert history.doubt == "the index cannot be read: database is locked"
    holder.close()


@pytest.mark.parametrize(("user", "kind"), [(0, KtraceError), (1000, MissingPrivilege)])
def test_who_may_not_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, kind: type[KtraceError]
) -> None:
    """Only who is not root is told to become root."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(query, "Index", refuse)
    (tmp_path / INDEX).write_bytes(b"x")
    with pytest.raises(KtraceError) as by_index:
        History(tmp_path)
    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(KtraceError) as by_directory:
        exists(tmp_path)
    for raised in (by_index, by_directory):
        assert type(raised.value) is kind
        assert ("root's alone" in raised.value.message) == bool(user)
        assert ("as root" in (raised.value.remedy or "")) == bool(user)


def _remove(index: Path) -> None:
    index_module.remove(index)


def _overwrite(index: Path) -> None:
    index.write_bytes(b"x" * index.stat().st_size)


def _truncate(index: Path) -> None:
    os.truncate(index, 5000)
    for name in ("-wal", "-shm"):
        Path(f"{index}{name}").unlink(missing_ok=True)


def _other_layout(index: Path) -> None:
    with sqlite3.connect(index) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


@pytest.mark.parametrize("left", [0, 10, 16, 40, 200])
def test_a_recording_that_ends_anywhere(
    keep: Callable[..., Keeping], tmp_path: Path, left: int
) -> None:
    """As after a loss of power, which also took the index with it."""
    keeping = keep()
    keeping.tell(death(1))
    keeping.written()
    first = segments(tmp_path)[0].path
    whole = first.stat().st_size
    keeping.tell(death(2))
    keeping.close()
    os.truncate(first, whole + left)
    _remove(tmp_path / INDEX)
    assert "web-1" in asked(tmp_path)
    again = keep()
    again.tell(death(3))
    again.close()
    found = asked(tmp_path)
    assert {"web-1", "web-3"} <= {*found}
    assert len(segments(tmp_path)) == 2, "a new recording begins"


def test_what_the_index_lacks_is_taken_in(keep: Callable[..., Keeping], tmp_path: Path) -> None:
    """The index is older than the recording: the agent was killed between the two."""
    keeping = keep()
    keeping.tell(death(1))
    keeping.written()
    before = Index(tmp_path / INDEX)
    old = before.taken()
    before.close()
    keeping.tell(death(2))
    keeping.close()
    database = sqlite3.connect(tmp_path / INDEX)
    database.execute("DELETE FROM verdicts WHERE pod = 'web-2'")
    database.execute("DELETE FROM lives WHERE pod = 'web-2'")
    database.execute("UPDATE segments SET taken = ?", (old[1],))
    database.commit()
    database.close()
    assert asked(tmp_path) == ["web-1", "web-2"], "whoever asks sees it"
    index = Index(tmp_path / INDEX)
    assert len(list(index.verdicts())) == 1, "and changes nothing"
    index.close()
    again = keep()
    again.second()
    again.close()
    index = Index(tmp_path / INDEX)
    assert len(list(index.verdicts())) == 2
    index.close()


def test_where_the_evidence_is(keep: Callable[..., Keeping], tmp_path: Path) -> None:
    keeping = keep()
    for _ in range(5):
        keeping.second()
    at = keeping.now
    for _ in range(5):
        keeping.second()
    keeping.store.tell(death(1), at)
    keeping.second()
    keeping.close()
    history = History(tmp_path)
    found = history.last_death(wants(None))
    assert found is not None
    (segment,) = segments(tmp_path)
    assert found.segment == segment.number
    data = segment.path.read_bytes()
    assert data[found.offset : found.offset + 4] == b"KTB\n"
    assert int.from_bytes(data[found.offset + 24 : found.offset + 32], "little") == at


def test_evidence_of_long_ago(
    keep: Callable[..., Keeping], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PLACES", 10)
    keeping = keep()
    at = keeping.now + NS
    for _ in range(30):
        keeping.second()
    assert len(keeping.store._places) == 10
    assert keeping.store._place(at) == keeping.store._places[0][2:]


@pytest.mark.parametrize(
    "value",
    [
        *(None, [], {"lives": 5}, {"lives": [5]}, {"lives": [{"pod": 5}]}),
        *({"lives": [{"began_ns": "x"}]}, {"lives": [{"began_ns": 1 << 80}]}),
        *({"verdicts": [{}]}, {"verdicts": [{"life": {}, "at_ns": True}]}),
    ],
)
def test_made_up_entries(value: Any) -> None:
    with pytest.raises(BadRecording):
        entries_of(value)


def test_hostile_names(keep: Callable[..., Keeping], tmp_path: Path) -> None:
    evil = "'; DROP TABLE lives; --\x1b[31m\n\u202e"
    keeping = keep()
    keeping.tell(told(replace(WEB, pod=evil, namespace="%s")))
    keeping.close()
    assert asked(tmp_path) == [evil]
    assert asked(tmp_path, "*DROP*") == [evil]
    _remove(tmp_path / INDEX)
    assert asked(tmp_path) == [evil]


def test_other_files_are_left_alone(keep: Callable[..., Keeping], tmp_path: Path) -> None:
    name = name_of(1, 1, NOW)
    (tmp_path / "notes.ktrace").write_text("mine")
    (tmp_path / name).symlink_to(tmp_path / "notes.ktrace")
    assert segments(tmp_path) == []
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert segments(tmp_path) == []
    keep(Bounds(0, 1 << 20, 1.0)).close()
    assert (tmp_path / "notes.ktrace").read_text() == "mine"


# Bounds


def size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.iterdir() if file.is_file())


def test_bytes_are_bounded(keep: Callable[..., Keeping], tmp_path: Path) -> None:
    most = 4 << 20
    keeping = keep(Bounds(7 * 86400, most, 1.0))
    for number in range(100):
        keeping.second(100_000)
        keeping.tell(death(number))
        if number % 20 == 0:
            keeping.written()
            assert size(tmp_path) <= most
    keeping.close()
    assert most // 2 < size(tmp_path) <= most
    state = keeping.store.state
    assert state.bytes <= state.most_bytes == most
    assert state.removed > 0
    assert state.failures == state.unrecorded == 0
    first = segments(tmp_path)[0].number
    assert first > 1, "the oldest went"
    assert len(asked(tmp_path)) == 100, "the verdicts are still known"


def test_a_share_of_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(f_blocks=1000, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda path: found)
    assert Bounds(1, 1 << 30, 0.1).bytes(tmp_path) == 409_600
    assert Bounds(1, 1000, 0.1).bytes(tmp_path) == 1000


def test_bounds_that_are_too_narrow(keep: Callable[..., Keeping], tmp_path: Path) -> None:
    keeping = keep(Bounds(7 * 86400, 1000, 1.0))
    keeping.second(10_000)
    keeping.close()
    assert keeping.store.state.failures > 0
    assert any("its bounds are too narrow" in words for words in keeping.said)


def test_time_is_bounded(keep: Callable[..., Keeping], tmp_path: Path) -> None:
    first = keep()
    first.tell(death(1, NOW - 8 * 86400 * NS))
    first.tell(death(2, time.time_ns()))
    first.close()
    (old,) = segments(tmp_path)
    os.utime(old.path, ns=(NOW, time.time_ns() - 8 * 86400 * NS))
    second = keep()
    second.second()
    second.close()
    assert [one.number for one in segments(tmp_path)] == [1, 2], "its clock may be wrong at first"
    second = keep()
    second.second()
    second.close()
    assert [one.number for one in segments(tmp_path)] == [2, 3]
    third = keep()
    third.second()
    third.close()
    assert asked(tmp_path) == ["web-2"], "its index reaches back no further"


def test_a_recording_lasts_an_hour(keep: Callable[..., Keeping], tmp_path: Path) -> None:
    keeping = keep()
    for _ in range(3):
        keeping.now += 3600 * NS
        keeping.second()
    keeping.close()
    assert len(segments(tmp_path)) == 4


def test_the_index_is_bounded(tmp_path: Path) -> None:
    index = Index(tmp_path / INDEX)
    for number in range(400):
        entries = Entries((), (death(number, NOW + number),))
        index.take(1, 1, number, entries, NOW)
    before = index.bytes
    index.forget(0, {1}, before // 100)
    left = [one.life.pod for one in index.verdicts()]
    assert left[0] == "web-100"
    assert left[-1] == "web-399"
    index.forget(NOW + 390, set(), 1 << 30)
    assert len(list(index.verdicts())) == 10
    assert index.taken() == {}
    index.close()


# Faults


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause before the next attempt."""
    monkeypatch.setattr(disk_module, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(disk_module, "LAST_PAUSE", 0.0)
    monkeypatch.setattr(indexing, "PAUSE", 0.0)


class Disk:
    """A disk that fails as it is told to, in one of the calls that may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failing: dict[str, int] = {}
        for name in ("write", "sync", "__init__"):
            monkeypatch.setattr(RecordingFile, name, self._may_fail(name))

    def _may_fail(self, name: str) -> Callable[..., Any]:
        real = getattr(RecordingFile, name)

        def call(file: RecordingFile, *arguments: Any) -> Any:
            if name in self.failing:
                number = self.failing[name]
                raise OSError(number, os.strerror(number))
            return real(file, *arguments)

        return call


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "sync", "__init__"])
def test_a_disk_that_fails_for_a_while(
    keep: Callable[..., Keeping],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
) -> None:
    disk = Disk(monkeypatch)
    keeping = keep()
    keeping.tell(death(1))
    keeping.written()
    disk.failing[call] = number
    if call == "__init__":  # a new recording is due
        keeping.now += 3600 * NS
    for _ in range(5):
        keeping.second()
        keeping.written()
    wait_for("the failure", lambda: keeping.store.state.failures)
    disk.failing.clear()
    for again in range(3):
        keeping.tell(death(again + 2))
        keeping.written()
    keeping.written()
    keeping.close()
    gaps = [words for words in keeping.said if "the history has a gap" in words]
    assert len(gaps) == 1, keeping.said
    assert os.strerror(number) in gaps[0]
    assert gaps[0].endswith("; tracing goes on")
    assert "ktrace: the history goes on" in keeping.said
    state = keeping.store.state
    if call != "sync":
        assert 0 < state.unrecorded <= 3 * 6
        assert state.unrecorded % 3 == 0
    assert asked(tmp_path)[0] == "web-1"
    assert asked(tmp_path)[-1] == "web-4"
    for segment in segments(tmp_path):
        for _ in entries_in(segment.path):  # each is whole
            pass


@pytest.mark.usefixtures("at_once")
def test_a_full_disk_takes_the_oldest(
    keep: Callable[..., Keeping], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        one = keep()
        one.second()
        one.close()
    real = RecordingFile.write

    def write(file: RecordingFile, data: bytes) -> None:
        if len(segments(tmp_path)) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, data)

    monkeypatch.setattr(RecordingFile, "write", write)
    keeping = keep()
    keeping.second()
    keeping.close()
    assert [one.number for one in segments(tmp_path)] == [3, 4]
    assert keeping.store.state.unrecorded == 0
    assert keeping.said == []


def test_a_disk_that_fails_now_and_then_is_told_once(
    keep: Callable[..., Keeping], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "FIRST_PAUSE", 0.0)
    disk = Disk(monkeypatch)
    keeping = keep()
    for _ in range(10):
        disk.failing["write"] = errno.ENOSPC
        keeping.second()
        keeping.written()
        disk.failing.clear()
        keeping.second()
        keeping.written()
    keeping.close()
    assert len(keeping.said) == 1, keeping.said
    assert keeping.store.state.failures > 5


def test_a_slow_disk_holds_nobody_up(
    keep: Callable[..., Keeping], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "MAX_PENDING", 1 << 20)
    gate, real = threading.Event(), RecordingFile.write

    def write(file: RecordingFile, data: bytes) -> None:
        assert gate.wait(60)
        real(file, data)

    monkeypatch.setattr(RecordingFile, "write", write)
    keeping = keep()
    began = time.monotonic()
    for _ in range(100):
        keeping.second(100_000)
    assert time.monotonic() - began < 30
    assert keeping.store._disk._pending <= 1 << 20
    gate.set()
    keeping.close()
    state = keeping.store.state
    assert 0 < state.unrecorded < 300
    assert sum("the disk is too slow" in words for words in keeping.said) == 1


def test_a_disk_that_takes_long_to_be_forced(
    keep: Callable[..., Keeping], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes meanwhile is written, so that a kill does not take it."""
    gate, real = threading.Event(), RecordingFile.sync

    def sync(file: RecordingFile) -> None:
        assert gate.wait(60)
        real(file)

    monkeypatch.setattr(RecordingFile, "sync", sync)
    keeping = keep()
    for number in range(3):
        keeping.tell(death(number))
        (segment,) = wait_for("it to begin", lambda: segments(tmp_path))
        wait_for("it to be written", lambda: len(asked(tmp_path)) == number + 1)  # noqa: B023
        there = [told for _, one in entries_in(segment.path) for told in one.verdicts]
        assert len(there) == number + 1
    gate.set()
    keeping.close()
    assert keeping.store.state.unrecorded == 0


@pytest.mark.usefixtures("at_once")
def test_an_index_that_fails_is_mended_from_the_recordings(
    keep: Callable[..., Keeping], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping = keep()
    keeping.tell(death(1))
    keeping.written()
    real, failing = Index.take, [True]

    def take(index: Index, *arguments: Any) -> None:
        if failing[0]:
            raise sqlite3.OperationalError("disk I/O error")
        real(index, *arguments)

    monkeypatch.setattr(Index, "take", take)
    keeping.tell(death(2))
    keeping.written()
    failing[0] = False
    keeping.tell(death(3))
    keeping.close()
    assert asked(tmp_path) == ["web-1", "web-2", "web-3"]
    assert sum("the index cannot be written" in words for words in keeping.said) == 1
    assert keeping.store.state.unrecorded == 0


@pytest.mark.parametrize("hours", [-3, 3, -24 * 365, 24 * 365])
def test_a_clock_that_is_set(
    keep: Callable[..., Keeping], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """Times are by the new clock from then on, and nothing is removed for it."""
    keeping = keep()
    keeping.tell(death(1))
    keeping.written()
    offset = Clock().offset_ns + hours * 3600 * NS
    monkeypatch.setattr(module, "Clock", lambda: Clock(offset))
    keeping.second()
    keeping.second()
    keeping.tell(death(2))
    keeping.close()
    assert keeping.said == [
        f"ktrace: the clock was set by {hours * 3600:+d} s; times are by the new one"
    ]
    assert keeping.clock.offset_ns == offset
    assert [one.number for one in segments(tmp_path)] == [1, 2]
    assert asked(tmp_path) == ["web-1", "web-2"]


def test_two_agents(tmp_path: Path) -> None:
    first = Lock(tmp_path)
    with pytest.raises(KtraceError, match=f"process {os.getpid()}, already serves"):
        Lock(tmp_path)
    assert holder(tmp_path) == os.getpid()
    first.release()
    assert holder(tmp_path) is None
    Lock(tmp_path).release()


def test_a_full_disk_is_no_reason_not_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock holds all the same, and who has it is not known."""
    real = os.pwrite

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    first = Lock(tmp_path)
    monkeypatch.setattr(os, "pwrite", real)
    with pytest.raises(KtraceError, match=r"another agent, process \?, already serves"):
        Lock(tmp_path)
    assert holder(tmp_path) == 0
    first.release()
    assert holder(tmp_path) is None


def test_files_are_root_s_alone(keep: Callable[..., Keeping], tmp_path: Path) -> None:
    keeping = keep()
    keeping.second()
    keeping.written()
    Lock(tmp_path / "made").release()
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o700
    for file in tmp_path.iterdir():
        if file.is_file():
            assert file.stat().st_mode & 0o077 == 0, file
    keeping.close()


def test_a_file_system_that_is_read_only(
    keep: Callable[..., Keeping], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can still be asked."""
    keeping = keep()
    keeping.tell(death(1))
    keeping.close()

    def refuse(path: Path) -> Index:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(query, "Index", lambda path: refuse(path) if path else Index(None))
    assert asked(tmp_path) == ["web-1"]


def test_a_directory_that_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is moved away, and then a link leads to another one: what is there stays as it is."""
    monkeypatch.setattr(disk_module, "FIRST_PAUSE", 0.0)
    place, other = tmp_path / "history", tmp_path / "other"
    place.mkdir()
    keeping = Keeping(place)
    keeping.tell(death(1))
    keeping.written()
    place.rename(tmp_path / "old")
    keeping.now += 3600 * NS
    keeping.second()
    keeping.written()
    assert keeping.said == [
        "ktrace: the history has a gap: No such file or directory; tracing goes on"
    ]
    other.mkdir()
    (other / "precious").write_text("mine")
    place.symlink_to(other)
    keeping.second()
    keeping.tell(death(2))
    keeping.close()
    assert (other / "precious").read_text() == "mine"
    assert asked(place) == ["web-2"]
    assert {*asked(tmp_path / "old")} == {"web-1", "web-2"}, "its open index takes both"
    assert keeping.store.state.unrecorded == 3


def test_no_history(tmp_path: Path) -> None:
    assert not exists(tmp_path)
    assert not exists(tmp_path / "none")
    with pytest.raises(KtraceError):
        History(tmp_path / "none")
    with pytest.raises(Damaged):
        (tmp_path / INDEX).write_bytes(b"nonsense" * 1000)
        Index(tmp_path / INDEX)


def test_parts_are_small_enough_to_go_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, Clock(), Bounds(1, 1 << 30, 1.0), print)
    assert store._part == (1 << 30) // 16
    assert Store(tmp_path, Clock(), Bounds(1, 2 << 20, 1.0), print)._part == MIN_PART
    monkeypatch.setattr(module, "MAX_PART", 1 << 20)
    assert Store(tmp_path, Clock(), Bounds(1, 1 << 30, 1.0), print)._part == 1 << 20
    assert Store(tmp_path, Clock(), Bounds(1, 1000, 1.0), print)._part == 250
    assert Segment(2, 1, tmp_path) > Segment(1, 1, tmp_path)
