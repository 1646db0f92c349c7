# SPDX-License-Identifier: Apache-2.0
"""The first block of a recording: where, when and with which request it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from tracer.model.errors import BadRecording
from tracer.model.schema import Schema
from tracer.model.selection import Selection
from tracer.recording.format import schemas_json, schemas_of


@dataclass(frozen=True, slots=True)
class Metadata:
    """`node` is empty if its name was not known. `began` is in nanoseconds since boot, and
    `clock_offset_ns` turns that into UTC. `attached` is the attach point of each probe, and
    `cannot_tell` its limits. `count` is the request's limit of events."""

    node: str
    kernel: str
    machine: str
    boot_id: str
    ktrace: str
    began: int
    clock_offset_ns: int
    selection: Selection
    count: int | None = None
    attached: Mapping[str, str] = field(default_factory=dict)
    cannot_tell: Mapping[str, list[str]] = field(default_factory=dict)
    schemas: Mapping[int, Schema] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        told = {f.name: getattr(self, f.name) for f in fields(self)}
        selection = asdict(self.selection) | {"pids": sorted(self.selection.pids)}
        return told | {"selection": selection, "schemas": schemas_json(self.schemas)}


def metadata_of(value: Any) -> Metadata:
    """The inverse of `Metadata.json`. Ignores unknown keys."""
    try:
        told = {f.name: value[f.name] for f in fields(Metadata) if f.name in value}
        for name in ("node", "kernel", "machine", "boot_id", "ktrace"):
            _check(isinstance(told[name], str))
        for name in ("began", "clock_offset_ns"):
            _check(type(told[name]) is int and abs(told[name]) < 1 << 63)
        _check(told.get("count") is None or type(told["count"]) is int)
        attached, cannot_tell = told.get("attached", {}), told.get("cannot_tell", {})
        _check(all(isinstance(name, str) for pair in attached.items() for name in pair))
        _check(all(isinstance(n, str) for what in cannot_tell.values() for n in list(what)))
        told["selection"] = _selection_of(told["selection"])
        told["schemas"] = schemas_of(told["schemas"])
        return Metadata(**told)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadRecording("the recording does not say what it is of") from error


def _selection_of(told: Any) -> Selection:
    lists = {}
    for name in ("pods", "namespaces", "containers", "sender_pods"):
        lists[name] = tuple(told[name])
        _check(all(isinstance(glob, str) for glob in lists[name]))
    labels = tuple((key, value) for key, value in told["labels"])
    _check(all(isinstance(k, str) and (v is None or isinstance(v, str)) for k, v in labels))
    pids = frozenset(told["pids"])
    _check(all(type(pid) is int for pid in pids))
    return Selection(
        **lists,
        labels=labels,
        pids=pids,
        everything=bool(told["everything"]),
        without_pods=bool(told.get("without_pods")),
        besides=tuple(filter(_is_text, told.get("besides", ()))),
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _check(holds: bool) -> None:
    if not holds:
        raise ValueError
