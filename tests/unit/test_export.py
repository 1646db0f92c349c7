# SPDX-License-Identifier: Apache-2.0
"""Exports, each read by a reader of its format: jq, DuckDB, Perfetto's and OpenTelemetry's own
message definitions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
from google.protobuf import json_format
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from tests.support.ktrace import ROOT, run
from tests.unit.test_recording import CID, DATA, UID

FIRST = DATA / "format-1.0.ktrace"
EVENTS = [json.loads(line) for line in (DATA / "format-1.0.jsonl").read_bytes().splitlines()]


def export(folder: Path, format_: str, *arguments: str) -> Path:
    out = folder / format_
    ended = run("export", str(FIRST), "-f", format_, "-o", str(out), *arguments)
    assert ended.returncode == 0, ended.stderr
    return out


def test_json_lines(tmp_path: Path) -> None:
    out = export(tmp_path, "jsonl")
    assert out.read_bytes() == (DATA / "format-1.0.jsonl").read_bytes()
    kinds = subprocess.run(
        ["jq", "-r", ".kind", str(out)], capture_output=True, text=True, check=True
    )
    assert kinds.stdout.split() == [event["kind"] for event in EVENTS]
    assert run("export", str(FIRST)).stdout.encode() == out.read_bytes()


def test_selectors_hold_for_exports(tmp_path: Path) -> None:
    out = export(tmp_path, "jsonl", "--from", "+52ms", "-p", "shop/web-0")
    kinds = [json.loads(line)["kind"] for line in out.read_text().splitlines()]
    assert kinds == ["exit", "backlog_drop", "lost"]


def test_parquet(tmp_path: Path) -> None:
    out = export(tmp_path, "parquet")
    query = "select * exclude (time), epoch_ns(time) as ns from read_parquet(?)"
    found = duckdb.execute(query, [str(out)])
    names = [column[0] for column in found.description or ()]
    rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    assert [json.loads(row["ktrace.event"]) for row in rows] == EVENTS
    for row, event in zip(rows, EVENTS, strict=True):
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
        }
        assert row["ktrace.sentence"]


def test_without_its_library_parquet_names_the_remedy() -> None:
    code = "import sys; sys.modules['pyarrow'] = None; from tracer.cli import main; main()"
    command = [sys.executable, "-c", code, "export", str(FIRST), "-f", "parquet"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert ended.returncode == 1
    assert "pip install 'ktrace[parquet]'" in ended.stderr
    assert "Traceback" not in ended.stderr


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


def test_otlp(tmp_path: Path) -> None:
    records = []
    for line in export(tmp_path, "otlp").read_text().splitlines():
        for logs in json_format.Parse(line, LogsData()).resource_logs:
            resource = attributes(logs.resource.attributes)
            records += [(resource, log) for scope in logs.scope_logs for log in scope.log_records]
    records.sort(key=lambda pair: pair[1].time_unix_nano)
    assert len(records) == len(EVENTS)
    for (resource, log), event in zip(records, EVENTS, strict=True):
        assert log.event_name == f"ktrace.{event['kind']}"
        assert log.time_unix_nano == event["boot_ns"] + 1_700_000_000 * 10**9
        assert log.body.string_value
        assert resource["k8s.node.name"] == "node-7"
        told = attributes(log.attributes)
        assert told["ktrace.boot_ns"] == event["boot_ns"]
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
    told = attributes(log.attributes)
    assert (log.severity_number, log.severity_text) == (13, "WARN")
    assert {key: value for key, value in told.items() if key.startswith("process.")} == {
        "process.pid": 10,
        "process.executable.name": "nginx",
        "process.executable.path": "/usr/sbin/nginx",
        "process.command_args": ["nginx", "-g", "daemon off;"],
        "process.real_user.id": 101,
        "process.vpid": 1,
    }
    assert told["ktrace.sender.pid"] == 20
    assert told["ktrace.signal.name"] == "SIGHUP"


def test_perfetto(tmp_path: Path) -> None:
    trace = Trace()
    trace.ParseFromString(export(tmp_path, "perfetto").read_bytes())
    clocks = {c.clock_id: c.timestamp for c in trace.packet[0].clock_snapshot.clocks}
    assert clocks[1] - clocks[6] == 1_700_000_000 * 10**9
    assert {packet.trusted_packet_sequence_id for packet in trace.packet} == {1}
    tracks: dict[int, Any] = {}
    begun: dict[int, Any] = {}
    instants = []
    for packet in trace.packet[1:]:
        if packet.HasField("track_descriptor"):
            tracks[packet.track_descriptor.uuid] = packet.track_descriptor
            continue
        event = packet.track_event
        assert event.type == TrackEvent.TYPE_INSTANT
        assert packet.timestamp_clock_id == 6
        assert event.track_uuid in tracks, "a track is described before it is used"
        for flow in event.flow_ids:
            begun[flow] = event
        if event.debug_annotations:
            instants.append((packet, event))
    by_name = {track.name: track for track in tracks.values()}
    assert set(by_name) == {"node-7", "shop/web-0", "nginx"}
    assert by_name["nginx"].parent_uuid == by_name["shop/web-0"].uuid
    assert len(instants) == len(EVENTS)
    for (packet, event), told in zip(instants, EVENTS, strict=True):
        assert packet.timestamp == told["boot_ns"]
        assert list(event.categories) == [told["kind"]]
        assert json.loads(event.debug_annotations[0].legacy_json_value) == told
        own = tracks[event.track_uuid].name
        assert own == ("nginx" if told["container"] else "node-7")
        if told["kind"] == "signal":
            (flow,) = event.terminating_flow_ids
            assert tracks[begun[flow].track_uuid].name == "node-7", "an arrow from the sender"


def test_binary_formats_are_not_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    from tracer.cli import export as command
    from tracer.errors import UsageError

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
