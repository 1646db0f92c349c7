# SPDX-License-Identifier: Apache-2.0
"""OpenTelemetry logs: OTLP in JSON, one `LogsData` a line, as the collector's file exporter writes
and its OTLP JSON receiver reads (opentelemetry/proto/logs/v1/logs.proto).

The pod and container are the resource, the affected process is `process.*`, and ktrace's own keys
are `ktrace.*`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from tracer.model.event import Event, to_json
from tracer.outputs.exporters import Exporter, Target

# SeverityNumber in logs.proto
INFO, WARN = (9, "INFO"), (13, "WARN")
# Key of a process in docs/events.md → name in the semantic conventions.
PROCESS = {
    "pid": "process.pid",
    "comm": "process.executable.name",
    "exe": "process.executable.path",
    "argv": "process.command_args",
    "uid": "process.real_user.id",
    "pid_in_pod": "process.vpid",
}
# Keys with another place in a log record.
ELSEWHERE = ("kind", "time", "node", "pod", "container")
INT64 = range(-(1 << 63), 1 << 63)


class OtlpExport:
    def __init__(self, target: Target) -> None:
        self._target = target
        self._records: dict[bytes, list[dict[str, Any]]] = {}  # by their resource

    def event(self, event: Event) -> None:
        target = self._target
        told = orjson.loads(to_json(event, target.clock, target.node))
        about = about_key(event)
        number, text = WARN if target.alarm(event) else INFO
        time = str(event.boot_ns + target.clock.offset_ns)
        record = {
            "timeUnixNano": time,
            "observedTimeUnixNano": time,
            "severityNumber": number,
            "severityText": text,
            "eventName": f"ktrace.{event.kind}",
            "body": {"stringValue": target.sentence(event)},
            "attributes": _attributes(named(told, about)),
        }
        whose = orjson.dumps(_attributes(resource(told)))
        self._records.setdefault(whose, []).append(record)

    def flush(self) -> None:
        if self._records:
            logs = [
                {
                    "resource": {"attributes": orjson.Fragment(resource)},
                    "scopeLogs": [{"scope": {"name": "ktrace"}, "logRecords": records}],
                }
                for resource, records in self._records.items()
            ]
            self._target.out.write(orjson.dumps({"resourceLogs": logs}) + b"\n")
            self._records.clear()

    def close(self) -> None:
        self.flush()


def about_key(event: Event) -> str | None:
    """The key of the affected process, whose attributes are `process.*`."""
    return next((k for k, v in event.body.items() if v is event.about and v), None)


def resource(told: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The attributes of the pod and container; None if not known."""
    yield "host.name", told["node"]
    yield "k8s.node.name", told["node"]
    pod, container = told["pod"] or {}, told["container"] or {}
    yield "k8s.namespace.name", pod.get("namespace")
    yield "k8s.pod.name", pod.get("name")
    yield "k8s.pod.uid", pod.get("uid")
    for key, value in (pod.get("labels") or {}).items():
        yield f"k8s.pod.label.{key}", value
    yield "k8s.container.name", container.get("name")
    yield "container.id", container.get("id")
    yield "container.runtime.name", container.get("runtime")


def named(told: dict[str, Any], about: str | None) -> Iterator[tuple[str, Any]]:
    """Every key of an event under its name in a log record, with its value."""
    for key, value in told.items():
        if key == about:
            for inner, name in PROCESS.items():
                yield name, value[inner]
            value = {k: v for k, v in value.items() if k not in PROCESS}
        if key not in ELSEWHERE:
            yield f"ktrace.{key}", value


def _attributes(named: Iterator[tuple[str, Any]]) -> list[dict[str, Any]]:
    """Nested objects become dotted names; null is left out."""
    return [
        {"key": key, "value": _value(value)}
        for name, whole in named
        for key, value in flat(name, whole)
        if value is not None
    ]


def flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(f"{name}.{key}", inner)
    else:
        yield name, value


def _value(value: Any) -> dict[str, Any]:
    """An `AnyValue`. 64-bit integers are strings in protobuf's JSON."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)} if value in INT64 else {"stringValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(inner) for inner in value if inner is not None]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": _attributes(iter(value.items()))}}
    return {"stringValue": str(value)}


EXPORTER = Exporter("OpenTelemetry logs, OTLP in JSON lines", ".otlp.jsonl", False, OtlpExport)
