# SPDX-License-Identifier: Apache-2.0
"""The layout of a kind of record: a C struct as a `struct.Struct` and a named tuple.

Nested structs are flattened (`sender.pid` becomes `sender_pid`; the common header keeps its
members' plain names), arrays of bytes and of structs stay `bytes`.
"""

from __future__ import annotations

import struct
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, slots=True)
class Field:
    """One member: its flattened name, its C type (which gives it meaning), its offset and size in
    bytes, and its `struct` format code."""

    name: str
    type: str
    offset: int
    size: int
    code: str


class Schema:
    """The layout of one kind of record. `kind` is its number in a session."""

    def __init__(self, name: str, size: int, fields: list[Field], kind: int = 0) -> None:
        self.kind = kind
        self.name = name
        self.size = size
        self.fields = fields
        layout, at = "=", 0
        for field in fields:
            layout += f"{field.offset - at}x{field.code}"
            at = field.offset + field.size
        layout += f"{size - at}x"
        self.struct = struct.Struct(layout)
        # A record in the ring follows an 8-byte header and is padded to 8 (kernel/bpf/ringbuf.c).
        self.cell = struct.Struct(f"=8x{layout[1:]}{-size % 8}x")
        self.record = self.record_type()
        names = [field.name for field in fields]
        self._sized = [
            (names.index(name), names.index(f"{name}_bytes"))
            for name in names
            if f"{name}_bytes" in names
        ]

    def numbered(self, kind: int) -> Self:
        """The same layout with a kind number."""
        return type(self)(self.name, self.size, self.fields, kind)

    def record_type(self) -> Any:
        """The named tuple type that `make` returns."""
        return namedtuple(f"{self.name}_record", [field.name for field in self.fields])

    def pack(self, **values: int | bytes) -> bytes:
        """A record made in user space. `kind` is set; members not given are zero."""
        return self.plain(**values, kind=self.kind)

    def plain(self, **values: int | bytes) -> bytes:
        """The same of a struct that has no kind, such as a row in a record."""
        empty = {field.name: b"" if field.code.endswith("s") else 0 for field in self.fields}
        if unknown := values.keys() - empty.keys():
            raise KeyError(f"{self.name} records have no {', '.join(sorted(unknown))}")
        return self.struct.pack(*(empty | values).values())

    def room(self, member: str) -> int:
        """The size of a member in bytes."""
        return next(field.size for field in self.fields if field.name == member)

    def make(self, values: tuple[Any, ...]) -> Any:
        """A named tuple of the values that `struct` or `cell` unpacked."""
        return tuple.__new__(self.record, values)

    def cells(self, data: bytes | memoryview) -> Iterator[Any]:
        """Named tuples from `data`, whole ring cells of this kind one after the other."""
        return map(partial(tuple.__new__, self.record), self.cell.iter_unpack(data))

    def clean(self, data: bytes | memoryview) -> bytes | memoryview:
        """The same cells without remains of earlier records in the ring. If a member `x` has a
        sibling `x_bytes`, only that many bytes are meaningful; the others become zero."""
        if not self._sized:
            return data
        cells = []
        for record in self.cell.iter_unpack(data):
            values = list(record)
            for member, length in self._sized:
                values[member] = values[member][: values[length]]
            cells.append(self.cell.pack(*values))
        return b"".join(cells)
