# SPDX-License-Identifier: Apache-2.0
"""docs/recording-format.md is enough to write another reader: this one knows nothing but that
page."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import zstandard

from tests.unit.recording.test_recording import DATA

META, EVENTS, IDENTITY, LOST, END = 1, 2, 3, 4, 5


def blocks(data: bytes) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Kind, number of events, summary, payload."""
    magic, major, _minor, _ = struct.unpack_from("<8sHHI", data)
    assert (magic, major) == (b"\x89KTRACE\n", 1)
    at = 16
    while at < len(data):
        header = data[at : at + 56]
        magic, kind, _, length, summary, size, count, _, _, _, body_crc, crc = struct.unpack(
            "<4sHHIIIIQQQII", header
        )
        assert magic == b"KTB\n"
        assert zlib.crc32(header[:52]) == crc
        body = data[at + 56 : at + 56 + length]
        assert zlib.crc32(body) == body_crc
        payload = zstandard.ZstdDecompressor().decompress(body[summary:])
        assert len(payload) == size
        yield kind, count, body[:summary], payload
        at += 56 + length


def turns(payload: bytes, schemas: dict[int, Any]) -> Iterator[tuple[int, int, list[Any]]]:
    """Time, flags, and for each run its kind and records."""

    def read(at: int) -> int:
        return int.from_bytes(payload[4 * at : 4 * at + 4], "little")

    order, counts, at = [], dict[int, int](), 1
    for _ in range(read(0)):
        low, high, flags, runs = (read(at + n) for n in range(4))
        at += 4
        listed = [(read(at + 2 * n), read(at + 2 * n + 1)) for n in range(runs)]
        at += 2 * runs
        order.append((low | high << 32, flags, listed))
        for kind, count in listed:
            counts[kind] = counts.get(kind, 0) + count
    at *= 4
    records: dict[int, list[bytes]] = {}
    for kind, count in counts.items():
        size = schemas[kind]["size"]
        columns = [payload[at + n * count : at + (n + 1) * count] for n in range(size)]
        at += size * count
        records[kind] = [bytes(column[n] for column in columns) for n in range(count)]
    assert at == len(payload)
    for now, flags, listed in order:
        yield now, flags, [(k, [records[k].pop(0) for _ in range(n)]) for k, n in listed]


def member(record: bytes, schema: Any, name: str) -> Any:
    for field, _type, offset, _size, code in schema["fields"]:
        if field == name:
            return struct.unpack_from(f"<{code}", record, offset)[0]
    raise KeyError(name)


def test_another_reader() -> None:
    found = list(blocks((DATA / "format-1.0.ktrace").read_bytes()))
    assert [kind for kind, *_ in found] == [META, EVENTS, IDENTITY, EVENTS, LOST, EVENTS, END]
    meta = json.loads(found[0][3])
    schemas = {schema["kind"]: schema for schema in meta["schemas"]}
    assert (meta["node"], meta["began"], meta["count"]) == ("node-7", 5_000_000_000, None)
    seen: list[tuple[str, int]] = []
    last = []
    for kind, count, summary, payload in found:
        if kind == EVENTS:
            before = len(seen)
            for _, flags, runs in turns(payload, schemas):
                last.append(bool(flags & 2))
                for number, records in runs:
                    schema = schemas[number]
                    for record in records:
                        assert member(record, schema, "kind") == number
                        seen.append((schema["name"], member(record, schema, "time")))
            told = json.loads(summary)
            assert sum(sum(pods.values()) for pods in told.values()) == count
            for name, pods in told.items():
                mine = [one for one, _ in seen[before:] if one == name]
                assert len(mine) == sum(pods.values())
    assert last == [False] * 6 + [True]
    events = [json.loads(line) for line in (DATA / "format-1.0.jsonl").read_bytes().splitlines()]
    shown = sorted((e["kind"], e["boot_ns"]) for e in events if e["kind"] != "lost")
    kinds = {kind for kind, _ in shown}
    assert sorted((name, time) for name, time in seen if name in kinds) == shown
    (names,) = [json.loads(payload) for kind, _, _, payload in found if kind == IDENTITY]
    assert names["pods"][0]["name"] == "web-0"
    (lost,) = [json.loads(payload) for kind, _, _, payload in found if kind == LOST]
    assert lost == {"since": 5_000_000_000, "counts": {"signal": 19137, "process": 2}}
