# SPDX-License-Identifier: Apache-2.0
"""What of a recording is wanted, and what it holds: the parts, each by itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.unit.recording import test_recording as recordings
from tests.unit.why.world import APP, INIT, World, place_of, process
from tracer.model.errors import BadRecording, UsageError
from tracer.model.event import Event
from tracer.model.names import Names, Pod
from tracer.model.selection import Selection
from tracer.model.turn import Lost, Turn
from tracer.recording import overview as overview_module
from tracer.recording.files import RecordingFile
from tracer.recording.format import Kind, block, file_header, json_block, lost_json, names_json
from tracer.recording.overview import Overview, overview
from tracer.recording.reader import Reader
from tracer.recording.replay import ReplaySource
from tracer.recording.view import Chosen, Window, moment, window
from tracer.session.patterns import Pattern, Sighting

EVERYTHING = Selection(everything=True)


class Each:
    """A sink. It cannot show what has no body."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.flushed = 0

    def event(self, event: Event) -> None:
        if not event.body:
            raise ValueError("made up")
        self.events.append(event)

    def flush(self) -> None:
        self.flushed += 1


class Together(Each):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def sightings(self, sightings: Any) -> None:
        self.calls += 1
        for boot_ns, pattern in sightings:
            self.event(pattern.at(boot_ns))


def chosen(
    sink: Each,
    selection: Selection = EVERYTHING,
    window: Window | None = None,
    count: int | None = None,
) -> tuple[Chosen, list[int]]:
    enough: list[int] = []
    made = Chosen(sink, selection, window or Window(), count, lambda: enough.append(made.events))
    return made, enough


def event(at: int, pid: int = 7) -> Event:
    world = World()
    world.now = at
    who = INIT if pid == INIT.pid else process(pid)
    return world.signal("SIGTERM", "host", target=who)


def lost(at: int) -> Event:
    world = World()
    world.now = at
    return world.lost("signals")


def times(sink: Each) -> list[int]:
    return [one.boot_ns for one in sink.events]


# What is wanted


@pytest.mark.parametrize(
    ("window", "shown"),
    [
        (Window(), [1, 2, 3, 4]),
        (Window(2), [2, 3, 4]),
        (Window(None, 3), [1, 2]),
        (Window(2, 4), [2, 3]),
        (Window(5), []),
    ],
)
@pytest.mark.parametrize("sink", [Each, Together])
def test_a_span(window: Window, shown: list[int], sink: type[Each]) -> None:
    """Losses are in it or not, too, and do not count as events."""
    out = sink()
    one, _ = chosen(out, window=window)
    one.sightings([(at, Pattern(event(at))) for at in (1, 2)])
    one.event(event(3))
    one.event(event(4))
    one.event(lost(3))
    inside = window.holds(3)
    assert [at for e, at in zip(out.events, times(out), strict=True) if e.kind != "lost"] == shown
    assert sum(e.kind == "lost" for e in out.events) == inside
    assert one.events == len(shown)
    one.flush()
    assert out.flushed == 1


def test_a_number_of_events() -> None:
    """Then it says that it is enough, once, and shows nothing more."""
    out = Each()
    one, enough = chosen(out, count=2)
    one.event(lost(1))
    for at in (2, 3, 4):
        one.event(event(at))
    one.event(lost(5))
    assert times(out) == [1, 2, 3]
    assert (one.events, enough) == (2, [2])


def test_processes() -> None:
    out = Each()
    one, _ = chosen(out, Selection(everything=True, pids=frozenset((8,))))
    for at, pid in ((1, 7), (2, 8), (3, 9)):
        one.event(event(at, pid))
    one.event(lost(4))
    one.event(Event("tcp_x", 5, None, None, {"x": 1}, APP))
    assert times(out) == [2, 4]
    assert one.nameless == 0


def test_names_that_are_not_known() -> None:
    out = Each()
    one, _ = chosen(out, Selection(pods=("web-0",)))
    nameless = place_of("c" * 64)
    nameless.pod = Pod("c" * 32)
    for at, place in ((1, APP), (2, nameless), (3, nameless)):
        one.event(Event("x", at, None, None, {"x": 1}, place))
    assert (times(out), one.nameless) == ([1], 2)


def test_sightings_are_passed_on_together_if_all_are_wanted() -> None:
    some: list[Sighting] = [(at, Pattern(event(at))) for at in (1, 2, 3)]
    out = Together()
    one, _ = chosen(out)
    one.sightings(some)
    assert (out.calls, times(out), one.events) == (1, [1, 2, 3], 3)
    for selection, count in ((Selection(), None), (EVERYTHING, 2)):
        out = Together()
        one, _ = chosen(out, selection, count=count)
        one.sightings(some)
        assert (out.calls, times(out)) == (0, [1, 2, 3][:count])


@pytest.mark.parametrize("sink", [Each, Together])
def test_what_cannot_be_shown_costs_no_other(sink: type[Each]) -> None:
    out = sink()
    one, _ = chosen(out)
    broken: Event = Event("x", 2, None, None, {})
    one.sightings([(1, Pattern(event(1))), (2, Pattern(broken)), (3, Pattern(event(3)))])
    one.event(broken)
    assert (times(out), one.events, one.unshown) == ([1, 3], 2, 2)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        (None, None),
        ("+2m", recordings.BEGAN + 120_000_000_000),
        ("1970-01-01T00:00:10Z", 10_000_000_000),
        ("1970-01-01T00:00:10", 10_000_000_000),
        ("1970-01-01T00:00:10.25Z", 10_250_000_000),
        ("1970-01-01T01:00:10.000000001+01:00", 10_000_000_001),
    ],
)
def test_a_moment(text: str | None, ns: int | None) -> None:
    told = recordings.metadata(clock_offset_ns=7)
    assert moment(text, told, "--from") == (ns if not ns or text == "+2m" else ns - 7)


@pytest.mark.parametrize("text", ["", "now", "+", "+x", "1970-01-01", "1970-13-01T00:00:00Z"])
def test_no_moment(text: str) -> None:
    with pytest.raises(UsageError, match=r"--to .* is no time"):
        moment(text, recordings.metadata(), "--to")


@pytest.mark.parametrize(("begin", "end"), [("+3m", "+2m"), ("+2m", "+2m")])
def test_a_span_that_ends_before_it_begins(begin: str, end: str) -> None:
    with pytest.raises(UsageError, match=r"--from \+.m is not before --to \+2m"):
        window(begin, end, recordings.metadata(), ("--from", "--to"))


# What it holds


def recording(tmp_path: Path, *blocks: bytes) -> Path:
    path = tmp_path / "made.ktrace"
    path.unlink(missing_ok=True)
    file = RecordingFile(path)
    meta = json_block(Kind.META, recordings.metadata().json())
    file.write(b"".join([file_header(), meta, *blocks]))
    file.close()
    return path


def seen(tmp_path: Path, *blocks: bytes) -> Overview:
    with Reader(recording(tmp_path, *blocks)) as reader:
        return overview(reader)


def events(first: int, last: int, summary: Any) -> bytes:
    raw = orjson.dumps(summary) if summary is not None else b""
    return block(Kind.EVENTS, b"x", count=3, first=first, last=last, summary=raw)


def named(uid: str) -> bytes:
    return json_block(Kind.IDENTITY, names_json(Names({uid: Pod(uid, "shop", uid, {})}), ()))


def test_an_overview(tmp_path: Path) -> None:
    found = seen(
        tmp_path,
        events(50, 60, {"signal": {"a": 2, "": 1}}),
        named("a"),
        events(40, 45, {"signal": {"a": 3}, "exit": {"b": 1}}),
        events(61, 62, None),
        json_block(Kind.LOST, lost_json(Lost(1, {"signal": 5}))),
        json_block(Kind.LOST, lost_json(Lost(2, {"signal": 2, "exit": 1}))),
        named("b"),
        json_block(Kind.END, {"events": 9, "unrecorded": 4}),
    )
    assert found.counts == {("signal", "a"): 5, ("signal", ""): 1, ("exit", "b"): 1}
    assert sorted(found.names.pods) == ["a", "b"]
    assert found.lost == Counter(signal=7, exit=1)
    assert (found.first, found.last, found.unrecorded) == (40, 62, 4)


def test_an_overview_of_nothing(tmp_path: Path) -> None:
    found = seen(tmp_path, json_block(Kind.END, {}))
    assert (found.first, found.last, found.unrecorded) == (None, None, 0)
    assert not found.counts and not found.lost and not found.names.pods


def test_an_overview_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview_module, "MAX_ROWS", 2)
    many = [events(n, n, {"signal": {f"{n}": 1}}) for n in range(4)]
    found = seen(tmp_path, *many, *(named(f"{n}") for n in range(4)))
    assert (sorted(found.counts), sorted(found.names.pods)) == (
        [("signal", "0"), ("signal", "1")],
        ["0", "1"],
    )
    assert found.last == 3


@pytest.mark.parametrize("end", [[], {"unrecorded": "x"}, {"unrecorded": True}])
def test_an_end_that_is_made_up(tmp_path: Path, end: Any) -> None:
    with pytest.raises(BadRecording, match="the recording's end"):
        seen(tmp_path, json_block(Kind.END, end))


@pytest.mark.parametrize("summary", [[], {"signal": []}, {"signal": {"a": "x"}}])
def test_a_summary_that_is_made_up(tmp_path: Path, summary: Any) -> None:
    with pytest.raises(BadRecording, match="a block's summary"):
        seen(tmp_path, events(1, 1, summary))


# Replays


def turns(source: ReplaySource) -> list[Turn]:
    found = [source.turn(False, 1.0)]
    while not found[-1].last:
        found.append(source.turn(False, 1.0))
    return found


def test_a_replay_without_arguments() -> None:
    """Every record is there, and only the arguments are missing."""
    told: list[list[tuple[Any, ...]]] = []
    for argv in (True, False):
        with Reader(recordings.DATA / "format-1.0.ktrace") as reader:
            source = ReplaySource(reader, argv=argv)
            records: list[tuple[Any, ...]] = []
            for turn in turns(source):
                for part in turn.parts:
                    schema = source.schemas[part.kind]
                    cells = list(schema.cells(part.cells))
                    assert len(cells) == part.count
                    records += [(schema.name, cell) for cell in cells]
            told.append(records)
    whole, without = told
    assert any(cell.argv_bytes for name, cell in whole if name == "process")
    assert without == [
        (name, cell._replace(argv=bytes(len(cell.argv)), argv_bytes=0))
        if name == "process"
        else (name, cell)
        for name, cell in whole
    ]


def test_a_replay_that_is_interrupted_ends() -> None:
    with Reader(recordings.DATA / "format-1.0.ktrace") as reader:
        source = ReplaySource(reader)
        assert source.now == reader.metadata.began
        first = source.turn(False, 1.0)
        assert source.now == first.now
        source.stop()
        assert not source.turn(False, 1.0).last
        source.interrupt()
        last = source.turn(False, 1.0)
        assert last.last and not last.parts
        assert last.now == source.now
