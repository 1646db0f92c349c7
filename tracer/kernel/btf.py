# SPDX-License-Identifier: Apache-2.0
"""Types in BTF, the kernel's own description of them (Documentation/bpf/btf.rst in its tree): of a
compiled probe, and of the running kernel.

The running kernel's have megabytes. So an enum is searched for by its name, or by a member, and
only structs and maps make this module decode all types.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from tracer.model.errors import KtraceError
from tracer.model.schema import Field, Schema

VMLINUX = "/sys/kernel/btf/vmlinux"
MAX_BYTES = 64 << 20
MAX_FIELDS = 1000
MAX_DEPTH = 16

# All exceptions that damaged data can cause while it is read.
DAMAGE = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)

_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 2, 3, 4, 5, 6
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _FUNC_PROTO, _VAR, _DATASEC = 8, 9, 10, 11, 13, 14, 15
_DECL_TAG, _TYPE_TAG, _ENUM64 = 17, 18, 19

_TRANSPARENT = (_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG)

_SIGNED = 1
_SIGNED_ENUM = 1 << 31
_CODES = {(1, False): "B", (2, False): "H", (4, False): "I", (8, False): "Q"} | {
    (1, True): "b",
    (2, True): "h",
    (4, True): "i",
    (8, True): "q",
}
_HEADER = struct.Struct("=HBBIIIII")
_TYPE = struct.Struct("=III")
# What follows a type, by its kind, and how often: once, or for each member.
_ONCE = {_INT: struct.Struct("=I"), _ARRAY: _TYPE, _VAR: struct.Struct("=I")} | {
    _DECL_TAG: struct.Struct("=i")
}
_EACH = {
    _STRUCT: _TYPE,
    _UNION: _TYPE,
    _ENUM: struct.Struct("=Ii"),
    _FUNC_PROTO: struct.Struct("=II"),
    _DATASEC: _TYPE,
    _ENUM64: _TYPE,
}
# An enumerator by its kind and sign; an ENUM64's value is written as two halves, the lower first.
_ENUMERATORS = {
    (_ENUM, False): struct.Struct("=II"),
    (_ENUM, True): struct.Struct("=Ii"),
    (_ENUM64, False): struct.Struct("=IQ"),
    (_ENUM64, True): struct.Struct("=Iq"),
}


class BadTypes(KtraceError):
    """BTF that is damaged, or has something that no record may have."""


@dataclass(frozen=True, slots=True)
class MapShape:
    """The shape of a map: its type (enum bpf_map_type), sizes in bytes, number of entries."""

    type: int
    key_size: int
    value_size: int
    entries: int


class Btf:
    """The types in `data`. Structs are limited to numbers and arrays."""

    def __init__(self, data: bytes) -> None:
        magic, _, _, header, type_at, type_bytes, text_at, text_bytes = _HEADER.unpack_from(data)
        if magic != 0xEB9F:
            raise BadTypes("the BTF is of another byte order or damaged")
        self._data = data
        self._at, self._end = header + type_at, header + type_at + type_bytes
        self._text_at, self._text_end = header + text_at, header + text_at + text_bytes

    def enum(self, name: str) -> dict[str, int]:
        """The enumerators of an enum; empty if there is none of this name."""
        for at in self._named(name):
            _, info, size = _TYPE.unpack_from(self._data, at)
            entry = _ENUMERATORS.get((info >> 24 & 0x1F, bool(info & _SIGNED_ENUM)))
            count = info & 0xFFFF
            if entry and count and size in (1, 2, 4, 8):
                return self._enumerators(at + _TYPE.size, entry, count)
        return {}

    def enum_that_begins(self, first: str) -> dict[str, int]:
        """The enum without a name whose first enumerator is `first`, with value 0."""
        entry = _ENUMERATORS[_ENUM, False]
        for at in self._named(first):
            at -= _TYPE.size
            if at < self._at:
                continue
            name, info, _ = _TYPE.unpack_from(self._data, at)
            if not name and info >> 24 & 0x1F == _ENUM:
                return self._enumerators(at + _TYPE.size, entry, info & 0xFFFF)
        return {}

    def layout(self, name: str) -> Schema | None:
        for number, (found, kind, size, _) in enumerate(self._types):
            if found == name and kind == _STRUCT:
                fields = list(islice(self._fields(number, "", 0, 0), MAX_FIELDS + 1))
                if len(fields) > MAX_FIELDS:
                    raise BadTypes(f"struct {name} has more than {MAX_FIELDS} members")
                return Schema(name.removesuffix("_event"), size, fields)
        return None

    def maps(self) -> dict[str, MapShape]:
        """The variables in the section `.maps`. The type of such a variable has pointers as
        members: to a key, to a value, or to an array whose length encodes a number."""
        section = next((t for t in self._types if t[:2] == (".maps", _DATASEC)), None)
        return dict(self._map(variable[0]) for variable in (section[3] if section else ()))

    def _named(self, name: str) -> Iterator[int]:
        """Where in the types the number of this word stands: as a name, or by chance."""
        text = self._data.find(b"\0" + name.encode() + b"\0", self._text_at, self._text_end)
        if text < 0:
            return
        needle = struct.pack("=I", text + 1 - self._text_at)
        at = self._at - 1
        while (at := self._data.find(needle, at + 1, self._end)) >= 0:
            if (at - self._at) % 4 == 0 and at + _TYPE.size <= self._end:
                yield at

    def _enumerators(self, at: int, entry: struct.Struct, count: int) -> dict[str, int]:
        rows = entry.iter_unpack(self._data[at : at + count * entry.size])
        return {self._string(name): value for name, value in rows}

    def _string(self, at: int) -> str:
        start = self._text_at + at
        return self._data[start : self._data.index(b"\0", start, self._text_end)].decode()

    @cached_property
    def _types(self) -> list[tuple[str, int, int, list[tuple[int, ...]]]]:
        """Name, kind, size or type, and what follows."""
        types: list[tuple[str, int, int, list[tuple[int, ...]]]] = [("void", 0, 0, [])]
        data, at = self._data, self._at
        while at < self._end:
            name, info, size = _TYPE.unpack_from(data, at)
            at += _TYPE.size
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            members: list[tuple[int, ...]] = []
            layout = _ONCE.get(kind)
            if layout:
                count = 1
            else:
                layout = _EACH.get(kind)
            if layout:
                end = at + count * layout.size
                members = list(layout.iter_unpack(data[at:end]))
                if len(members) != count:
                    raise BadTypes("the BTF ends within a type")
                at = end
            types.append((self._string(name), kind, size, members))
        return types

    def _map(self, variable: int) -> tuple[str, MapShape]:
        name, _, layout, _ = self._types[variable]
        pointed = {self._string(at): self._types[to][2] for at, to, _ in self._types[layout][3]}
        numbers = {
            word: self._types[to][3][0][2] if self._types[to][1] == _ARRAY else self._size(to)
            for word, to in pointed.items()
        }
        return name, MapShape(
            numbers["type"], numbers.get("key", 0), numbers.get("value", 0), numbers["max_entries"]
        )

    def _fields(self, number: int, prefix: str, base: int, depth: int) -> Iterator[Field]:
        if depth > MAX_DEPTH:
            raise BadTypes(f"structs are nested deeper than {MAX_DEPTH}")
        for name_at, member, bits in self._types[number][3]:
            if bits % 8 or bits >> 24:  # the top byte is a bit field's size
                raise BadTypes("a record may not have bit fields")
            name, offset = self._string(name_at), base + bits // 8
            meaning, kind, size, details = self._strip(member)
            if kind == _STRUCT:
                inner = "" if name == "header" else f"{prefix}{name}_"
                yield from self._fields(self._resolve(member), inner, offset, depth + 1)
            elif kind == _ARRAY:
                element, _, count = details[0]
                size = self._size(element) * count
                yield Field(f"{prefix}{name}", meaning, offset, size, f"{size}s")
            elif kind in (_INT, _ENUM):
                signed = kind == _INT and bool(details[0][0] >> 24 & _SIGNED)
                code = _CODES[size, signed]
                yield Field(f"{prefix}{name}", meaning, offset, size, code)
            else:
                raise BadTypes(f"member {prefix}{name} is of a kind that no record may have")

    def _resolve(self, number: int) -> int:
        for _ in range(MAX_DEPTH):
            if self._types[number][1] not in _TRANSPARENT:
                return number
            number = self._types[number][2]
        raise BadTypes(f"a type has more than {MAX_DEPTH} names")

    def _strip(self, number: int) -> tuple[str, int, int, list[tuple[int, ...]]]:
        """The type behind typedefs, under the name of the outermost typedef."""
        _, kind, size, details = self._types[self._resolve(number)]
        return self._types[number][0], kind, size, details

    def _size(self, number: int, depth: int = 0) -> int:
        _, kind, size, details = self._types[self._resolve(number)]
        if kind != _ARRAY:
            return size
        if depth > MAX_DEPTH:
            raise BadTypes(f"arrays are nested deeper than {MAX_DEPTH}")
        return self._size(details[0][0], depth + 1) * details[0][2]


def kernel_enum(
    name: str | None = None, *, begins: str = "", path: str = VMLINUX
) -> dict[str, int]:
    """The enumerators of an enum of the running kernel, by its name or by the first enumerator.
    Empty if the kernel has no such enum, or no BTF."""
    try:
        with open(path, "rb") as file:
            types = Btf(file.read(MAX_BYTES))
        return types.enum(name) if name else types.enum_that_begins(begins)
    except (OSError, BadTypes, *DAMAGE):
        return {}
