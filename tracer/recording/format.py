# SPDX-License-Identifier: Apache-2.0
"""The `.ktrace` format, byte by byte. docs/recording-format.md gives the reasons.

A file is a fixed header followed by blocks. Each block has its own CRC and its own zstd frame, so
every whole block before a cut can still be read. A file may be malicious: every length is checked
before it is used.
"""

from __future__ import annotations

import struct
import threading
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, unique
from keyword import iskeyword
from typing import Any

import orjson
import zstandard

from tracer.model.batch import HEADER
from tracer.model.errors import BadRecording
from tracer.model.kubernetes import Fact
from tracer.model.names import Container, Names, Pod
from tracer.model.schema import Field, Schema
from tracer.model.turn import Lost, Part, Turn

MAGIC = b"\x89KTRACE\n"
MAJOR, MINOR = 1, 0
FILE_HEADER = struct.Struct("<8sHHI")

BLOCK_MAGIC = b"KTB\n"
# magic, kind, flags, length, summary, size, count, first, last, lost, CRC of the bytes after the
# header; then the CRC of the header itself, which protects its lengths
BLOCK_HEADER = struct.Struct("<4sHHIIIIQQQI")
CRC = struct.Struct("<I")
BLOCK_HEADER_BYTES = BLOCK_HEADER.size + CRC.size

MAX_BLOCK = 32 << 20  # of a block, also decompressed
MAX_SUMMARY = 4 << 20
MAX_SCHEMAS = 256
MAX_FIELDS = 1000
MIN_RECORD, MAX_RECORD = 16, 64 << 10
MAX_RUNS = 1 << 18  # of a block, and as many turns
MAX_NAME = 255
# The fastest level: columns are so uniform that higher levels gain a hundredth.
LEVEL = 1

MORE, LAST = 1, 2  # a turn's flags
_INTEGERS = {"B": 1, "H": 2, "I": 4, "Q": 8, "b": 1, "h": 2, "i": 4, "q": 8}


@unique
class Kind(IntEnum):
    META = 1
    EVENTS = 2
    IDENTITY = 3
    LOST = 4
    END = 5
    KUBERNETES = 6
    HISTORY = 7


@dataclass(frozen=True, slots=True)
class Block:
    """`count` records from `first` to `last`, in nanoseconds since boot, and `lost` that found no
    room. `frame` is compressed; `size` is its length decompressed."""

    kind: int
    size: int
    count: int
    first: int
    last: int
    lost: int
    summary: bytes
    frame: bytes

    @property
    def payload(self) -> bytes:
        """Decompressed, and never more than `size`."""
        try:
            announced = zstandard.get_frame_parameters(self.frame).content_size
            if announced != self.size:
                raise BadRecording("a block decompresses to another size than it says")
            return _zstd.decompress(self.frame, max_output_size=self.size)
        except (zstandard.ZstdError, MemoryError) as error:
            raise BadRecording(f"a block cannot be decompressed: {error}") from error


class _Zstd(threading.local):
    """Each thread's own: they work without Python's lock, and two threads in one would overwrite
    each other's memory."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=LEVEL).compress
        self.decompress = zstandard.ZstdDecompressor(max_window_size=MAX_BLOCK).decompress


_zstd = _Zstd()


def file_header() -> bytes:
    return FILE_HEADER.pack(MAGIC, MAJOR, MINOR, 0)


def check_file_header(data: bytes) -> None:
    """Raises `BadRecording` unless this ktrace can read the file."""
    if not data.startswith(MAGIC[: len(data)]) or not data:
        raise BadRecording(
            "this is not a ktrace recording", "give a file that ktrace record or --record wrote"
        )
    if len(data) < FILE_HEADER.size:
        raise BadRecording("the recording is cut within its header: nothing is left of it")
    _, major, _, _ = FILE_HEADER.unpack(data)
    if major != MAJOR:
        raise BadRecording(
            f"the recording is of format {major}, this ktrace reads {MAJOR}",
            "replay it with a newer ktrace" if major > MAJOR else None,
        )


def block(
    kind: int,
    payload: bytes,
    *,
    count: int = 0,
    first: int = 0,
    last: int = 0,
    lost: int = 0,
    summary: bytes = b"",
) -> bytes:
    """A whole block."""
    frame = _zstd.compress(payload)
    length = len(summary) + len(frame)
    crc = zlib.crc32(frame, zlib.crc32(summary))
    header = BLOCK_HEADER.pack(
        *(BLOCK_MAGIC, kind, 0, length, len(summary), len(payload), count, first, last, lost, crc)
    )
    return b"".join((header, CRC.pack(zlib.crc32(header)), summary, frame))


def block_lengths(header: bytes) -> tuple[int, int, int, tuple[int, int, int, int, int, int]]:
    """From a block's header: how many bytes follow, how many of them are the summary, the CRC of
    them all, and the rest of `Block` in its order. Raises `BadRecording`."""
    fields, crc = header[: BLOCK_HEADER.size], CRC.unpack(header[BLOCK_HEADER.size :])[0]
    magic, kind, _, length, summary, size, *times, body_crc = BLOCK_HEADER.unpack(fields)
    if magic != BLOCK_MAGIC or zlib.crc32(fields) != crc:
        raise BadRecording("a block's header is damaged")
    if length > MAX_BLOCK or size > MAX_BLOCK or summary > min(length, MAX_SUMMARY):
        raise BadRecording("a block is larger than any may be")
    count, first, last, lost = times
    return length, summary, body_crc, (kind, size, count, first, last, lost)


def json_block(kind: int, value: object) -> bytes:
    return block(kind, orjson.dumps(value))


def read_json(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise BadRecording(f"a block is no JSON: {error}") from error


# Turns


def by_kind(turns: Iterable[Turn]) -> dict[int, bytes]:
    """All cells of each kind, with the kinds in order of their first occurrence."""
    cells: dict[int, list[bytes | memoryview]] = {}
    for turn in turns:
        for part in turn.parts:
            cells.setdefault(part.kind, []).append(part.cells)
    return {kind: b"".join(chunks) for kind, chunks in cells.items()}


def events_payload(
    turns: Sequence[Turn], cells: Mapping[int, bytes], schemas: Mapping[int, Schema]
) -> bytes:
    """The turns in order, as 32-bit words: their number, then for each turn its time (two words,
    the lower first), flags, number of runs, and for each run its kind and count. Then, for each
    kind in `cells`, the first bytes of all its records, the second bytes of all …"""
    words = array("I", [len(turns)])
    for turn in turns:
        flags = MORE * turn.more | LAST * turn.last
        words.extend((turn.now & 0xFFFFFFFF, turn.now >> 32, flags, len(turn.parts)))
        for part in turn.parts:
            words.extend((part.kind, part.count))
    payload = [words.tobytes()]
    for kind, data in cells.items():
        size, stride = schemas[kind].size, schemas[kind].cell.size
        payload += [data[at::stride] for at in range(HEADER, HEADER + size)]
    return b"".join(payload)


def turns_of(payload: bytes, sizes: Mapping[int, int]) -> list[Turn]:
    """The inverse of `events_payload`, with each record as a ring cell again. `sizes` are the
    records' sizes by kind."""
    words = memoryview(payload)[: len(payload) & ~3].cast("I")
    turns, counts, at = _order(words)
    at *= 4
    cells: dict[int, memoryview] = {}
    for kind, count in counts.items():
        if kind not in sizes:
            raise BadRecording(f"a block has records of kind {kind}, which is not described")
        size = sizes[kind]
        if len(payload) - at < count * size:
            raise BadRecording("a block has fewer records than it says")
        stride = (HEADER + size + 7) // 8 * 8
        out = bytearray(count * stride)
        for offset in range(HEADER, HEADER + size):
            out[offset::stride] = payload[at : at + count]
            at += count
        cells[kind] = memoryview(out)
    for turn in turns:
        for part in turn.parts:
            stride = (HEADER + sizes[part.kind] + 7) // 8 * 8
            end = part.count * stride
            part.cells, cells[part.kind] = cells[part.kind][:end], cells[part.kind][end:]
    return turns


def _order(words: memoryview) -> tuple[list[Turn], dict[int, int], int]:
    """The turns without records, the number of records by kind, and the records' offset."""
    turns: list[Turn] = []
    counts: dict[int, int] = {}
    try:
        at, total = 1, 0
        for _ in range(words[0]):
            low, high, flags, runs = words[at : at + 4]
            at += 4
            total += 1 + runs
            if total > MAX_RUNS:
                raise BadRecording(f"a block has more than {MAX_RUNS} turns and runs")
            order = words[at : at + 2 * runs].tolist()
            if len(order) < 2 * runs:
                raise IndexError
            parts = [Part(k, n, b"") for k, n in zip(order[::2], order[1::2], strict=True)]
            for part in parts:
                counts[part.kind] = counts.get(part.kind, 0) + part.count
            at += 2 * runs
            more, last = bool(flags & MORE), bool(flags & LAST)
            turns.append(Turn(low | high << 32, parts, more, last=last))
    except (IndexError, ValueError) as error:
        raise BadRecording("a block ends within a turn") from error
    return turns, counts, at


# Blocks of JSON


def names_json(names: Names, answered: Iterable[int]) -> dict[str, Any]:
    return {
        "pods": [
            {
                "uid": pod.uid,
                "namespace": pod.namespace,
                "name": pod.name,
                "labels": None if pod.labels is None else dict(pod.labels),
            }
            for pod in names.pods.values()
        ],
        "containers": [
            {
                "id": container.id,
                "runtime": container.runtime,
                "name": container.name,
                "pod_uid": container.pod_uid,
                "init_pid": container.init_pid,
            }
            for container in names.containers.values()
        ],
        "answered": list(answered),
    }


def names_of(value: Any) -> tuple[Names, list[int]]:
    """The opposite."""
    told = _typed(value, dict)
    names = Names()
    for entry in _entries(told, "pods"):
        labels = entry.get("labels")
        if labels is not None:
            labels = {_typed(k, str): _typed(v, str) for k, v in _typed(labels, dict).items()}
        uid = _typed(entry.get("uid"), str)
        names.pods[uid] = Pod(uid, _maybe(entry, "namespace"), _maybe(entry, "name"), labels)
    for entry in _entries(told, "containers"):
        id_, init = _typed(entry.get("id"), str), entry.get("init_pid")
        names.containers[id_] = Container(
            id_,
            _maybe(entry, "runtime"),
            _maybe(entry, "name"),
            _maybe(entry, "pod_uid"),
            None if init is None else _typed(init, int),
        )
    return names, [_typed(cgroup, int) for cgroup in _typed(told.get("answered", []), list)]


def facts_json(facts: Iterable[Fact]) -> dict[str, Any]:
    """As the API lists them."""
    return {"kind": "List", "items": [fact.json() for fact in facts]}


def lost_json(lost: Lost) -> dict[str, Any]:
    return {"since": lost.since, "counts": dict(lost.counts)}


def lost_of(value: Any) -> Lost:
    told = _typed(value, dict)
    counts = _typed(told.get("counts"), dict)
    return Lost(
        _typed(told.get("since"), int), {name: _typed(n, int) for name, n in counts.items()}
    )


def schemas_json(schemas: Mapping[int, Schema]) -> list[dict[str, Any]]:
    return [
        {
            "kind": kind,
            "name": schema.name,
            "size": schema.size,
            "fields": [[f.name, f.type, f.offset, f.size, f.code] for f in schema.fields],
        }
        for kind, schema in schemas.items()
    ]


def schemas_of(value: Any) -> dict[int, Schema]:
    """By kind. Refuses layouts that no compiler would make."""
    found: dict[int, Schema] = {}
    for entry in _typed(value, list):
        told = _typed(entry, dict)
        kind, size = _typed(told.get("kind"), int), _typed(told.get("size"), int)
        if not 0 <= kind < 1 << 32 or kind in found or len(found) >= MAX_SCHEMAS:
            raise BadRecording("the recording numbers its kinds of records wrongly")
        if not MIN_RECORD <= size <= MAX_RECORD:
            raise BadRecording(f"the recording has records of {size} bytes")
        found[kind] = RecordedSchema(_name(told.get("name")), size, _fields(told, size), kind)
    return found


def _fields(told: Mapping[str, Any], size: int) -> list[Field]:
    listed = _typed(told.get("fields"), list)
    if len(listed) > MAX_FIELDS:
        raise BadRecording(f"the recording has records of more than {MAX_FIELDS} members")
    fields: list[Field] = []
    at = 0
    for entry in listed:
        if not isinstance(entry, list) or len(entry) < 5:
            raise BadRecording("the recording describes a member wrongly")
        name, type_, offset, width, code = entry[:5]
        field = Field(
            *(_name(name), _typed(type_, str), _typed(offset, int), _typed(width, int)),
            _typed(code, str),
        )
        if not at <= field.offset <= field.offset + field.size <= size or field.size < 1:
            raise BadRecording(f"the recording's member {field.name} lies outside of its record")
        if code != f"{field.size}s" and _INTEGERS.get(code) != field.size:
            raise BadRecording(f"the recording's member {field.name} is of no known type")
        at = field.offset + field.size
        fields.append(field)
    if len({field.name for field in fields}) < len(fields):
        raise BadRecording("the recording has two members of one name")
    return fields


def _name(value: Any) -> str:
    name: str = _typed(value, str)
    plain = name.isascii() and name.isidentifier() and not iskeyword(name)
    if not plain or name[0] == "_" or len(name) > MAX_NAME:
        raise BadRecording("the recording has a name that no C member can have")
    return name


class Absent(int):
    """A member that the recording does not have: zero as a number, empty as bytes."""

    def __getitem__(self, _: object) -> bytes:
        return b""

    def split(self, *_: object) -> list[bytes]:
        return [b""]


_ABSENT = Absent()


class RecordedSchema(Schema):
    """A schema from a file. A member missing in an older recording is `Absent`, no error."""

    def record_type(self) -> Any:
        record = super().record_type()
        return type(record.__name__, (record,), {"__slots__": (), "__getattr__": _absent})


def _absent(_: object, name: str) -> Absent:
    if name.startswith("_"):
        raise AttributeError(name)
    return _ABSENT


def _entries(told: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    return [_typed(entry, dict) for entry in _typed(told.get(key, []), list)]


def _maybe(entry: Mapping[str, Any], key: str) -> str | None:
    value = entry.get(key)
    return None if value is None else str(_typed(value, str))


def _typed(value: Any, type_: type) -> Any:
    if type(value) is not type_:
        raise BadRecording("the recording's JSON is not of the form that it should have")
    return value
