# SPDX-License-Identifier: Apache-2.0
"""A piece of a history, and the commands that ask it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.ktrace import run
from tests.support.wait import wait_for
from tests.unit.agent.test_history import NOW, Keeping, death, told
from tests.unit.recording.test_recording import (
    BEGAN,
    PROBES,
    SECOND,
    Script,
    fail,
    metadata,
    replay,
    shown,
)
from tests.unit.recording.test_recording_files import busy
from tracer.agent.history import store as module
from tracer.agent.history.bounds import Bounds
from tracer.agent.history.cut import cut
from tracer.agent.history.segments import segments
from tracer.agent.history.store import Store
from tracer.agent.item import Life
from tracer.kubectl.pieces import Pieces
from tracer.model.event import Clock
from tracer.recording.files import Stream
from tracer.recording.reader import Reader
from tracer.recording.recorder import Recorder

OFFSET = metadata().clock_offset_ns
COUNT = 60


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """A history of several recordings; returns what the session showed."""
    monkeypatch.setattr(module, "MIN_PART", 0)
    monkeypatch.setattr(module, "MAX_PART", 2000)
    monkeypatch.setattr(module, "Clock", lambda: Clock(OFFSET))
    clock = Clock(OFFSET)
    store = Store(tmp_path / "history", clock, Bounds(1e9, 1 << 30, 1.0), print)
    recorder = Recorder(store, metadata(), PROBES, fail, clock)
    live = shown(Script(busy(COUNT)), metadata(), tmp_path / "live", recorder)
    recorder.close()
    store.finish(60)
    assert len(segments(tmp_path / "history")) > 3
    return live.splitlines()


@pytest.fixture(autouse=True)
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "history"
    path.mkdir()
    return path


def utc(seconds: float) -> int:
    return BEGAN + OFFSET + int(seconds * SECOND)


def times(lines: list[bytes]) -> list[int]:
    return [orjson.loads(line)["boot_ns"] for line in lines]


@pytest.mark.parametrize(("first", "last"), [(10, 20), (0, 100), (30, 30), (59, 70)])
def test_a_piece_shows_what_was_shown(
    lines: list[bytes], tmp_path: Path, directory: Path, first: int, last: int
) -> None:
    (piece,) = cut(directory, utc(first), utc(last), tmp_path / "piece.ktrace")
    assert piece.stat().st_mode & 0o777 == 0o600
    again = replay(piece).splitlines()
    assert {*again} <= {*lines}, "to the byte"
    begin, end = BEGAN + first * SECOND, BEGAN + last * SECOND
    assert {line for line in lines if begin <= orjson.loads(line)["boot_ns"] <= end} <= {*again}
    assert begin - 2 * SECOND <= min(times(again)) <= max(times(again)) <= end + 2 * SECOND


def _another_session(tmp_path: Path, directory: Path) -> None:
    clock = Clock(OFFSET)
    store = Store(directory, clock, Bounds(1e9, 1 << 30, 1.0), print)
    recorder = Recorder(store, metadata(), PROBES, fail, clock)
    shown(Script(busy(5)), metadata(), tmp_path / "live", recorder)
    recorder.close()
    store.finish(60)


def test_nothing_there(lines: list[bytes], tmp_path: Path, directory: Path) -> None:
    assert cut(directory, utc(1000), utc(2000), tmp_path / "piece.ktrace") == []
    assert not (tmp_path / "piece.ktrace").exists()


def test_each_session_gives_a_piece(lines: list[bytes], tmp_path: Path, directory: Path) -> None:
    _another_session(tmp_path, directory)
    pieces = cut(directory, utc(0), utc(100), tmp_path / "piece.ktrace")
    assert [piece.name for piece in pieces] == ["piece.ktrace", "piece-2.ktrace"]
    assert [len(replay(piece).splitlines()) for piece in pieces] == [len(lines), 10]


def test_pieces_one_behind_the_other(lines: list[bytes], tmp_path: Path, directory: Path) -> None:
    """On standard output of a pod, from where `kubectl ktrace` makes files of them again."""
    _another_session(tmp_path, directory)
    stream = tmp_path / "stream"
    with stream.open("wb") as out:
        cut(
            *(directory, utc(0), utc(100), Path("-")),
            destination=lambda _: Stream(out.fileno()),
        )
    pieces = Pieces(["node"], tmp_path / "piece.ktrace")
    pieces.take("node", stream.read_bytes())
    pieces.gone("node")
    assert [len(replay(one).splitlines()) for one in pieces.paths["node"]] == [len(lines), 10]


def test_a_damaged_recording_costs_only_itself(
    lines: list[bytes], tmp_path: Path, directory: Path
) -> None:
    segments(directory)[1].path.write_bytes(b"nonsense")
    told: list[str] = []
    (piece,) = cut(directory, utc(0), utc(100), tmp_path / "piece.ktrace", told.append)
    (said,) = told
    assert said.startswith(f"{segments(directory)[1].path}: ")
    again = replay(piece).splitlines()
    assert {*again} < {*lines}
    assert len(again) > len(lines) // 2


def test_behind_a_damage_the_next_recording_goes_on(
    lines: list[bytes], tmp_path: Path, directory: Path
) -> None:
    path = segments(directory)[1].path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    told: list[str] = []
    (piece,) = cut(directory, utc(0), utc(100), tmp_path / "piece.ktrace", told.append)
    assert len(told) == 1
    again = replay(piece).splitlines()
    assert {*again} < {*lines}
    assert again[-1] == lines[-1]


def test_a_session_of_which_nothing_can_be_read(
    lines: list[bytes], tmp_path: Path, directory: Path
) -> None:
    for one in segments(directory):
        one.path.write_bytes(b"nonsense")
    told: list[str] = []
    assert cut(directory, utc(0), utc(100), tmp_path / "piece.ktrace", told.append) == []
    assert len(told) == len(segments(directory))


# The commands


@pytest.fixture
def kept(directory: Path) -> Path:
    keeping = Keeping(directory)
    keeping.tell(death(1, NOW), death(2, NOW + 1), told(Life("uid-3", "shop", "evil\x1b[31m")))
    keeping.close()
    return directory


def asked(kept: Path, *words: str) -> Any:
    return run("history", *words, "--dir", str(kept))


def test_the_table(kept: Path) -> None:
    lines = asked(kept).stdout.splitlines()
    assert lines[0].split() == ["TIME", "POD", "CONTAINER", "CODE", "WHAT", "SURE"]
    assert [line.split()[1] for line in lines[1:]] == [
        *("shop/web-1", "shop/evil\\x1b[31m", "shop/web-2"),
    ]
    assert "137" in lines[1]
    (line,) = asked(kept, "shop/web-2", "--no-headers", "-o", "wide").stdout.splitlines()
    assert f"{2:064x}" in line
    assert asked(kept, "--since", "1h", "--no-headers").stdout == ""


def test_json(kept: Path) -> None:
    (row,) = [orjson.loads(line) for line in asked(kept, "web-1", "-o", "json").stdout.splitlines()]
    assert (row["pod"], row["running"], row["exit_code"]) == ("web-1", False, 137)
    assert (row["verdict"], row["recording"]) == ("killed_from_host", 1)
    assert row["offset"] > 0
    assert row["is_end"] is True
    assert row["time"] == row["ended"] == Clock(0).iso(NOW)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["web-9"], 5, "the history knows nothing of 'web-9'"),
        (["-o", "xml"], 2, "-o 'xml' is none of"),
        (["--cut", "03:10..03:14"], 2, "--cut needs a file"),
        (["--cut", "03:10", "-o", "x"], 2, "is no span"),
        (["--cut", "3..4", "-o", "x"], 2, "is no time"),
        (["--cut", "2026-01-02T00:00:00Z..2026-01-01T00:00:00Z", "-o", "x"], 2, "ends before"),
        (["--cut", "2020-01-01T00:00:00Z..2020-01-01T01:00:00Z", "-o", "x"], 1, "holds nothing"),
    ],
)
def test_wrong_questions(kept: Path, words: list[str], code: int, said: str) -> None:
    failed = asked(kept, *words)
    assert failed.returncode == code
    assert said in failed.stderr


def test_a_piece_on_standard_output(lines: list[bytes], tmp_path: Path, directory: Path) -> None:
    first, last = (Clock(0).iso(utc(second))[:19] + "Z" for second in (0, 100))
    words = ["history", "--cut", f"{first}..{last}", "-o", "-", "--dir", str(directory)]
    with (tmp_path / "out.ktrace").open("wb") as out:
        subprocess.run([sys.executable, "-m", "tracer", *words], stdout=out, check=True)
    assert len(replay(tmp_path / "out.ktrace").splitlines()) == len(lines)


def test_an_end_in_the_middle(lines: list[bytes], tmp_path: Path, directory: Path) -> None:
    """SIGTERM while it writes: no traceback, the history is as it was, and the piece says that it
    is not whole."""
    before = {segment.path: segment.path.read_bytes() for segment in segments(directory)}
    first, last = (Clock(0).iso(utc(second))[:19] + "Z" for second in (0, 100))
    words = ["history", "--cut", f"{first}..{last}", "-o", "-", "--dir", str(directory)]
    ours, theirs = os.pipe()
    size = fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
    command = [sys.executable, "-m", "tracer", *words]
    writer = subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    try:
        wait_for("a full pipe", lambda: _waiting(ours) > size // 2)
        writer.terminate()
        _, said = writer.communicate(timeout=60)
        piece = tmp_path / "piece.ktrace"
        with os.fdopen(ours, "rb") as pipe:
            piece.write_bytes(pipe.read())
    finally:
        writer.kill()
        writer.wait()
    assert writer.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert b"Traceback" not in said
    assert {segment.path: segment.path.read_bytes() for segment in segments(directory)} == before
    with Reader(piece) as reader:
        shown = sum(len(turn.parts) for turn in reader.turns())
        assert not reader.ended
    assert shown < len(lines)


def _waiting(pipe: int) -> int:
    """The bytes that nobody has read yet."""
    count = bytearray(4)
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return int.from_bytes(count, sys.byteorder)


def test_a_span_that_ends_in_a_moment(kept: Path, tmp_path: Path) -> None:
    """`..03:14` may be said at 03:13, and means today."""
    out = tmp_path / "incident.ktrace"
    end = datetime.now(timezone.utc) + timedelta(minutes=5)
    span = f"{end - timedelta(hours=2):%H:%M:%S}..{end:%H:%M:%S}"
    failed = asked(kept, "--cut", span, "-o", str(out))
    assert f"and {end:%Y-%m-%dT%H:%M:%S}Z" in failed.stderr, "it holds nothing of that time"


def test_nothing_to_tell(kept: Path) -> None:
    told = asked(kept, "--since", "1h")
    assert told.returncode == 0
    assert told.stderr == "ktrace: the history tells of nothing that ended or was hurt\n"
    assert asked(kept, "--since", "1h", "-o", "json").stderr == "", "of many nodes it says little"


@pytest.mark.parametrize("words", [(), ("--cut", "03:10..03:14", "-o", "x.ktrace")])
def test_nowhere(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("nothing of ours")
    (tmp_path / "file").write_text("no directory")
    for place in ("none", "etc"):
        failed = asked(tmp_path / place, *words)
        assert failed.returncode == 1
        assert failed.stderr.startswith(f"ktrace: there is no history in {tmp_path / place}\n")
        assert "only root" not in failed.stderr
    failed = asked(tmp_path / "file", *words)
    assert failed.returncode == 1
    assert f"{tmp_path / 'file'} cannot be read: Not a directory" in failed.stderr


def test_why_answers_at_once(kept: Path) -> None:
    answer = run("why", "shop/web-1", "--dir", str(kept))
    assert answer.returncode == 0
    assert answer.stdout == death(1).text + "\n"
    assert answer.stderr.startswith("ktrace: this was 1 d ago, says the agent's history; --next")
    answer = run("why", "web-1", "--dir", str(kept), "-o", "json")
    assert orjson.loads(answer.stdout)["verdict"] == "killed_from_host"
    hostile = run("why", "evil*", "--dir", str(kept))
    assert "\x1b" not in hostile.stdout


def test_a_damaged_index_is_said(kept: Path) -> None:
    (kept / "index.db").write_bytes(b"nonsense" * 10_000)
    told = asked(kept, "web-1", "--no-headers")
    assert "web-1" in told.stdout
    assert told.stderr == (
        "ktrace: the index cannot be used: it is damaged: file is not a database;"
        " this is from the recordings\n"
    )
    told = run("why", "web-1", "--dir", str(kept))
    assert "it is damaged" in told.stderr and "says the agent's history" in told.stderr
