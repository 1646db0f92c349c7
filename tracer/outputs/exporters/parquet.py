# SPDX-License-Identifier: Apache-2.0
"""Parquet: one row an event, with columns for the most used keys and the whole event as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson

from tracer.model.errors import KtraceError
from tracer.model.event import Event, to_json
from tracer.outputs.exporters import Exporter, Target

if TYPE_CHECKING:
    import pyarrow

ROWS = 32_768
INT64 = range(-(1 << 63), 1 << 63)
RANGES = {"uint32": range(1 << 32), "uint64": range(1 << 64)}

_Row = Callable[[Event, dict[str, Any]], Any]


def _at(*path: str) -> _Row:
    def value(_: Event, told: dict[str, Any]) -> Any:
        found: Any = told
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        return found

    return value


def _fitting(type_: str, value: Any) -> Any:
    """None for a value outside its column's range; the event's JSON still has it."""
    if value is None or type_ == "string":
        return value
    return value if value in RANGES[type_] else None


def _of_process(name: str) -> _Row:
    return lambda event, told: getattr(event.about, name) if event.about else None


# Name, Arrow type, and the value from an event and its JSON.
COLUMNS: tuple[tuple[str, str, _Row], ...] = (
    ("kind", "string", _at("kind")),
    ("boot_ns", "uint64", _at("boot_ns")),
    ("k8s.node.name", "string", _at("node")),
    ("k8s.namespace.name", "string", _at("pod", "namespace")),
    ("k8s.pod.name", "string", _at("pod", "name")),
    ("k8s.pod.uid", "string", _at("pod", "uid")),
    ("k8s.container.name", "string", _at("container", "name")),
    ("container.id", "string", _at("container", "id")),
    ("process.pid", "uint32", _of_process("pid")),
    ("process.executable.name", "string", _of_process("comm")),
    ("process.executable.path", "string", _of_process("exe")),
    ("ktrace.origin", "string", _at("origin")),
    ("ktrace.sender.pid", "uint32", _at("sender", "pid")),
    ("ktrace.sender.comm", "string", _at("sender", "comm")),
    ("ktrace.signal.name", "string", _at("signal", "name")),
    ("ktrace.exit_code", "uint32", _at("exit_code")),
    ("ktrace.reason", "string", _at("reason")),
    ("ktrace.count", "uint64", _at("count")),
    ("ktrace.verdict", "string", _at("verdict")),
    ("ktrace.certainty", "string", _at("certainty")),
)


class ParquetExport:
    def __init__(self, target: Target) -> None:
        self._arrow = _pyarrow()
        types = {"string": self._arrow.string(), "uint32": self._arrow.uint32()}
        types["uint64"] = self._arrow.uint64()
        self._schema = self._arrow.schema(
            [
                ("time", self._arrow.timestamp("ns", tz="UTC")),
                *((name, types[type_]) for name, type_, _ in COLUMNS),
                ("ktrace.sentence", self._arrow.string()),
                ("ktrace.event", self._arrow.string()),
            ]
        )
        self._target = target
        self._rows: list[tuple[Any, ...]] = []
        from pyarrow.parquet import ParquetWriter

        self._writer = ParquetWriter(target.out, self._schema, compression="zstd")

    def event(self, event: Event) -> None:
        line = to_json(event, self._target.clock, self._target.node)
        told = orjson.loads(line)
        time = event.boot_ns + self._target.clock.offset_ns
        columns = (_fitting(type_, value(event, told)) for _, type_, value in COLUMNS)
        when = time if time in INT64 else None
        self._rows.append((when, *columns, self._target.sentence(event), line.decode().rstrip()))
        if len(self._rows) >= ROWS:
            self._write()

    def flush(self) -> None:
        """Does nothing: rows are written in large groups only."""

    def close(self) -> None:
        self._write()
        self._writer.close()

    def _write(self) -> None:
        if self._rows:
            columns = [
                self._arrow.array(values, field.type)
                for values, field in zip(zip(*self._rows, strict=True), self._schema, strict=True)
            ]
            self._writer.write_table(self._arrow.table(columns, schema=self._schema))
            self._rows.clear()


def _pyarrow() -> pyarrow:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise KtraceError(
            f"Parquet needs a library that is not there: {error}",
            "python3 -m pip install pyarrow, beside ktrace; a recording can be read on any machine",
        ) from error
    return pyarrow


EXPORTER = Exporter(
    "Parquet, for DuckDB, Spark and pandas", ".parquet", True, ParquetExport, _pyarrow
)
