# SPDX-License-Identifier: Apache-2.0
"""Recordings: what was told comes back, and what is damaged is said.

Turns are made here, so that nothing depends on a kernel; their records have the real objects'
layouts.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.ktrace import ROOT, run
from tests.unit import records
from tests.unit.records import argv, cgroup_path, exe
from tracer import probes
from tracer.model.batch import cell
from tracer.model.errors import BadRecording
from tracer.model.event import Clock
from tracer.model.names import Container, Names, Pod
from tracer.model.schema import Schema
from tracer.model.selection import Selection
from tracer.model.turn import Lost, Part, Turn
from tracer.outputs.jsonl import JsonLines
from tracer.recording import format as layout
from tracer.recording.files import SingleFile
from tracer.recording.format import BLOCK_HEADER_BYTES, FILE_HEADER, Kind, block, json_block
from tracer.recording.metadata import Metadata
from tracer.recording.reader import Reader
from tracer.recording.recorder import Recorder
from tracer.recording.replay import ReplaySource
from tracer.session.session import Session

UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
CID = "7dea796eb5d6826a85978fa316612874aa3d576ac576495bed83d77fbc9dc744"
PATH = f"/kubepods/burstable/pod{UID}/{CID}"
NAMES = Names(
    {UID: Pod(UID, "shop", "web-0", {"app": "web", "tier": "front"})},
    {CID: Container(CID, "containerd", "nginx", UID, 4711)},
)
PROBES = [probes.get("signals"), probes.get("exits")]
SECOND = 1_000_000_000
BEGAN = 5 * SECOND


def schemas() -> dict[int, Schema]:
    kinds = records.kinds()
    return {kinds[name]: schema for name, schema in records.schemas().items()}


def metadata(**changes: Any) -> Metadata:
    told = Metadata(
        node="node-7",
        kernel="6.1.0",
        machine="x86_64",
        boot_id="b0",
        ktrace="1",
        began=BEGAN,
        clock_offset_ns=1_700_000_000 * SECOND,
        selection=Selection(),
        attached={"signals": "tp_btf/signal_generate", "exits": "tp_btf/sched_process_exit"},
        schemas=schemas(),
    )
    return dataclasses.replace(told, **changes)


def part(name: str, *made: bytes) -> Part:
    return Part(records.kinds()[name], len(made), b"".join(map(cell, made)))


def context() -> list[Part]:
    return [
        part("cgroup", records.pack("cgroup", cgroup=5, **cgroup_path(PATH))),
        part("cgroup", records.pack("cgroup", cgroup=6, **cgroup_path("/user.slice"))),
        part(
            "process",
            records.pack("process", process=1, pid=10, tid=10, cgroup=5, comm=b"nginx"),
            records.pack(
                "process",
                **{"process": 2, "pid": 20, "tid": 20, "cgroup": 6, "comm": b"pkill"},
                **exe("/usr/bin/pkill"),
                **argv("pkill", "nginx"),
            ),
        ),
    ]


def signal(time: int, number: int = 9) -> bytes:
    sides = {"target_process": 1, "target_pid": 10, "target_tid": 10}
    sides |= {"sender_process": 2, "sender_pid": 20, "sender_tid": 20}
    return records.pack("signal", time=time, signal=number, **sides)


def exited(time: int, status: int = 9) -> bytes:
    return records.pack("exit", time=time, process_process=1, process_pid=10, status=status)


def incident() -> list[Turn]:
    """Everything that a turn can tell. The name comes late, so events wait for it."""
    at = BEGAN
    return [
        Turn(at, context()),
        Turn(at + 10, [part("signal", *(signal(at + n) for n in range(1, 9)))], more=True),
        Turn(at + 10_000_000, [part("exit", exited(at + 9)), part("signal", signal(at + 9))]),
        Turn(at + 30_000_000),
        Turn(at + 50_000_000, names=NAMES, answered=[5]),
        Turn(at + 70_000_000),
        Turn(at + 2 * SECOND, lost=Lost(at, {"signal": 7, "process": 2})),
        Turn(at + 3 * SECOND, [part("exit", exited(at + 3 * SECOND - 5, 256))]),
        Turn(at + 3 * SECOND + 1, last=True),
    ]


class Script:
    """A source of turns that are made up."""

    def __init__(self, turns: Iterable[Turn]) -> None:
        self.schemas: Mapping[int, Schema] = schemas()
        self._turns = iter(turns)

    def turn(self, waiting: bool, patience: float) -> Turn:
        return next(self._turns)

    def ask(self, cgroup: int) -> None: ...

    def check(self, cgroups: Sequence[int]) -> bool:
        return True

    def select(self, cgroup: int, verdict: int) -> None: ...

    def stop(self) -> None: ...

    def close(self) -> None: ...


def shown(source: Any, told: Metadata, out: Path, recorder: Recorder | None = None) -> bytes:
    clock = Clock(told.clock_offset_ns)
    with out.open("wb") as stream:
        sink = JsonLines(stream, clock, told.node)
        session = Session(source, PROBES, told.selection, sink, clock, told.count)
        session.recorder = recorder
        session.run()
    return out.read_bytes()


def fail(error: OSError) -> None:
    raise AssertionError(error)


def record(turns: Iterable[Turn], file: Path, told: Metadata | None = None) -> bytes:
    """Records a session; returns what it showed."""
    told = told or metadata()
    recorder = Recorder(SingleFile(file), told, PROBES, fail)
    lines = shown(Script(turns), told, file.with_suffix(".live"), recorder)
    recorder.close()
    return lines


def replay(file: Path) -> bytes:
    with Reader(file) as reader:
        return shown(ReplaySource(reader), reader.metadata, file.with_suffix(".again"))


# What was told comes back


def test_a_replay_shows_what_was_shown(tmp_path: Path) -> None:
    live = record(incident(), tmp_path / "x")
    kinds = [orjson.loads(line)["kind"] for line in live.splitlines()]
    assert kinds == ["signal"] * 8 + ["exit", "signal", "lost", "exit"]
    assert b'"name":"web-0"' in live.splitlines()[0], "the first event waited for its name"
    assert replay(tmp_path / "x") == live


def test_every_turn_comes_back(tmp_path: Path) -> None:
    record(incident(), tmp_path / "x")
    with Reader(tmp_path / "x") as reader:
        turns = list(reader.turns())
        assert reader.ended
        assert not reader.cut
        assert reader.damage is None
        assert reader.used == reader.size
    for told, found in zip(incident(), turns, strict=True):
        assert (found.now, found.more, found.last) == (told.now, told.more, told.last)
        assert (found.names, list(found.answered)) == (told.names, list(told.answered))
        assert found.lost == told.lost
        assert [(p.kind, p.count) for p in found.parts] == [(p.kind, p.count) for p in told.parts]
        for one, other in zip(found.parts, told.parts, strict=True):
            assert raw(one) == raw(other)


def raw(part: Part) -> list[Any]:
    return list(schemas()[part.kind].cells(part.cells))


def test_what_the_file_says_of_itself(tmp_path: Path) -> None:
    selection = Selection(
        *(("web", "shop/*"), ("shop",), ("app",), (("a", "b"), ("c", None)), ("x",)),
        pids=frozenset({7, 8}),
    )
    told = metadata(selection=selection, count=12, cannot_tell={"exits": ["all"]})
    record(incident(), tmp_path / "x", told)
    with Reader(tmp_path / "x") as reader:
        found = reader.metadata
    same = [f.name for f in dataclasses.fields(Metadata) if f.name != "schemas"]
    assert [getattr(found, name) for name in same] == [getattr(told, name) for name in same]
    for kind, schema in told.schemas.items():
        again = found.schemas[kind]
        assert (again.name, again.size, again.fields) == (schema.name, schema.size, schema.fields)


def test_a_quiet_time_takes_no_room(tmp_path: Path) -> None:
    quiet = [Turn(BEGAN + n * SECOND) for n in range(1, 1000)]
    record([*quiet, Turn(BEGAN + 1000 * SECOND, last=True)], tmp_path / "x")
    record([Turn(BEGAN + 1000 * SECOND, last=True)], tmp_path / "y")
    assert (tmp_path / "x").stat().st_size == (tmp_path / "y").stat().st_size


def test_nothing_waits_in_memory_for_longer_than_a_second(tmp_path: Path) -> None:
    recorder = Recorder(SingleFile(tmp_path / "x"), metadata(), PROBES, fail)
    resolver = Session(Script([]), PROBES, Selection(), None, Clock(0)).resolver
    empty = (tmp_path / "x").stat().st_size
    recorder.add(Turn(BEGAN, [part("signal", signal(BEGAN))]), False, resolver)
    assert recorder.patience(BEGAN + SECOND // 4) == 0.75
    assert (tmp_path / "x").stat().st_size == empty
    recorder.add(Turn(BEGAN + SECOND), False, resolver)
    assert (tmp_path / "x").stat().st_size > empty
    many = part("signal", *(signal(BEGAN + SECOND) for _ in range(4096)))
    recorder.add(Turn(BEGAN + SECOND, [many]), False, resolver)
    assert recorder.events == 4097


def test_what_is_left_of_earlier_records_is_not_kept(tmp_path: Path) -> None:
    stale = records.pack("process", process=3, **{"argv": b"a\0secret\0", "argv_bytes": 2})
    record([Turn(BEGAN, [part("process", stale)]), Turn(BEGAN, last=True)], tmp_path / "x")
    with Reader(tmp_path / "x") as reader:
        (found,) = [raw(p) for turn in reader.turns() for p in turn.parts]
        assert found[0].argv.rstrip(b"\0") == b"a"


numbers = st.integers(0, (1 << 64) - 1)
names = st.text(max_size=20)
maybe = st.none() | names


@st.composite
def any_turn(draw: st.DrawFn) -> Turn:
    kinds = draw(st.lists(st.sampled_from(["signal", "exit", "process"]), max_size=4))
    parts = []
    for name in kinds:
        size = records.schemas()[name].size
        bodies = draw(st.lists(st.binary(min_size=size, max_size=size), min_size=1, max_size=3))
        parts.append(part(name, *bodies))
    pods = draw(
        st.lists(
            st.builds(Pod, names, maybe, maybe, st.none() | st.dictionaries(names, names)),
            max_size=2,
        )
    )
    containers = draw(
        st.lists(
            st.builds(Container, names, maybe, maybe, maybe, st.none() | st.integers(0, 9)),
            max_size=2,
        )
    )
    return Turn(
        draw(numbers),
        parts,
        draw(st.booleans()),
        Names({pod.uid: pod for pod in pods}, {c.id: c for c in containers}),
        draw(st.lists(numbers, max_size=3)),
        draw(st.none() | st.builds(Lost, numbers, st.dictionaries(names, numbers, max_size=3))),
        draw(st.booleans()),
    )


@given(st.lists(any_turn(), max_size=5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_turns_survive_the_format(turns: list[Turn]) -> None:
    cells = layout.by_kind(turns)
    payload = layout.events_payload(turns, cells, schemas())
    sizes = {kind: schema.size for kind, schema in schemas().items()}
    again = layout.turns_of(payload, sizes)
    for told, found in zip(turns, again, strict=True):
        assert (found.now, found.more, found.last) == (told.now, told.more, told.last)
        assert [(p.kind, p.count, bytes(p.cells)[8:]) for p in found.parts[:1]] == [
            (p.kind, p.count, without_headers(p)) for p in told.parts[:1]
        ]
        told_names = layout.names_json(told.names, told.answered)
        assert layout.names_of(orjson.loads(orjson.dumps(told_names))) == (
            told.names,
            list(told.answered),
        )
        if told.lost:
            assert layout.lost_of(orjson.loads(orjson.dumps(layout.lost_json(told.lost)))) == (
                told.lost
            )


def without_headers(part: Part) -> bytes:
    stride = len(part.cells) // part.count
    cells = [part.cells[at : at + stride] for at in range(0, len(part.cells), stride)]
    return b"".join(bytes(8) + bytes(c)[8:] for c in cells)[8:]


# Old and new

DATA = Path(__file__).parents[2] / "data"
PROSE = ("meaning", "reading")


def replayed(file: Path, *arguments: str) -> list[dict[str, Any]]:
    ended = run("replay", str(file), "-o", "json", *arguments)
    assert ended.returncode == 0, ended.stderr
    return [orjson.loads(line) for line in ended.stdout.splitlines()]


def still(old: Any, new: Any) -> bool:
    """Whether all that was said is said again; what is new may be added, and prose may change."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(
            key in new and (key in PROSE or still(value, new[key])) for key, value in old.items()
        )
    if isinstance(old, list):
        return len(old) == len(new) and all(map(still, old, new))
    return bool(old == new)


def test_the_first_recording_of_all_replays_for_ever() -> None:
    lines = (DATA / "format-1.0.jsonl").read_bytes().splitlines()
    said = [orjson.loads(line) for line in lines]
    assert {event["kind"] for event in said} == {
        *("signal", "exit", "oom", "page_alloc_failure", "tcp_reset", "backlog_drop", "lost")
    }
    again = replayed(DATA / "format-1.0.ktrace")
    assert len(again) == len(said)
    for old, new in zip(said, again, strict=True):
        assert still(old, new), (old, new)


def without(schema: Schema, *names: str) -> Schema:
    """An older layout: the record is as long, but nothing is known of these members."""
    members = [field for field in schema.fields if field.name not in names]
    return Schema(schema.name, schema.size, members, schema.kind)


def test_members_that_an_older_recording_lacks_are_empty(tmp_path: Path) -> None:
    kinds = records.kinds()
    older = schemas()
    older[kinds["signal"]] = without(older[kinds["signal"]], "code", "result")
    older[kinds["process"]] = without(older[kinds["process"]], "argv", "comm", "uid", "argv_bytes")
    record(incident(), tmp_path / "x", metadata(schemas=older))
    with Reader(tmp_path / "x") as reader:
        assert "result" not in [f.name for f in reader.metadata.schemas[kinds["signal"]].fields]
        shown(ReplaySource(reader), reader.metadata, tmp_path / "again")
    first = orjson.loads((tmp_path / "again").read_bytes().splitlines()[0])
    assert first["signal"] == {
        **{"number": 9, "name": "SIGKILL"},
        **{"code": "SI_USER", "result": "delivered"},
    }
    assert (first["sender"]["comm"], first["sender"]["argv"], first["sender"]["uid"]) == (
        "",
        None,
        0,
    )
    assert first["sender"]["exe"] == "/usr/bin/pkill"


def test_kinds_of_records_that_are_not_known_are_counted(tmp_path: Path) -> None:
    newer = schemas()
    strange = Schema("something_new", 24, without(newer[1], *()).fields[:3])
    strange.kind = 99
    newer[99] = strange
    turn = Turn(BEGAN + 5, [Part(99, 2, cell(strange.pack()) * 2)])
    script = Script([*incident()[:2], turn, *incident()[2:]])
    script.schemas = newer
    told = metadata(schemas=newer)
    recorder = Recorder(SingleFile(tmp_path / "x"), told, PROBES, fail)
    live = shown(script, told, tmp_path / "live", recorder)
    recorder.close()
    ended = run("replay", str(tmp_path / "x"), "-o", "json")
    assert ended.stdout.encode() == live
    assert "2 records mean nothing to this ktrace" in ended.stderr


def test_blocks_of_unknown_kinds_are_skipped(tmp_path: Path) -> None:
    live = record(incident(), tmp_path / "x")
    blocks = split_blocks((tmp_path / "x").read_bytes())
    strange = block(77, b"something new", summary=b"?")
    (tmp_path / "y").write_bytes(blocks[0] + blocks[1] + strange.join(blocks[2:]) + strange)
    assert replay(tmp_path / "y") == live
    with Reader(tmp_path / "y") as reader:
        list(reader.blocks())
        assert reader.skipped == len(blocks) - 2
    (tmp_path / "y").write_bytes(b"".join(blocks) + strange)
    with Reader(tmp_path / "y") as reader:
        assert len(list(reader.blocks())) == len(blocks) - 1
        assert reader.skipped == 1


def split_blocks(data: bytes) -> list[bytes]:
    """The file's header, and each block."""
    parts, at = [data[: FILE_HEADER.size]], FILE_HEADER.size
    while at < len(data):
        length = layout.block_lengths(data[at : at + BLOCK_HEADER_BYTES])[0]
        parts.append(data[at : at + BLOCK_HEADER_BYTES + length])
        at += BLOCK_HEADER_BYTES + length
    return parts


# Damage


def test_a_file_cut_anywhere_gives_every_whole_block(tmp_path: Path) -> None:
    live = record(incident(), tmp_path / "x").splitlines()
    data = (tmp_path / "x").read_bytes()
    blocks = split_blocks(data)
    ends = [sum(map(len, blocks[: n + 1])) for n in range(len(blocks))]
    cut = tmp_path / "cut"
    counts = []
    for size in range(len(data)):
        cut.write_bytes(data[:size])
        whole = max((end for end in ends if end <= size), default=0)
        if size < ends[1]:
            with pytest.raises(BadRecording, match=r"not a ktrace recording|nothing is left"):
                Reader(cut)
            continue
        with Reader(cut) as reader:
            lines = shown(ReplaySource(reader), reader.metadata, tmp_path / "again").splitlines()
            assert (reader.used, reader.damage) == (whole, None)
            assert reader.cut == (size != whole)
            assert not reader.ended
        if len(lines) == len(live):
            assert lines == live
        counts.append(len(lines))
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == len(live)


def test_a_cut_recording_says_so_and_is_no_error(tmp_path: Path) -> None:
    record(incident(), tmp_path / "x")
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(data[:-1])
    ended = run("replay", str(tmp_path / "x"), "-o", "json")
    assert ended.returncode == 0
    assert len(ended.stdout.splitlines()) == 12
    end = len(split_blocks(data)[-1])
    assert f"is cut: {end - 1} of {len(data) - 1} bytes could not be used" in ended.stderr


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    """Those of the header's spare bytes and minor version mean nothing."""
    live = record(incident(), tmp_path / "x")
    data = bytearray((tmp_path / "x").read_bytes())
    damaged = tmp_path / "damaged"
    for at in [*range(10), *range(FILE_HEADER.size, len(data))]:
        data[at] ^= 1 << at % 8
        damaged.write_bytes(data)
        data[at] ^= 1 << at % 8
        try:
            with Reader(damaged) as reader:
                lines = shown(ReplaySource(reader), reader.metadata, tmp_path / "again")
                assert reader.damage or reader.cut, at
                assert reader.used <= at
                assert len(lines) <= len(live)
        except BadRecording:
            pass


def test_damage_is_an_error_after_what_came_before_it(tmp_path: Path) -> None:
    record(incident(), tmp_path / "x")
    data = bytearray((tmp_path / "x").read_bytes())
    data[-1] ^= 1
    (tmp_path / "x").write_bytes(data)
    ended = run("replay", str(tmp_path / "x"), "-o", "json")
    assert ended.returncode == 6
    assert len(ended.stdout.splitlines()) == 12
    assert "its CRC does not match" in ended.stderr
    assert "Traceback" not in ended.stderr


def hostile_file(file: Path, *blocks: bytes, header: bytes | None = None) -> None:
    file.write_bytes((header or layout.file_header()) + b"".join(blocks))


def hostile(file: Path, *blocks: bytes, header: bytes | None = None) -> str:
    """What ktrace says of a file; it must be one line and exit code 6."""
    hostile_file(file, *blocks, header=header)
    ended = run("replay", str(file), "-o", "json")
    assert ended.returncode == 6, ended.stderr
    line = [x for x in ended.stderr.splitlines() if x.startswith("ktrace: ")][-1]
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.splitlines()) <= 3
    return line


def meta(**changes: Any) -> bytes:
    return json_block(Kind.META, metadata().json() | changes)


@pytest.mark.parametrize("content", [b"", b"x", b"GIF89a" + bytes(100), b"\x89KTRACE\r" * 20])
def test_something_else(tmp_path: Path, content: bytes) -> None:
    assert "not a ktrace recording" in hostile(tmp_path / "x", header=content or b"\0")


def test_a_newer_major_version(tmp_path: Path) -> None:
    header = FILE_HEADER.pack(layout.MAGIC, layout.MAJOR + 1, 0, 0)
    assert "format 2, this ktrace reads 1" in hostile(tmp_path / "x", meta(), header=header)


def test_a_newer_minor_version_is_read(tmp_path: Path) -> None:
    live = record(incident(), tmp_path / "x")
    data = (tmp_path / "x").read_bytes()
    newer = FILE_HEADER.pack(layout.MAGIC, layout.MAJOR, layout.MINOR + 1, 0)
    (tmp_path / "x").write_bytes(newer + data[FILE_HEADER.size :])
    assert replay(tmp_path / "x") == live


def bomb(size: int, announced: int) -> bytes:
    """A block that says `announced` and decompresses to `size` bytes."""
    frame = zstandard.ZstdCompressor(level=19).compress(bytes(size))
    body = [layout.BLOCK_MAGIC, Kind.EVENTS, 0, len(frame), 0, announced, 0, 0, 0, 0]
    header = layout.BLOCK_HEADER.pack(*body, zlib.crc32(frame))
    return header + layout.CRC.pack(zlib.crc32(header)) + frame


def test_a_decompression_bomb(tmp_path: Path) -> None:
    size = 1 << 30
    assert "larger than any may be" in hostile(tmp_path / "x", meta(), bomb(size, size))
    assert "to another size" in hostile(tmp_path / "x", meta(), bomb(size, 1000))


def test_a_huge_length(tmp_path: Path) -> None:
    body = [layout.BLOCK_MAGIC, Kind.EVENTS, 0, (1 << 32) - 1, 0, 10, 0, 0, 0, 0, 0]
    header = layout.BLOCK_HEADER.pack(*body)
    header += layout.CRC.pack(zlib.crc32(header))
    assert "larger than any may be" in hostile(tmp_path / "x", meta(), header)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (block(Kind.META, nested(1_000_000)), "no JSON"),
        (block(Kind.META, b"{}"), "does not say"),
        (block(Kind.META, b"[]"), "does not say"),
        (json_block(Kind.END, {}), "does not begin"),
        (meta(schemas={}), "not of the form"),
        (meta(schemas=[[]]), "not of the form"),
        (meta(selection={"pods": [1]}), "does not say"),
        (meta(node=7), "does not say"),
        (meta(clock_offset_ns=1 << 63), "does not say"),
        (meta(schemas=[{"kind": 1, "name": "x", "size": 1 << 40, "fields": []}]), "records of"),
        (meta(schemas=[{"kind": 1, "name": "x", "size": 1, "fields": []}]), "records of"),
        (meta(schemas=[{"kind": -1, "name": "x", "size": 16, "fields": []}]), "numbers its kinds"),
        *(
            (meta(schemas=[{"kind": 1, "name": "x", "size": 16, "fields": fields}]), words)
            for fields, words in [
                ([["a", "t", 0, 4, "I"], ["a", "t", 4, 4, "I"]], "two members"),
                ([["a", "t", 0, 4, "I"], ["b", "t", 2, 4, "I"]], "outside"),
                ([["a", "t", 14, 4, "I"]], "outside"),
                ([["a", "t", 0, 0, "0s"]], "outside"),
                ([["a", "t", -4, 4, "I"]], "outside"),
                ([["a", "t", 0, 4, "4x"]], "no known type"),
                ([["a", "t", 0, 4, "Q"]], "no known type"),
                ([["a", "t", 0, 4, "999999999s"]], "no known type"),
                ([["_make", "t", 0, 4, "I"]], "no C member"),
                ([["a b", "t", 0, 4, "I"]], "no C member"),
                ([["class", "t", 0, 4, "I"]], "no C member"),
                ([["a", "t"]], "describes a member wrongly"),
                ([["a", "t", 0, 4, "I"]] * 2000, "more than"),
            ]
        ),
    ],
)
def test_what_a_file_says_of_itself_is_not_believed(
    tmp_path: Path, block: bytes, words: str
) -> None:
    assert words in hostile(tmp_path / "x", block)


def words(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", "within a turn"),
        (words(1), "within a turn"),
        (words(1 << 31), "within a turn"),
        (words(1, 0, 0, 0, 1 << 31), "more than"),
        (words(1, 0, 0, 0, 5), "within a turn"),
        (words(1, 0, 0, 0, 1, 1, 1 << 31), "fewer records"),
        (words(1, 0, 0, 0, 1, 12345, 1), "not described"),
        (words((1 << 18) + 1, *([0] * (1 << 21))), "more than"),
    ],
)
def test_turns_are_not_believed(tmp_path: Path, payload: bytes, said: str) -> None:
    assert said in hostile(tmp_path / "x", meta(), block(Kind.EVENTS, payload))


@pytest.mark.parametrize(
    "told",
    [
        *([], {"pods": 3}, {"pods": [[]]}, {"pods": [{"uid": 3}]}, {"answered": ["x"]}),
        *({"containers": [{"id": "x", "init_pid": "y"}]}, {"pods": [{"uid": "x", "labels": []}]}),
    ],
)
def test_names_are_not_believed(tmp_path: Path, told: Any) -> None:
    blocks = [meta(), json_block(Kind.IDENTITY, told), block(Kind.EVENTS, words(0))]
    assert "not of the form" in hostile(tmp_path / "x", *blocks)


@given(st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_records_of_nonsense_are_counted_or_shown(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Well-formed blocks, with any bytes in the records and any layouts."""
    told = metadata(selection=Selection(everything=True))
    layouts = dict(told.schemas)
    for kind in data.draw(st.sets(st.sampled_from(sorted(layouts)))):
        drop = data.draw(st.sets(st.sampled_from([f.name for f in layouts[kind].fields])))
        layouts[kind] = without(layouts[kind], *drop)
    parts = []
    for kind, schema in layouts.items():
        size = schema.size
        body = data.draw(st.binary(min_size=size, max_size=size))
        parts.append(Part(kind, 1, cell(body)))
    folder = tmp_path_factory.mktemp("nonsense")
    turns = [Turn(1 << 63, parts), Turn(1, parts, last=True)]
    cells = layout.by_kind(turns)
    told = dataclasses.replace(told, schemas=layouts)
    made = layout.file_header() + json_block(Kind.META, told.json())
    made += block(Kind.EVENTS, layout.events_payload(turns, cells, layouts))
    (folder / "x").write_bytes(made)
    for line in replay(folder / "x").splitlines():
        assert isinstance(orjson.loads(line), dict)


@given(st.binary(max_size=300), st.integers(0, 5))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_are_at_worst_a_bad_recording(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, kind: int
) -> None:
    file = tmp_path_factory.mktemp("any") / "x"
    for made in (
        data,
        layout.file_header() + data,
        layout.file_header() + meta() + block(kind, data) + data,
    ):
        file.write_bytes(made)
        try:
            replay(file)
        except BadRecording as error:
            assert "\n" not in error.message


# Anywhere

ELSEWHERE = """
import os, select, signal, sys, time
for module, names in {
    os: "uname sysconf geteuid O_NOFOLLOW O_NONBLOCK eventfd mkfifo readlink".split(),
    time: ["clock_gettime_ns", "clock_gettime", "CLOCK_BOOTTIME"],
    signal: ["SIGHUP", "SIGUSR1", "SIGKILL"],
    select: ["epoll", "poll"],
}.items():
    for name in names:
        delattr(module, name)
absent = "fcntl grp pwd resource termios elftools h2 tracer.backends.core tracer.session.live"
for name in absent.split():
    sys.modules[name] = None
sys.argv[0] = "ktrace"
from tracer.cli import main
main()
"""


@pytest.mark.parametrize("arguments", [["replay", "-o", "json"], ["replay"], ["info"]])
def test_a_recording_can_be_looked_at_where_there_is_no_linux(arguments: list[str]) -> None:
    file = str(DATA / "format-1.0.ktrace")
    command = [sys.executable, "-c", ELSEWHERE, *arguments, file]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == run(*arguments, file).stdout


@pytest.mark.parametrize("command", ["replay", "info", "export", "why"])
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("none.ktrace", "none.ktrace cannot be read: No such file or directory"),
        ("folder.ktrace", "folder.ktrace cannot be read: Is a directory"),
        ("other.ktrace", "other.ktrace: this is not a ktrace recording"),
        ("unreadable.ktrace", "unreadable.ktrace: reading it failed: Input/output error"),
    ],
)
def test_what_is_no_recording_is_named(
    command: str, name: str, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "folder.ktrace").mkdir()
    (tmp_path / "other.ktrace").write_bytes(b"\x1f\x8b")
    (tmp_path / "unreadable.ktrace").symlink_to("/proc/self/mem")
    ended = run(command, str(tmp_path / name))
    assert (ended.returncode, ended.stdout) == (6, "")
    assert ended.stderr.splitlines()[0].endswith(f"/{problem}")


def test_the_remedy_for_a_recording_of_somebody_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BadRecording, match="cannot be read: Permission denied") as refused:
        Reader(tmp_path / "node.ktrace")
    assert refused.value.remedy is not None
    assert "sudo ktrace" in refused.value.remedy


THREADS = """
import sys, threading
from tracer.recording.format import BLOCK_HEADER_BYTES, Block, Kind, block, block_lengths

wrong = []
def work(number):
    payload = bytes(range(256)) * (200 + number) + bytes(number)
    for _ in range(300):
        raw = block(Kind.EVENTS, payload)
        about = block_lengths(raw[:BLOCK_HEADER_BYTES])[3]
        if Block(*about, b"", raw[BLOCK_HEADER_BYTES:]).payload != payload:
            wrong.append(number)
threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
sys.exit(len(wrong))
"""


def test_threads_make_and_read_blocks_at_once() -> None:
    """The agent's history closes a recording while the session makes blocks of the next."""
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
