# SPDX-License-Identifier: Apache-2.0
"""Exports, each read by a reader of its format: jq, DuckDB, Perfetto's and OpenTelemetry's own
message definitions."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from tests.support.ktrace import ROOT, run
from tests.support.perfetto import slices
from tests.unit import records
from tests.unit.recording.test_recording import (
    BEGAN,
    CID,
    DATA,
    NAMES,
    PATH,
    SECOND,
    UID,
    metadata,
    part,
    record,
)
from tests.unit.records import cgroup_path
from tracer import probes
from tracer.model.cgroup import CgroupIdentity
from tracer.model.errors import BadRecording
from tracer.model.event import Clock, Event, Place, Process, to_json
from tracer.model.selection import Selection
from tracer.model.turn import Turn
from tracer.outputs import exporters
from tracer.outputs.exporters import Target, parquet
from tracer.recording.view import Chosen, Window
from tracer.session.patterns import Pattern
from tracer.why.explained import Explained

FIRST = DATA / "format-1.0.ktrace"
LINES = (DATA / "format-1.0.jsonl").read_bytes()


@pytest.fixture(scope="module")
def told() -> list[dict[str, Any]]:
    """What each export must hold: the events, and behind them what `why` says of them."""
    why = run("why", str(FIRST), "-o", "json")
    verdicts = [json.loads(line) for line in why.stdout.splitlines()]
    assert [(v["kind"], v["verdict"]) for v in verdicts] == [
        ("verdict", "killed_by_suspicious_process")
    ]
    return [json.loads(line) for line in LINES.splitlines()] + verdicts


def export(folder: Path, format_: str, *arguments: str) -> Path:
    out = folder / format_
    ended = run("export", str(FIRST), "-f", format_, "-o", str(out), *arguments)
    assert ended.returncode == 0, ended.stderr
    return out


def test_json_lines(tmp_path: Path, told: list[dict[str, Any]]) -> None:
    out = export(tmp_path, "jsonl")
    why = run("why", str(FIRST), "-o", "json").stdout.encode()
    assert out.read_bytes() == LINES + why
    kinds = subprocess.run(
        ["jq", "-r", ".kind", str(out)], capture_output=True, text=True, check=True
    )
    assert kinds.stdout.split() == [event["kind"] for event in told]
    assert run("export", str(FIRST)).stdout.encode() == out.read_bytes()


def test_selectors_hold_for_exports(tmp_path: Path) -> None:
    out = export(tmp_path, "jsonl", "--from", "+52ms", "-p", "shop/web-0")
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["exit", "backlog_drop", "lost", "verdict"]
    assert lines[-1]["evidence"][0]["kind"] == "signal", "what is left out counts for the verdict"


@pytest.mark.parametrize(
    "arguments", [("-n", "db"), ("--to", "+52ms"), ("--count", "7"), ("--pid", "10")]
)
def test_selectors_hold_for_verdicts(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    out = export(tmp_path, "jsonl", *arguments)
    assert '"kind":"verdict"' not in out.read_text()


class Kept:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def event(self, event: Event) -> None:
        self.events.append(event)

    def flush(self) -> None: ...


def test_an_event_that_makes_no_sense_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a recording that somebody made up may hold."""
    kept = Kept()
    chosen = Chosen(kept, Selection(everything=True), Window(), None, lambda: None)
    explained = Explained(chosen, metadata(), Clock(0))
    place = Place(1, PATH, CgroupIdentity(UID, CID))
    process = Process(7, 7, "app", pid_in_pod=1, pid_level=1, place=place)
    explained.event(Event("exit", 1, process, None, {"exit_code": 3}))
    end = {"exit_code": 3, "signal": None, "container_exit": True, "meaning": "3"}
    explained.event(Event("exit", 2, process, None, end))
    explained.explain()
    assert [event.kind for event in kept.events] == ["exit", "exit", "verdict"]
    assert chosen.unshown == 1
    monkeypatch.delitem(end, "exit_code")
    explained.explain()
    assert (len(kept.events), chosen.unshown) == (3, 2)


def test_parquet(tmp_path: Path, told: list[dict[str, Any]]) -> None:
    out = export(tmp_path, "parquet")
    found = duckdb.execute("select * exclude (time) from read_parquet(?)", [str(out)])
    names = [column[0] for column in found.description or ()]
    rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    # older versions of DuckDB read times to the microsecond only
    times = pyarrow.parquet.read_table(out).column("time").cast(pyarrow.int64()).to_pylist()
    rows = [{**row, "ns": ns} for row, ns in zip(rows, times, strict=True)]
    assert [json.loads(row["ktrace.event"]) for row in rows] == told
    for row, event in zip(rows, told, strict=True):
        pod, container = event["pod"] or {}, event["container"] or {}
        about = event.get("target") or event.get("process") or event.get("victim") or {}
        sender = event.get("sender") or {}
        assert row == row | {
            "kind": event["kind"],
            "ns": event["boot_ns"] + 1_700_000_000 * 10**9,
            "boot_ns": event["boot_ns"],
            "k8s.node.name": "node-7",
            "k8s.namespace.name": pod.get("namespace"),
            "k8s.pod.name": pod.get("name"),
            "k8s.pod.uid": pod.get("uid"),
            "k8s.container.name": container.get("name"),
            "container.id": container.get("id"),
            "process.pid": about.get("pid"),
            "process.executable.name": about.get("comm"),
            "process.executable.path": about.get("exe"),
            "ktrace.origin": event.get("origin"),
            "ktrace.sender.pid": sender.get("pid"),
            "ktrace.sender.comm": sender.get("comm"),
            "ktrace.signal.name": (event.get("signal") or {}).get("name"),
            "ktrace.exit_code": event.get("exit_code"),
            "ktrace.reason": event.get("reason"),
            "ktrace.count": event.get("count"),
            "ktrace.verdict": event.get("verdict"),
            "ktrace.certainty": event.get("certainty"),
        }
        assert row["ktrace.sentence"] == event.get("sentence", row["ktrace.sentence"]) != ""


def test_without_its_library_parquet_names_the_remedy(tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    earlier.write_text("kept")
    code = "import sys; sys.modules['pyarrow'] = None; from tracer.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "export",
        str(FIRST),
        "-f",
        "parquet",
        "-o",
        str(earlier),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert ended.returncode == 1
    assert "-m pip install pyarrow" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert earlier.read_text() == "kept"


@pytest.mark.parametrize("command", ["export", "report"])
def test_an_output_that_cannot_be_written_is_told_with_a_remedy(
    command: str, tmp_path: Path
) -> None:
    out = tmp_path / "none" / "out"
    ended = run(command, str(FIRST), "-o", str(out))
    assert ended.returncode == 1
    problem, remedy = ended.stderr.splitlines()
    assert problem == f"ktrace: {out} cannot be written: No such file or directory"
    assert remedy == "  give another file with -o"


def test_a_recording_that_cannot_be_read_costs_no_earlier_export(tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    earlier.write_text("kept")
    assert run("export", "none.ktrace", "-o", str(earlier)).returncode == 6
    assert earlier.read_text() == "kept"


def plain(value: Any) -> Any:
    """An OpenTelemetry `AnyValue`."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(inner) for inner in value.array_value.values]
    if kind == "kvlist_value":
        return attributes(value.kvlist_value.values)
    return getattr(value, kind)


def attributes(pairs: Any) -> dict[str, Any]:
    found = {pair.key: plain(pair.value) for pair in pairs}
    assert len(found) == len(pairs), "no attribute twice"
    return found


def test_otlp(tmp_path: Path, told: list[dict[str, Any]]) -> None:
    records = []
    for line in export(tmp_path, "otlp").read_text().splitlines():
        for logs in json_format.Parse(line, LogsData()).resource_logs:
            resource = attributes(logs.resource.attributes)
            records += [(resource, log) for scope in logs.scope_logs for log in scope.log_records]
    records.sort(key=lambda pair: pair[1].time_unix_nano)
    assert len(records) == len(told)
    in_order = sorted(told, key=lambda event: event["boot_ns"])
    for (resource, log), event in zip(records, in_order, strict=True):
        assert log.event_name == f"ktrace.{event['kind']}"
        assert log.time_unix_nano == event["boot_ns"] + 1_700_000_000 * 10**9
        assert log.body.string_value
        assert resource["k8s.node.name"] == "node-7"
        found = attributes(log.attributes)
        assert found["ktrace.boot_ns"] == event["boot_ns"]
        if event["kind"] == "verdict":
            assert log.severity_text == "WARN", "it rests on events that are"
            assert log.body.string_value == event["sentence"]
            for key in ("verdict", "certainty", "doubts", "evidence", "remedy", "timeline"):
                assert found[f"ktrace.{key}"] == event[key]
        if event["pod"]:
            assert resource == {
                "host.name": "node-7",
                "k8s.node.name": "node-7",
                "k8s.namespace.name": "shop",
                "k8s.pod.name": "web-0",
                "k8s.pod.uid": UID,
                "k8s.pod.label.app": "web",
                "k8s.pod.label.tier": "front",
                "k8s.container.name": "nginx",
                "container.id": CID,
                "container.runtime.name": "containerd",
            }
    resource, log = records[0]
    found = attributes(log.attributes)
    assert (log.severity_number, log.severity_text) == (13, "WARN")
    assert {key: value for key, value in found.items() if key.startswith("process.")} == {
        "process.pid": 10,
        "process.executable.name": "nginx",
        "process.executable.path": "/usr/sbin/nginx",
        "process.command_args": ["nginx", "-g", "daemon off;"],
        "process.real_user.id": 101,
        "process.vpid": 1,
    }
    assert found["ktrace.sender.pid"] == 20
    assert found["ktrace.signal.name"] == "SIGHUP"


def test_a_verdict_on_an_orderly_end_is_no_warning() -> None:
    probe = probes.get("exits")
    process = Process(7, 7, "app", pid_in_pod=1, pid_level=1)
    end = {"exit_code": 0, "signal": None, "container_exit": True}
    verdict: Event = Event(
        "verdict", 1, None, None, {}, because=(Event("exit", 1, process, None, end),)
    )
    target = Target(io.BytesIO(), Clock(0), "node-7", {"exit": probe}, list)
    assert not target.alarm(verdict)
    end["exit_code"] = 3
    assert target.alarm(verdict)


def test_perfetto(tmp_path: Path, told: list[dict[str, Any]]) -> None:
    trace = Trace()
    trace.ParseFromString(export(tmp_path, "perfetto").read_bytes())
    clocks = {c.clock_id: c.timestamp for c in trace.packet[0].clock_snapshot.clocks}
    assert clocks[1] - clocks[6] == 1_700_000_000 * 10**9
    assert {packet.trusted_packet_sequence_id for packet in trace.packet} == {1}
    tracks: dict[int, Any] = {}
    begun: dict[int, Any] = {}
    instants = []
    lives = []
    for packet in trace.packet[1:]:
        if packet.HasField("track_descriptor"):
            tracks[packet.track_descriptor.uuid] = packet.track_descriptor
            continue
        event = packet.track_event
        if event.type == TrackEvent.TYPE_SLICE_BEGIN:
            lives.append((tracks[event.track_uuid].name, event.name, packet.timestamp))
            continue
        assert event.type == TrackEvent.TYPE_INSTANT
        assert packet.timestamp_clock_id == 6
        assert event.track_uuid in tracks, "a track is described before it is used"
        for flow in event.flow_ids:
            begun[flow] = event
        if event.debug_annotations:
            instants.append((packet, event))
    by_name = {track.name: track for track in tracks.values()}
    assert set(by_name) == {"node-7", "shop/web-0", "nginx"}
    assert lives == [("nginx", "nginx", 5_000_000_000)], "and the first format tells no end"
    assert by_name["nginx"].parent_uuid == by_name["shop/web-0"].uuid
    assert len(instants) == len(told)
    for (packet, event), said in zip(instants, told, strict=True):
        assert packet.timestamp == said["boot_ns"]
        assert list(event.categories) == [said["kind"]]
        assert json.loads(event.debug_annotations[0].legacy_json_value) == said
        own = tracks[event.track_uuid].name
        assert own == ("nginx" if said["container"] else "node-7")
        if said["kind"] == "signal":
            (flow,) = event.terminating_flow_ids
            assert tracks[begun[flow].track_uuid].name == "node-7", "an arrow from the sender"


def test_perfetto_draws_the_life_of_a_container(tmp_path: Path) -> None:
    """As long as its outermost cgroup was there, also if events are only of one within it."""
    living = CID.replace("7", "8")
    cgroups = {1: PATH, 2: f"{PATH}/init.scope", 3: PATH.replace(CID, living), 4: "/user.slice"}
    described = [
        records.pack("cgroup", time=BEGAN + n, cgroup=n, **cgroup_path(path))
        for n, path in cgroups.items()
    ]
    processes = [records.pack("process", process=n, pid=n, tid=n, cgroup=n) for n in (2, 3, 4)]
    exits = [
        records.pack("exit", time=BEGAN + 10 + n, process_process=n, process_pid=n)
        for n in (2, 3, 4)
    ]
    ends = [records.pack("cgroup_end", time=BEGAN + 20 + n, cgroup=n) for n in (2, 1)]
    parts = [part("cgroup", *described), part("process", *processes), part("exit", *exits)]
    everything = metadata(selection=Selection(everything=True))
    record(
        [
            Turn(BEGAN + 30, [*parts, part("cgroup_end", *ends)], names=NAMES, answered=[1, 2, 3]),
            Turn(BEGAN + SECOND, last=True),
        ],
        tmp_path / "x",
        everything,
    )
    out = tmp_path / "trace"
    ended = run("export", str(tmp_path / "x"), "-f", "perfetto", "-o", str(out))
    assert ended.returncode == 0, ended.stderr
    assert "mean nothing" not in ended.stderr
    assert slices(out) == {"nginx": (BEGAN + 1, BEGAN + 21), living[:12]: (BEGAN + 3, None)}


def test_binary_formats_are_not_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    from tracer.cli import export as command
    from tracer.model.errors import UsageError

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(UsageError) as raised:
        command.run(str(FIRST), "parquet", None)
    assert raised.value.remedy == "add -o format-1.0.parquet"


def test_a_recording_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "x.ktrace"
    file.write_bytes(FIRST.read_bytes())
    (tmp_path / "link").symlink_to(file)
    ended = run("export", str(file), "-o", str(tmp_path / "link"))
    assert ended.returncode == 2
    assert file.read_bytes() == FIRST.read_bytes()


def test_an_export_is_for_its_owners_eyes_only(tmp_path: Path) -> None:
    """As the recording that it comes from, and it is written through nobody's link."""
    assert export(tmp_path, "jsonl").stat().st_mode & 0o777 == 0o600
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "there").symlink_to(victim)
    ended = run("export", str(FIRST), "-o", str(tmp_path / "there"))
    assert ended.returncode == 1
    assert ended.stderr.endswith("it is a symbolic link\n  give another file with -o\n")
    assert victim.read_text() == "mine"
    assert run("export", str(FIRST), "-o", "/dev/null").returncode == 0


def test_a_dash_is_standard_output() -> None:
    ended = run("export", str(FIRST), "-o", "-")
    assert ended.stdout == run("export", str(FIRST)).stdout
    assert not (ROOT / "-").exists()


NUMBERS = st.integers(-(1 << 70), 1 << 70)
UNSIGNED, SIGNED = st.integers(0, (1 << 64) - 1), st.integers(-(1 << 63), (1 << 63) - 1)


@pytest.mark.parametrize("format_", exporters.names())
@given(when=UNSIGNED, offset=SIGNED, pid=NUMBERS, code=NUMBERS, words=st.text())
def test_what_a_format_cannot_hold_is_told(
    format_: str, when: int, offset: int, pid: int, code: int, words: str
) -> None:
    """Whatever a recording that somebody made up holds: it is exported, or called damaged."""
    from tracer.cli.export import _Guarded

    exits = {"exit": probes.get("exits")}
    target = Target(io.BytesIO(), Clock(offset), words, exits, list)
    sink = _Guarded(exporters.get(format_).make(target), format_)
    body = {"exit_code": code, "signal": None, "container_exit": None, "meaning": words}
    event = Event("exit", when, Process(pid, pid, words), None, {"process": None, **body})
    try:
        sink.event(event)
        sink.flush()
    except BadRecording:
        pass
    finally:
        with suppress(BadRecording):
            sink.close()


def test_what_fits_no_column_leaves_its_row(tmp_path: Path) -> None:
    import pyarrow.parquet

    out = io.BytesIO()
    target = Target(out, Clock((1 << 63) - 1), "node", {"exit": probes.get("exits")}, list)
    sink = exporters.get("parquet").make(target)
    body = {"exit_code": -1, "signal": None, "container_exit": None, "meaning": "x"}
    sink.event(Event("exit", 5, Process(1 << 40, 7), None, body))
    sink.close()
    (row,) = pyarrow.parquet.read_table(io.BytesIO(out.getvalue())).to_pylist()
    assert row["time"] is row["process.pid"] is row["ktrace.exit_code"] is None
    assert row["boot_ns"] == 5
    assert json.loads(row["ktrace.event"])["exit_code"] == -1


def test_rows_of_patterns_are_those_of_their_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """In several groups of rows, also where one begins amid a turn and a second ends."""
    monkeypatch.setattr(parquet, "ROWS", 7)
    offset, body = 999_999_990, {"signal": None, "container_exit": None, "meaning": "x"}
    patterns = [
        Pattern(Event("exit", 1, Process(n, n, f"p{n}"), None, {**body, "exit_code": n}))
        for n in (1, 2, 3)
    ]
    sightings = [(n, patterns[n * n % 3]) for n in range(1, 40)]
    out = io.BytesIO()
    clock = Clock(offset)
    target = Target(out, clock, "node", {"exit": probes.get("exits")}, list)
    sink = parquet.ParquetExport(target)
    sink.sightings(sightings[:20])
    sink.sightings(iter(sightings[20:]))
    sink.event(patterns[0].at(40))
    sink.close()
    rows = pyarrow.parquet.read_table(io.BytesIO(out.getvalue())).to_pylist()
    events = [pattern.at(boot_ns) for boot_ns, pattern in (*sightings, (40, patterns[0]))]
    assert [row["ktrace.event"].encode() + b"\n" for row in rows] == [
        to_json(event, clock, "node") for event in events
    ]
    assert [row["boot_ns"] for row in rows] == list(range(1, 41))
    assert [row["time"].value for row in rows] == [offset + n for n in range(1, 41)]
    assert [row["ktrace.exit_code"] for row in rows] == [e.body["exit_code"] for e in events]
    assert [row["ktrace.sentence"] for row in rows] == [target.sentence(e) for e in events]
    assert pyarrow.parquet.ParquetFile(io.BytesIO(out.getvalue())).num_row_groups > 1
