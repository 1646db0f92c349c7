# SPDX-License-Identifier: Apache-2.0
"""Parquet: one row an event, with columns for the most used keys and the whole event as JSON.

Events that differ in their time only make one row of values, which Arrow repeats; only the time is
written into each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from tracer.model.errors import KtraceError
from tracer.model.event import Event, Process, around_time, to_json
from tracer.outputs.exporters import Exporter, Target
from tracer.probes import DAMAGE
from tracer.session.patterns import PATTERN, TIME, Pattern, Sighting

if TYPE_CHECKING:
    import pyarrow

ROWS = 32_768
INT64 = range(-(1 << 63), 1 << 63)
RANGES = {"uint32": range(1 << 32), "uint64": range(1 << 64)}

_Value = Callable[[Event], Any]


def _of_body(*path: str) -> _Value:
    def value(event: Event) -> Any:
        found: Any = event.body
        for name in path:
            if isinstance(found, Process):
                found = getattr(found, name)
            else:
                found = found.get(name) if isinstance(found, Mapping) else None
        return found

    return value


def _of_process(name: str) -> _Value:
    return lambda event: getattr(event.about, name) if event.about else None


def _of_pod(name: str) -> _Value:
    return lambda event: getattr(event.place.pod, name, None) if event.place else None


def _of_container(name: str) -> _Value:
    return lambda event: getattr(event.place.container, name, None) if event.place else None


def _fitting(type_: str, value: Any) -> Any:
    """None for a value outside its column's range; the event's JSON still has it."""
    if value is None or type_ == "string":
        return value
    return value if value in RANGES[type_] else None


# Name, Arrow type, and the value from an event.
COLUMNS: tuple[tuple[str, str, _Value], ...] = (
    ("k8s.namespace.name", "string", _of_pod("namespace")),
    ("k8s.pod.name", "string", _of_pod("name")),
    ("k8s.pod.uid", "string", _of_pod("uid")),
    ("k8s.container.name", "string", _of_container("name")),
    ("container.id", "string", _of_container("id")),
    ("process.pid", "uint32", _of_process("pid")),
    ("process.executable.name", "string", _of_process("comm")),
    ("process.executable.path", "string", _of_process("exe")),
    ("ktrace.origin", "string", _of_body("origin")),
    ("ktrace.sender.pid", "uint32", _of_body("sender", "pid")),
    ("ktrace.sender.comm", "string", _of_body("sender", "comm")),
    ("ktrace.signal.name", "string", _of_body("signal", "name")),
    ("ktrace.exit_code", "uint32", _of_body("exit_code")),
    ("ktrace.reason", "string", _of_body("reason")),
    ("ktrace.count", "uint64", _of_body("count")),
    ("ktrace.verdict", "string", _of_body("verdict")),
    ("ktrace.certainty", "string", _of_body("certainty")),
)


# Columns that differ in each row: nothing is gained by looking for equal values.
_UNIQUE = frozenset(("time", "boot_ns", "ktrace.event"))
_SECOND = 1_000_000_000


@dataclass(slots=True)
class _Rows:
    """Rows to be written: their times, and for each the number of its `values`."""

    times: list[int] = field(default_factory=list)
    like: list[int] = field(default_factory=list)
    values: list[tuple[Any, ...]] = field(default_factory=list)


class ParquetExport:
    def __init__(self, target: Target) -> None:
        self._arrow = _pyarrow()
        arrow = self._arrow
        text = arrow.dictionary(arrow.int32(), arrow.string())  # a column of texts in Parquet
        types = {"string": text, "uint32": arrow.uint32(), "uint64": arrow.uint64()}
        self._schema = arrow.schema(
            [
                ("time", arrow.timestamp("ns", tz="UTC")),
                ("kind", text),
                ("boot_ns", arrow.uint64()),
                ("k8s.node.name", text),
                *((name, types[type_]) for name, type_, _ in COLUMNS),
                ("ktrace.sentence", text),
                ("ktrace.event", arrow.string()),
            ]
        )
        self._target = target
        self._rows = _Rows()
        self._numbers: dict[Pattern, int] = {}
        from pyarrow.parquet import ParquetWriter

        self._writer = ParquetWriter(
            target.out,
            self._schema,
            compression="zstd",
            use_dictionary=[name for name in self._schema.names if name not in _UNIQUE],
            write_statistics=[name for name in self._schema.names if name != "ktrace.event"],
            store_schema=False,  # of Arrow's, in which repeated texts are of another type
        )
        self._thread = ThreadPoolExecutor(1, "parquet")
        self._writing: Future[None] | None = None

    def event(self, event: Event) -> None:
        self.sightings([(event.boot_ns, Pattern(event))])

    def sightings(self, sightings: Iterable[Sighting]) -> None:
        """As `event` for each. The values of a pattern are taken when it is seen first, as later it
        may have other names."""
        these, rows, numbers = list(sightings), self._rows, self._numbers
        try:
            for pattern in dict.fromkeys(map(PATTERN, these)):
                if pattern not in numbers:
                    rows.values.append(self._of(pattern.event))
                    numbers[pattern] = len(numbers)
        except DAMAGE:
            self._add(list(takewhile(lambda one: one[1] in numbers, these)))
            raise
        self._add(these)

    def flush(self) -> None:
        """Does nothing: rows are written in large groups only."""

    def close(self) -> None:
        with self._thread:
            self._write()
            self._wait()
        self._writer.close()

    def _add(self, sightings: Sequence[Sighting]) -> None:
        self._rows.times += map(TIME, sightings)
        self._rows.like += map(self._numbers.__getitem__, map(PATTERN, sightings))
        if len(self._rows.times) >= ROWS:
            self._write()

    def _write(self) -> None:
        """In a thread: compressing takes as long as what comes before it."""
        self._wait()
        rows, self._rows = self._rows, _Rows()
        self._numbers.clear()
        if rows.times:
            self._writing = self._thread.submit(self._write_rows, rows)

    def _wait(self) -> None:
        if self._writing:
            writing, self._writing = self._writing, None
            writing.result()

    def _of(self, event: Event) -> tuple[Any, ...]:
        """The values of the columns in which the time is not, and the JSON before and behind it."""
        line = to_json(event, self._target.clock, self._target.node)
        columns = [_fitting(type_, value(event)) for _, type_, value in COLUMNS]
        head, tail = around_time(line.rstrip())
        node = self._target.node or None
        told = self._target.sentence(event)
        return event.kind, node, *columns, told, head.decode(), tail.decode()

    def _write_rows(self, rows: _Rows) -> None:
        arrow, offset = self._arrow, self._target.clock.offset_ns
        like = arrow.array(rows.like, arrow.int32())
        *values, heads, tails = zip(*rows.values, strict=True)
        names = [name for name in self._schema.names if name not in _UNIQUE]
        columns = {
            name: self._repeated(self._schema.field(name).type, told, like)
            for name, told in zip(names, values, strict=True)
        }
        moments: list[int | None] = [at + offset for at in rows.times]
        if min(rows.times) + offset not in INT64 or max(rows.times) + offset not in INT64:
            moments = [at if at in INT64 else None for at in moments]
        columns["time"] = arrow.array(moments, self._schema.field("time").type)
        columns["boot_ns"] = arrow.array(rows.times, arrow.uint64())
        around = (arrow.array(one).take(like) for one in (heads, tails))
        columns["ktrace.event"] = self._lines(rows.times, *around)
        ordered = [columns[name] for name in self._schema.names]
        self._writer.write_table(arrow.table(ordered, schema=self._schema))

    def _repeated(self, type_: Any, values: Sequence[Any], like: Any) -> Any:
        arrow = self._arrow
        if not arrow.types.is_dictionary(type_):
            return arrow.array(values, type_).take(like)
        told = arrow.array(values, type_.value_type).dictionary_encode()
        return arrow.DictionaryArray.from_arrays(told.indices.take(like), told.dictionary)

    def _lines(self, times: list[int], heads: Any, tails: Any) -> Any:
        """The JSON of all rows."""
        arrow, clock = self._arrow, self._target.clock
        offset, compute = clock.offset_ns, arrow.compute
        seconds = [(at + offset) // _SECOND for at in times]
        words = {one: clock.iso(one * _SECOND - offset)[:20] for one in set(seconds)}
        to_seconds = arrow.array(list(map(words.__getitem__, seconds)))
        rest = arrow.array([(at + offset) % _SECOND for at in times], arrow.int32())
        digits = compute.utf8_lpad(rest.cast(arrow.string()), 9, "0")
        boots = arrow.array(times, arrow.uint64()).cast(arrow.string())
        parts = heads, to_seconds, digits, 'Z","boot_ns":', boots, tails
        return compute.binary_join_element_wise(*parts, "")


def _pyarrow() -> pyarrow:
    try:
        import pyarrow
        import pyarrow.compute
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
