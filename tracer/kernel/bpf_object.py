# SPDX-License-Identifier: Apache-2.0
"""Reads a compiled probe: the layouts of its records, and the positions of its settings.

The C struct is the only definition. Clang writes it into the object's `.BTF` section
(Documentation/bpf/btf.rst in the kernel's tree); this module reads it there.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from tracer.model.errors import KtraceError
from tracer.model.schema import Field, Schema

_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 2, 3, 4, 5, 6
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _FUNC_PROTO, _VAR, _DATASEC = 8, 9, 10, 11, 13, 14, 15
_DECL_TAG, _TYPE_TAG, _ENUM64 = 17, 18, 19

_TRANSPARENT = (_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG)

MAX_FIELDS = 1000
MAX_DEPTH = 16

_SIGNED = 1
_SYMBOL = struct.Struct("=IBBHQQ")  # Elf64_Sym, elf(5)
_CODES = {(1, False): "B", (2, False): "H", (4, False): "I", (8, False): "Q"} | {
    (1, True): "b",
    (2, True): "h",
    (4, True): "i",
    (8, True): "q",
}


# All exceptions that a damaged object can cause while it is read.
_DAMAGE = (
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


class BadObject(KtraceError):
    """A BPF object that is not ktrace's, or is damaged."""


@dataclass(frozen=True, slots=True)
class MapShape:
    """The shape of a map: its type (enum bpf_map_type), sizes in bytes, number of entries."""

    type: int
    key_size: int
    value_size: int
    entries: int


class BpfObject:
    """A compiled probe: `schemas` by event name (`signal` for `struct signal_event`), and the
    positions of its `settings` in `.rodata`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        try:
            self._read(data)
        except (ELFError, *_DAMAGE) as error:
            raise BadObject(f"the BPF object cannot be read: {error or type(error)}") from error

    def _read(self, data: bytes) -> None:
        elf = ELFFile(io.BytesIO(data))
        section = elf.get_section_by_name(".BTF")
        symbols = elf.get_section_by_name(".symtab")
        rodata = elf.get_section_index(".rodata")
        if section is None or not isinstance(symbols, SymbolTableSection) or not rodata:
            raise BadObject("the BPF object lacks .BTF, .symtab or .rodata")
        # most symbols are labels, not worth an object each
        self.settings = {
            symbols.stringtable.get_string(name): (value, size)
            for name, _, _, section_index, value, size in _SYMBOL.iter_unpack(symbols.data())
            if section_index == rodata and name
        }
        btf = _Btf(section.data())
        names = [n.removeprefix("kt_kind_") for n in self.settings if n.startswith("kt_kind_")]
        self.schemas = {name: btf.schema(name) for name in names}

    # For a backend that makes maps and programs itself.

    @cached_property
    def defaults(self) -> dict[str, bytes]:
        """The settings' initial values."""
        rodata = self._section(".rodata")
        return {name: rodata[at : at + size] for name, (at, size) in self.settings.items()}

    @cached_property
    def maps(self) -> dict[str, MapShape]:
        return _Btf(self._section(".BTF")).maps()

    @cached_property
    def programs(self) -> dict[str, str]:
        """The section of each program, `kprobe/warn_alloc`, by its name."""
        elf = ELFFile(io.BytesIO(self._data))
        symbols = elf.get_section_by_name(".symtab")
        assert isinstance(symbols, SymbolTableSection)
        found = {
            symbol.name: elf.get_section(symbol["st_shndx"]).name
            for symbol in symbols.iter_symbols()
            if symbol["st_info"]["type"] == "STT_FUNC"
        }
        return {name: section for name, section in found.items() if "/" in section}

    def _section(self, name: str) -> bytes:
        section = ELFFile(io.BytesIO(self._data)).get_section_by_name(name)
        assert section is not None
        data: bytes = section.data()
        return data


class _Btf:
    """The types of a `.BTF` section, limited to structs of numbers and arrays."""

    def __init__(self, data: bytes) -> None:
        magic, _, _, header, type_at, type_bytes, text_at, text_bytes = struct.unpack_from(
            "=HBBIIIII", data
        )
        if magic != 0xEB9F:
            raise BadObject("the BPF object's BTF is of another byte order or damaged")
        self._text = data[header + text_at : header + text_at + text_bytes]
        self._types: list[tuple[str, int, int, list[tuple[int, ...]]]] = [("void", 0, 0, [])]
        at, end = header + type_at, header + type_at + type_bytes
        while at < end:
            name, info, size = struct.unpack_from("=III", data, at)
            at += 12
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            layout = {
                _INT: ("=I", 1),
                _ARRAY: ("=III", 1),
                _STRUCT: ("=III", count),
                _UNION: ("=III", count),
                _ENUM: ("=Ii", count),
                _FUNC_PROTO: ("=II", count),
                _VAR: ("=I", 1),
                _DATASEC: ("=III", count),
                _DECL_TAG: ("=i", 1),
                _ENUM64: ("=III", count),
            }.get(kind)
            members = []
            if layout:
                for _ in range(layout[1]):
                    members.append(struct.unpack_from(layout[0], data, at))
                    at += struct.calcsize(layout[0])
            self._types.append((self._string(name), kind, size, members))

    def schema(self, name: str) -> Schema:
        wanted = f"{name}_event"
        for number, (found, kind, size, _) in enumerate(self._types):
            if found == wanted and kind == _STRUCT:
                found_fields = list(islice(self._fields(number, "", 0, 0), MAX_FIELDS + 1))
                if len(found_fields) > MAX_FIELDS:
                    raise BadObject(f"struct {wanted} has more than {MAX_FIELDS} members")
                return Schema(name, size, found_fields)
        raise BadObject(f"the BPF object declares {name} but has no struct {wanted}")

    def maps(self) -> dict[str, MapShape]:
        """The variables in the section `.maps`. The type of such a variable has pointers as
        members: to a key, to a value, or to an array whose length encodes a number."""
        section = next((t for t in self._types if t[:2] == (".maps", _DATASEC)), None)
        return dict(self._map(variable[0]) for variable in (section[3] if section else ()))

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

    def _string(self, at: int) -> str:
        return self._text[at : self._text.index(b"\0", at)].decode()

    def _fields(self, number: int, prefix: str, base: int, depth: int) -> Iterator[Field]:
        if depth > MAX_DEPTH:
            raise BadObject(f"structs are nested deeper than {MAX_DEPTH}")
        for name_at, member, bits in self._types[number][3]:
            if bits % 8 or bits >> 24:  # the top byte is a bit field's size
                raise BadObject("a record may not have bit fields")
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
                raise BadObject(f"member {prefix}{name} is of a kind that no record may have")

    def _resolve(self, number: int) -> int:
        for _ in range(MAX_DEPTH):
            if self._types[number][1] not in _TRANSPARENT:
                return number
            number = self._types[number][2]
        raise BadObject(f"a type has more than {MAX_DEPTH} names")

    def _strip(self, number: int) -> tuple[str, int, int, list[tuple[int, ...]]]:
        """The type behind typedefs, under the name of the outermost typedef."""
        _, kind, size, details = self._types[self._resolve(number)]
        return self._types[number][0], kind, size, details

    def _size(self, number: int, depth: int = 0) -> int:
        _, kind, size, details = self._types[self._resolve(number)]
        if kind != _ARRAY:
            return size
        if depth > MAX_DEPTH:
            raise BadObject(f"arrays are nested deeper than {MAX_DEPTH}")
        return self._size(details[0][0], depth + 1) * details[0][2]
