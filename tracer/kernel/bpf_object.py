# SPDX-License-Identifier: Apache-2.0
"""Reads a compiled probe: the layouts of its records, its enums and maps, and the positions of its
settings.

The C source is the only definition. Clang writes its types into the object's `.BTF` section
(tracer.kernel.btf). The file itself is a 64-bit ELF of this machine's byte order (elf(5)).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

from tracer.kernel.btf import DAMAGE, BadTypes, Btf, MapShape
from tracer.kernel.limits import reached
from tracer.model.errors import KtraceError
from tracer.model.schema import Schema

T = TypeVar("T")

# importlib.resources would load archives and temporary files to find them.
_OBJECTS = Path(__file__).parents[1] / "objects"

_ELF64 = b"\x7fELF\x02"
_SECTIONS = struct.Struct("=40xQ10xHHH")  # of Elf64_Ehdr
_SYMBOL = struct.Struct("=IBBHQQ")  # Elf64_Sym
_FUNCTION = 2


class BadObject(KtraceError):
    """A BPF object that is not ktrace's, or is damaged."""


class _Section(NamedTuple):
    """Elf64_Shdr."""

    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


_HEADER = struct.Struct("=IIQQQQIIQQ")


class BpfFile:
    """Compiled programs. `programs` has the section of each, `kprobe/warn_alloc`, by its name;
    `settings` their positions in `.rodata`."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        try:
            self._read()
        except (BadTypes, *DAMAGE) as error:
            raise BadObject(f"the BPF object cannot be read: {error or type(error)}") from error

    def _read(self) -> None:
        if not self.data.startswith(_ELF64):
            raise BadObject("the BPF object is no ELF file of 64 bits")
        self._find_sections()
        if not {".BTF", ".symtab", ".rodata"} <= set(self._names):
            raise BadObject("the BPF object lacks .BTF, .symtab or .rodata")
        rodata = self._names.index(".rodata")
        self.settings: dict[str, tuple[int, int]] = {}
        self.programs: dict[str, str] = {}
        for name, kind, section, value, size in self._symbols():
            if section == rodata:
                self.settings[name] = value, size
            elif kind == _FUNCTION and "/" in self._names[section]:
                self.programs[name] = self._names[section]

    def _find_sections(self) -> None:
        at, entry_size, count, names = _SECTIONS.unpack_from(self.data)
        self._sections = [
            _Section(*_HEADER.unpack_from(self.data, at + number * entry_size))
            for number in range(count)
        ]
        text = self._sections[names].offset
        self._names = [_word(self.data, text + section.name) for section in self._sections]

    def _section(self, name: str) -> bytes:
        found = self._sections[self._names.index(name)]
        if found.offset + found.size > len(self.data):
            raise BadObject(f"the BPF object ends within {name}")
        return self.data[found.offset : found.offset + found.size]

    def _symbols(self) -> Iterator[tuple[str, int, int, int, int]]:
        """Name, kind, section, value and size of each symbol that has a name."""
        table = self._sections[self._names.index(".symtab")]
        text = self._sections[table.link].offset
        for name, info, _, section, value, size in _SYMBOL.iter_unpack(self._section(".symtab")):
            if name:
                yield _word(self.data, text + name), info & 0xF, section, value, size


class BpfObject(BpfFile):
    """A compiled probe. `schemas` are by event name (`signal` for `struct signal_event`)."""

    def _read(self) -> None:
        super()._read()
        self.types = Btf(self._section(".BTF"))
        names = [n.removeprefix("kt_kind_") for n in self.settings if n.startswith("kt_kind_")]
        self.schemas = {name: self.layout(f"{name}_event") for name in names}

    def layout(self, name: str) -> Schema:
        """The layout of a struct, such as one row of a record's array."""
        found = self.types.layout(name)
        if found is None:
            raise BadObject(f"the BPF object has no struct {name}")
        return found

    def words(self, enum: str, words: Mapping[str, T]) -> dict[int, T]:
        """Words for the numbers of an enum. They are given by the enumerators' names."""
        numbers = self.numbers(enum)
        return {numbers[name]: word for name, word in words.items()}

    def numbers(self, enum: str) -> dict[str, int]:
        """The numbers of an enum by the enumerators' names."""
        found = self.types.enum(enum)
        if not found:
            raise BadObject(f"the BPF object has no enum {enum}")
        return found

    # For a backend that makes maps and programs itself.

    @cached_property
    def defaults(self) -> dict[str, bytes]:
        """The settings' initial values."""
        rodata = self._section(".rodata")
        return {name: rodata[at : at + size] for name, (at, size) in self.settings.items()}

    @cached_property
    def maps(self) -> dict[str, MapShape]:
        return self.types.maps()


def _word(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()


@cache
def shipped(name: str) -> BpfObject:
    """The object of this name in the package, such as `signals`."""
    return BpfObject(object_file(name))


@cache
def together(name: str) -> BpfFile | None:
    """The programs of this object and the context's in one file; for `all` those of every object.
    None if ktrace was built without it."""
    return BpfFile(object_file(f"together/{name}")) if _file(f"together/{name}").exists() else None


def object_file(name: str) -> bytes:
    try:
        return _file(name).read_bytes()
    except FileNotFoundError as error:
        raise KtraceError(
            f"the BPF object of {name} is not installed",
            "build it: make install in a clone, or install the wheel",
        ) from error
    except OSError as error:
        if limit := reached(f"reading the BPF object of {name}", error.errno):
            raise limit from error
        raise


def _file(name: str) -> Path:
    return _OBJECTS / f"{name}.bpf.o"
