# SPDX-License-Identifier: Apache-2.0
"""Where recordings are written to: safely, within bounds, and again after something went wrong."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.growth import growth
from tests.unit import records
from tests.unit.recording.test_recording import (
    BEGAN,
    NAMES,
    PROBES,
    SECOND,
    Script,
    context,
    exited,
    fail,
    incident,
    metadata,
    part,
    record,
    replay,
    schemas,
    shown,
    signal,
)
from tests.unit.records import argv, cgroup_path
from tracer.model.errors import KtraceError
from tracer.model.event import Clock, Event
from tracer.model.names import Names
from tracer.model.selection import Selection
from tracer.model.turn import Turn
from tracer.recording import files, flight
from tracer.recording.context import BOUNDS, Context
from tracer.recording.files import (
    Destination,
    Full,
    RecordingFile,
    RotatingFiles,
    SingleFile,
)
from tracer.recording.flight import FlightRecorder, Trigger
from tracer.recording.overview import overview
from tracer.recording.reader import Reader
from tracer.recording.recorder import Recorder
from tracer.recording.replay import ReplaySource
from tracer.session.session import Session

# Files


def test_a_recording_is_for_its_owner_only(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("older and longer")
    (tmp_path / "x").chmod(0o666)
    file = RecordingFile(tmp_path / "x")
    file.write(b"new")
    file.close()
    assert (tmp_path / "x").read_bytes() == b"new"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600


def test_nothing_is_written_through_a_link_or_into_what_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "symbolic").symlink_to(victim)
    (tmp_path / "other").write_text("precious")
    (tmp_path / "hard").hardlink_to(tmp_path / "other")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("symbolic", "hard", "dangling", "fifo", "folder", "no/such/folder"):
        with pytest.raises(KtraceError, match="cannot be written") as raised:
            RecordingFile(tmp_path / name)
        assert raised.value.remedy
    assert victim.read_text() == (tmp_path / "other").read_text() == "precious"
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "theirs").write_text("theirs")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(KtraceError, match="not a file of your own"):
        RecordingFile(tmp_path / "theirs")


def test_half_a_block_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RecordingFile(tmp_path / "x")
    file.write(b"whole")
    real, calls = os.write, [0]

    def write(fd: int, data: bytes) -> int:
        calls[0] += 1
        if calls[0] == 1:
            return real(fd, data[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space"):
        file.write(b"half")
    assert (tmp_path / "x").read_bytes() == b"whole"


def failing(file: Path, at: int) -> tuple[list[str], list[bytes], Recorder]:
    """A session whose recording is deleted before its turn `at`. What was said, what was shown."""
    said: list[str] = []
    recorder = Recorder(
        *(SingleFile(file), metadata(), PROBES), lambda error: said.append(str(error.strerror))
    )

    class Deleting(Script):
        def turn(self, waiting: bool, patience: float) -> Turn:
            nonlocal at
            at -= 1
            if at == 0:
                file.unlink()
            return super().turn(waiting, patience)

    lines = shown(Deleting(incident()), metadata(), file.with_suffix(".live"), recorder)
    recorder.close()
    return said, lines.splitlines(), recorder


@pytest.mark.parametrize("make", [SingleFile, lambda path: RotatingFiles(path, 6000, 2)])
def test_what_does_not_begin_leaves_an_older_recording(
    make: Callable[[Path], Destination], tmp_path: Path
) -> None:
    """As when the pod or a privilege is missing."""
    older = tmp_path / "x"
    record(incident(), older)
    before = older.read_bytes()
    out = make(older)
    assert older.read_bytes() == before
    out.begin(lambda now: b"begin", 0)
    assert older.read_bytes() == b"begin"
    make(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_recording_that_fails_is_told_once_and_counted(tmp_path: Path) -> None:
    whole = record(incident(), tmp_path / "whole").splitlines()
    said, lines, recorder = failing(tmp_path / "x", 2)
    assert said == ["the file was deleted"]
    assert lines == whole, "what is shown does not depend on the recording"
    assert (recorder.events, recorder.unrecorded) == (0, 11)


def test_a_recording_stops_at_its_size(tmp_path: Path) -> None:
    said: list[OSError] = []
    out = SingleFile(tmp_path / "x", max_size=3000)
    recorder = Recorder(out, metadata(), PROBES, said.append)
    turns = [Turn(BEGAN + n * SECOND, [part("signal", signal(BEGAN + n))]) for n in range(100)]
    shown(Script([*incident()[:1], *turns, *incident()[-1:]]), metadata(), tmp_path / "y", recorder)
    recorder.close()
    assert [type(error) for error in said] == [Full]
    assert recorder.events + recorder.unrecorded == 100
    assert 2500 < (tmp_path / "x").stat().st_size < 3100
    with Reader(tmp_path / "x") as reader:
        seen = overview(reader)
        assert reader.ended
    assert sum(seen.counts.values()) == recorder.events
    assert seen.unrecorded == recorder.unrecorded


def busy(count: int) -> list[Turn]:
    """One event a second, after everything that it refers to."""
    turns = [Turn(BEGAN, context()), Turn(BEGAN + 1, names=NAMES, answered=[5])]
    for n in range(1, count + 1):
        at = BEGAN + n * SECOND
        turns.append(Turn(at, [part("signal", signal(at)), part("exit", exited(at))]))
    return [*turns, Turn(BEGAN + (count + 1) * SECOND, last=True)]


def events_of(file: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in replay(file).splitlines()]


def test_rotated_files_can_each_be_replayed_alone(tmp_path: Path) -> None:
    path = tmp_path / "x"
    recorder = Recorder(RotatingFiles(path, 6000, 3), metadata(), PROBES, fail)
    live = shown(Script(busy(200)), metadata(), tmp_path / "live", recorder).splitlines()
    recorder.close()
    present = sorted(p.name for p in tmp_path.glob("x*"))
    assert present == ["x", "x.1", "x.2"]
    lines: list[bytes] = []
    for name in reversed(present):
        file = tmp_path / name
        assert file.stat().st_size <= 6000 + 200
        assert file.stat().st_mode & 0o777 == 0o600
        with Reader(file) as reader:
            seen = overview(reader)
            assert reader.ended
            assert seen.names.pods == NAMES.pods
            assert seen.first is not None
            assert reader.metadata.began <= seen.first + SECOND
        lines += replay(file).splitlines()
    assert 50 < len(lines) < len(live)
    assert lines == live[-len(lines) :], "with names, processes and places, and nothing missing"


def test_a_rotated_file_knows_when_earlier_cgroups_ended(tmp_path: Path) -> None:
    """Else what is gone would seem to live on in it."""
    recorder = Recorder(RotatingFiles(tmp_path / "x", 6000, 2), metadata(), PROBES, fail)
    turns = busy(200)
    ended = records.pack("cgroup_end", time=BEGAN + 7, cgroup=5)
    turns.insert(2, Turn(BEGAN + 8, [part("cgroup_end", ended)]))
    shown(Script(turns), metadata(), tmp_path / "live", recorder)
    recorder.close()
    with Reader(tmp_path / "x") as reader:
        assert reader.metadata.began > BEGAN + 8
        session = Session(ReplaySource(reader), PROBES, Selection(), None, Clock(0))
        session.run()
    place = session.resolver.place(5)
    assert place is not None
    assert place.ended == BEGAN + 7


def test_a_frugal_context_keeps_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """But all of what exists."""
    monkeypatch.setitem(BOUNDS, "process", 60_000)
    counts = []
    for frugal in (False, True):
        kept = Context(schemas(), PROBES, frugal=frugal)
        for number in range(1, 400):
            kept.add(part("cgroup", records.pack("cgroup", cgroup=number)))
            kept.add(part("process", records.pack("process", process=number)))
        told: dict[str, int] = {}
        for turn in kept.turns(1, Names()):
            for one in turn.parts:
                name = schemas()[one.kind].name
                told[name] = told.get(name, 0) + one.count
        counts.append((told["cgroup"], told["process"]))
    (every, whole), (all_too, half) = counts
    assert every == all_too == 399
    assert 0.4 < half / whole < 0.6


def test_of_cgroups_that_are_gone_only_the_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """With their ends: without it one would seem to live on. The living stay, however old."""
    monkeypatch.setitem(BOUNDS, "cgroup_end", 1000)
    kept = Context(schemas(), PROBES)
    kept.add(part("cgroup", records.pack("cgroup", cgroup=1, time=1)))
    for number in range(2, 12):
        kept.add(part("cgroup", records.pack("cgroup", cgroup=number, time=number)))
        kept.add(part("cgroup_end", records.pack("cgroup_end", cgroup=number, time=100 + number)))
    told: dict[str, set[int]] = {}
    for turn in kept.turns(200, Names()):
        for one in turn.parts:
            schema = schemas()[one.kind]
            told.setdefault(schema.name, set()).update(r.cgroup for r in schema.cells(one.cells))
    gone = told["cgroup_end"]
    assert gone == set(range(min(gone), 12)) and 1 < len(gone) < 10
    assert told["cgroup"] == {1, *gone}


def test_a_process_that_events_refer_to_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel side describes it once, however many come after it."""
    monkeypatch.setitem(BOUNDS, "process", 5000)
    recorder = Recorder(RotatingFiles(tmp_path / "x", 6000, 2), metadata(), PROBES, fail)
    turns: list[Turn] = []
    for turn in busy(200):
        number = 100 + len(turns)
        other = part("process", records.pack("process", process=number, pid=number))
        turns.append(dataclasses.replace(turn, parts=[*turn.parts, other]))
    shown(Script(turns), metadata(), tmp_path / "live", recorder)
    recorder.close()
    events = events_of(tmp_path / "x")
    assert events
    comms = {str(e["target"]["comm"]) for e in events if e["kind"] == "signal"}
    assert comms == {"nginx"}


def test_context_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever pods there were: the last ones, and those that still are there."""
    monkeypatch.setitem(BOUNDS, "cgroup", 100_000)
    monkeypatch.setitem(BOUNDS, "cgroup_end", 20_000)
    monkeypatch.setitem(BOUNDS, "process", 100_000)
    context = Context(metadata().schemas, PROBES)
    context.add(part("cgroup", records.pack("cgroup", cgroup=1, **cgroup_path("/living"))))
    with growth() as grown:
        for number in range(2, 2000):
            path = cgroup_path(f"/kubepods/pod{number:032x}/{number:064x}")
            context.add(part("cgroup", records.pack("cgroup", cgroup=number, **path)))
            words = argv(*(f"{number * n}" for n in range(100)))
            context.add(part("process", records.pack("process", process=number, **words)))
            context.add(part("cgroup_end", records.pack("cgroup_end", cgroup=number)))
    assert grown() < 300_000
    kept: dict[str, list[int]] = {"cgroup": [], "cgroup_end": [], "process": []}
    for turn in context.turns(1, Names()):
        for one in turn.parts:
            schema = metadata().schemas[one.kind]
            kept[schema.name] += [record.cgroup for record in schema.cells(one.cells)]
    assert kept["cgroup"] == [1, *kept["cgroup_end"]]
    assert 20 < len(kept["cgroup_end"]) < 200
    assert kept["cgroup_end"][-1] == 1999


# The flight recorder


class Flight:
    """A flight recorder with events that somebody made."""

    def __init__(self, folder: Path, **changes: int) -> None:
        options = {"seconds": 10, "after": 3, "cool_down": 20, "max_size": 1 << 20} | changes
        self.said: list[str] = []
        self.folder = folder
        self.out = FlightRecorder(folder, Clock(0), self.said.append, **options)
        self.recorder = Recorder(self.out, metadata(), PROBES, fail)

    def run(self, turns: list[Turn], fire: dict[int, str]) -> None:
        """`fire`: what happens just before which second."""

        class Firing(Script):
            def turn(self, waiting: bool, patience: float) -> Turn:
                turn = super().turn(waiting, patience)
                if why := fire.pop((turn.now - BEGAN) // SECOND, None):
                    flying.out.fire(why)
                return turn

        flying = self
        shown(Firing(turns), metadata(), self.folder / "live", self.recorder)
        self.recorder.close()

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.glob("flight-*"))


def seconds_of(file: Path) -> list[int]:
    times = [int(str(e["boot_ns"])) for e in events_of(file) if e["kind"] == "signal"]
    return [(at - BEGAN) // SECOND for at in times]


def test_a_flight_has_the_minutes_before_and_some_after(tmp_path: Path) -> None:
    flying = Flight(tmp_path)
    flying.run(busy(60), {30: "oom"})
    (file,) = flying.files
    assert file.name == "flight-19700101T000035Z-oom.ktrace"
    assert flying.said == [f"oom: recording to {file}"]
    seconds = seconds_of(file)
    assert seconds == list(range(seconds[0], seconds[-1] + 1))
    assert 19 <= seconds[0] <= 21
    assert 32 <= seconds[-1] <= 34
    whole = (tmp_path / "live").read_bytes().splitlines()
    assert all(line in whole for line in replay(file).splitlines())
    with Reader(file) as reader:
        list(reader.blocks())
        assert reader.ended
        assert (reader.metadata.began - BEGAN) // SECOND in (seconds[0] - 1, seconds[0])


def test_who_asks_in_the_cool_down_is_answered(tmp_path: Path) -> None:
    flying = Flight(tmp_path)
    flying.run(busy(34), {12: "oom", 20: "oom", 21: "SIGUSR1"})
    (told,) = [words for words in flying.said if "cool-down" in words]
    assert told.startswith("SIGUSR1: no recording now")
    assert len(flying.files) == 1


def test_a_flight_needs_time_to_cool_down(tmp_path: Path) -> None:
    flying = Flight(tmp_path)
    flying.run(busy(100), {30: "one", 32: "still one", 40: "too early", 60: "SIGUSR1"})
    assert [file.name.split("-")[-1] for file in flying.files] == ["one.ktrace", "SIGUSR1.ktrace"]


def test_what_names_a_file_is_harmless(tmp_path: Path) -> None:
    flying = Flight(tmp_path)
    flying.run(busy(9), {3: "../../etc/passwd == '\x1b[31m' " + "x" * 200})
    (file,) = flying.files
    assert file.parent == tmp_path
    assert len(file.name) < 80


def test_flights_take_no_more_than_they_may(tmp_path: Path) -> None:
    flying = Flight(tmp_path, max_size=8000, cool_down=0)
    flying.run(busy(400), dict.fromkeys(range(20, 400, 20), "x"))
    assert 1 <= len(flying.files) < 5
    assert sum(file.stat().st_size for file in flying.files) <= 8000 + 500
    assert seconds_of(flying.files[-1])[-1] > 360, "the newest are kept"


def test_a_flight_ends_also_when_nothing_more_happens(tmp_path: Path) -> None:
    flying = Flight(tmp_path)
    quiet = [Turn(BEGAN + n * SECOND) for n in range(30, 60)]
    flying.run([*busy(20)[:-1], *quiet, Turn(BEGAN + 61 * SECOND, last=True)], {20: "x"})
    with Reader(flying.files[0]) as reader:
        list(reader.blocks())
        assert reader.ended


def test_a_flight_that_cannot_be_written_does_not_end_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [True]

    def create(path: Path) -> RecordingFile:
        if broken.pop(0) if broken else False:
            raise KtraceError("full")
        return RecordingFile(path)

    monkeypatch.setattr(flight, "RecordingFile", create)
    flying = Flight(tmp_path, cool_down=0)
    flying.run(busy(60), {20: "one", 40: "two"})
    assert flying.said[0] == "a flight recording could not be written: full"
    assert [file.name.split("-")[-1] for file in flying.files] == ["two.ktrace"]


def test_the_window_is_bounded_in_bytes(tmp_path: Path) -> None:
    window = flight.Window(tmp_path, 1 << 60, max_size=8000)
    for n in range(1000):
        window.add(b"x" * 100, n, n)
    kept = [first for first, _ in window.since(0)]
    assert kept[-1] == 999
    assert 6000 <= 100 * len(kept) <= 8000 + 1200
    assert [first for first, _ in window.since(990)] == list(range(990, 1000))
    assert list(tmp_path.iterdir()) == [], "the files have no names"


def test_a_window_that_was_half_read_goes_on(tmp_path: Path) -> None:
    window = flight.Window(tmp_path, 1 << 60, 1 << 20)
    for n in range(20):
        window.add(bytes([n]) * 10, n, n)
        assert next(window.since(0)) == (0, bytes(10))
    assert list(window.since(0)) == [(n, bytes([n]) * 10) for n in range(20)]


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KtraceError, match="nothing can be written"):
        Flight(tmp_path / "file" / "below")


def test_a_trigger_says_which_condition_held() -> None:
    fired: list[str] = []
    trigger = Trigger(
        {"never": lambda event: False, "exits": lambda event: event.kind == "exit"}, fired.append
    )
    for kind in ("signal", "exit", "oom"):
        trigger.event(Event(kind, 0, None, None, {}))
    trigger.flush()
    assert fired == ["exits"]


def test_context_is_no_event(tmp_path: Path) -> None:
    """Who does not decode counts events, and nothing else."""
    told = metadata()
    session = Session(Script(busy(10)), PROBES, told.selection, None, Clock(0))
    session.recorder = Recorder(SingleFile(tmp_path / "x"), told, PROBES, fail)
    assert session.run().events == 20


def test_a_recording_on_a_pipe_is_what_a_file_has(tmp_path: Path) -> None:
    file = files.SingleFile(tmp_path / "file", 100)
    reading, writing = os.pipe()
    pipe = files.Stream(writing, 100)
    for one in (file, pipe):
        one.begin(lambda now: b"begin", 1)
        one.write(b"x" * 90, 1, 2)
        with pytest.raises(files.Full):
            one.write(b"x" * 6, 2, 3)
        one.close(b"end")
    os.close(writing)
    assert (
        os.read(reading, 1000) == (tmp_path / "file").read_bytes() == b"begin" + b"x" * 90 + b"end"
    )
    os.close(reading)


def test_a_recording_does_not_rotate_on_standard_output() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "tracer", "record", "-o", "-", "--rotate", "2", "--max-size", "1M"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 2
    assert told.stderr.startswith("ktrace: -o - takes one recording")
