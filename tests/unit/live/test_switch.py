# SPDX-License-Identifier: Apache-2.0
"""Recordings that are started and stopped while a session runs: each can be replayed by itself."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.live.world import RECORDING
from tracer import probes
from tracer.live.switch import RecordingSwitch
from tracer.model.errors import KtraceError
from tracer.model.event import Clock, Event
from tracer.model.selection import Selection
from tracer.model.turn import Turn
from tracer.recording import format as layout
from tracer.recording import recorder as recorder_module
from tracer.recording.files import RecordingFile
from tracer.recording.reader import Reader
from tracer.recording.recorder import Recorder
from tracer.recording.replay import ReplaySource
from tracer.session.session import Session


class Seen:
    def __init__(self) -> None:
        self.events: list[tuple[str, int, str | None]] = []

    def event(self, event: Event) -> None:
        pod = event.place.pod if event.place else None
        self.events.append((event.kind, event.boot_ns, pod.name if pod else None))

    def flush(self) -> None: ...


def replayed(
    path: Path,
    switch: RecordingSwitch | None = None,
    at: dict[int, Callable[[], None]] | None = None,
) -> list[tuple[str, int, str | None]]:
    """What a replay shows; before its turns of these numbers something is done."""
    seen = Seen()
    with Reader(path) as reader:
        known = [probes.get(name) for name in probes.names()]
        source = ReplaySource(reader)
        session = Session(source, known, Selection(everything=True), seen, Clock(0))
        failures: list[OSError] = []
        recorder = Recorder(switch, reader.metadata, known, failures.append) if switch else None
        session.recorder = recorder
        turns: list[Turn] = []
        while not turns or not turns[-1].last:
            (at or {}).get(len(turns), lambda: None)()
            turns.append(source.turn(session.waiting, 1.0))
            session.take(turns[-1])
        if recorder:
            recorder.close()
            assert not failures
    return seen.events


EVERYTHING = replayed(RECORDING)


def test_from_the_beginning(tmp_path: Path) -> None:
    file = tmp_path / "all.ktrace"
    switch = RecordingSwitch(pytest.fail)
    switch.start(file)
    assert replayed(RECORDING, switch) == EVERYTHING
    assert replayed(file) == EVERYTHING
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("begin", "events"), [(0, 30), (1, 30), (2, 30), (3, 30), (4, 7), (5, 7), (6, 1)]
)
def test_from_somewhere_on(tmp_path: Path, begin: int, events: int) -> None:
    """What was described before is in it: pods have their names. The first 23 events are in the
    turn before the fourth."""
    file = tmp_path / "late.ktrace"
    switch = RecordingSwitch(pytest.fail)
    replayed(RECORDING, switch, {begin: lambda: switch.start(file)})
    assert replayed(file) == EVERYTHING[-events:]


def test_nothing_is_written_unless_wanted(tmp_path: Path) -> None:
    switch = RecordingSwitch(pytest.fail)
    replayed(RECORDING, switch)
    assert switch.path is None
    assert not list(tmp_path.iterdir())


def test_nothing_is_made_that_nobody_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are compressed for a recording only. One that begins later is whole nevertheless."""
    made: list[int] = []
    make = layout.events_payload

    def payload(*arguments: Any) -> bytes:
        made.append(len(made))
        return make(*arguments)

    monkeypatch.setattr(recorder_module, "events_payload", payload)
    file = tmp_path / "late.ktrace"
    switch = RecordingSwitch(pytest.fail)
    before: list[int] = []

    def start() -> None:
        before.extend(made)
        switch.start(file)

    replayed(RECORDING, switch, {4: start})
    assert (before, bool(made)) == ([], True)
    assert replayed(file) == EVERYTHING[-7:]


def test_one_after_the_other(tmp_path: Path) -> None:
    first, second = tmp_path / "1.ktrace", tmp_path / "2.ktrace"
    switch = RecordingSwitch(pytest.fail)
    switch.start(first)

    def again() -> None:
        switch.stop()
        with pytest.raises(KtraceError, match="still being written"):
            switch.start(second)

    replayed(RECORDING, switch, {3: again})
    switch.start(second)
    switch.close(b"")
    for file in (first, second):
        with Reader(file) as reader:
            list(reader.blocks())
    assert replayed(first) == EVERYTHING[: len(replayed(first))] != []


def test_a_recording_in_which_nothing_happened(tmp_path: Path) -> None:
    file = tmp_path / "quiet.ktrace"
    switch = RecordingSwitch(pytest.fail)
    turns = len(EVERYTHING)
    replayed(RECORDING, switch, {turns: lambda: None})
    switch.start(file)
    switch.close(b"")
    assert replayed(file) == []


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said once, and the session goes on."""
    told: list[str] = []
    switch = RecordingSwitch(told.append)
    switch.start(tmp_path / "full.ktrace")

    def full(self: RecordingFile, blocks: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RecordingFile, "write", full)
    assert replayed(RECORDING, switch) == EVERYTHING
    assert told == ["the recording ends here: No space left on device"]
    assert switch.path is None


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    switch = RecordingSwitch(pytest.fail)
    with pytest.raises(KtraceError, match="cannot be written"):
        switch.start(tmp_path / "missing" / "x.ktrace")
    assert switch.path is None
