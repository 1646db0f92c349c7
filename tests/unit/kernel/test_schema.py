# SPDX-License-Identifier: Apache-2.0
"""Layouts read from BTF: the same as clang's own, the same as ctypes computes, and nothing but
`BadObject` from an object that is damaged."""

from __future__ import annotations

import ctypes
import io
import platform
import random
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit import records
from tracer.kernel.bpf_object import BadObject, BpfObject, object_file
from tracer.model.batch import cell
from tracer.model.errors import KtraceError
from tracer.model.schema import Schema

ROOT = Path(__file__).resolve().parents[3]
MACHINE = platform.machine()
CLANG = ["clang", "-target", "bpf", "-O2", "-g"]

PRELUDE = """
#define KT_EVENT(name)                         \\
	const volatile unsigned kt_kind_##name = 0; \\
	const struct name##_event *const volatile kt_layout_##name = 0
enum colour { RED, GREEN = 0x80000000 };
"""


def compiled(source: str, *flags: str) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory, "x.bpf.o")
        subprocess.run(
            [*CLANG, *flags, "-x", "c", "-c", "-", "-o", target],
            input=PRELUDE + source,
            text=True,
            check=True,
        )
        return target.read_bytes()


# Against clang's own account of the very sources that are compiled


@pytest.mark.parametrize("name", records.OBJECTS)
def test_the_layouts_are_those_that_clang_computes_from_the_sources(name: str) -> None:
    dumped = clang_layouts(ROOT / "probes" / f"{name}.bpf.c")
    schemas = records.described(name).schemas
    assert schemas.keys() >= {"process", "cgroup"}
    for schema in schemas.values():
        size, members = dumped[f"{schema.name}_event"]
        assert schema.size == schema.struct.size == size
        assert [(f.offset, f.type, f.name) for f in schema.fields] == members


@pytest.mark.parametrize("name", records.OBJECTS)
def test_settings_lie_where_the_symbol_table_says(name: str) -> None:
    path = ROOT / "tracer" / "objects" / f"{name}.bpf.o"
    table = subprocess.run(["llvm-objdump", "-t", path], capture_output=True, text=True, check=True)
    rows = re.findall(r"^(\w+) g\s+O \.rodata\s+(\w+) (\w+)$", table.stdout, re.MULTILINE)
    expected = {symbol: (int(at, 16), int(size, 16)) for at, size, symbol in rows}
    assert "kt_mode" in expected
    assert records.described(name).settings == expected


def clang_layouts(source: Path) -> dict[str, tuple[int, list[tuple[int, str, str]]]]:
    """Size and flattened (offset, type, name) of every struct in a source."""
    include = [f"-I/usr/include/{MACHINE}-linux-gnu", f"-I{ROOT / 'probes' / 'include'}"]
    architecture = {"x86_64": "x86", "aarch64": "arm64"}.get(MACHINE, MACHINE)
    flags = [f"-D__TARGET_ARCH_{architecture}", "-fsyntax-only"]
    flags += ["-Xclang", "-fdump-record-layouts-complete"]
    dump = subprocess.run(
        [*CLANG, *include, *flags, source], capture_output=True, text=True, check=True
    ).stdout
    found = {}
    for block in dump.split("*** Dumping AST Record Layout\n")[1:]:
        rows = re.findall(r"^ *(\d+) \|( +)(.+)$", block, re.MULTILINE)
        size = re.search(r"sizeof=(\d+)", block)
        assert size
        found[rows[0][2].removeprefix("struct ")] = int(size[1]), flattened(rows[1:])
    return found


def flattened(rows: list[tuple[str, str, str]]) -> list[tuple[int, str, str]]:
    """clang indents the members of a struct below it."""
    members: list[tuple[int, str, str]] = []
    prefixes: list[str] = []
    for at, (offset, indent, text) in enumerate(rows):
        depth = len(indent) // 2
        kind, _, name = text.rpartition(" ")
        del prefixes[depth - 1 :]
        if at + 1 < len(rows) and len(rows[at + 1][1]) // 2 > depth:
            prefixes.append("" if name == "header" else f"{name}_")
            continue
        anonymous = kind.endswith("]")  # an array that no typedef names
        members.append((int(offset), "" if anonymous else kind, "".join(prefixes) + name))
    return members


# Against ctypes, for structs that nobody thought of

SCALARS: dict[str, tuple[Any, str]] = {
    "unsigned char": (ctypes.c_uint8, "B"),
    "signed char": (ctypes.c_int8, "b"),
    "unsigned short": (ctypes.c_uint16, "H"),
    "short": (ctypes.c_int16, "h"),
    "unsigned int": (ctypes.c_uint32, "I"),
    "int": (ctypes.c_int32, "i"),
    "unsigned long long": (ctypes.c_uint64, "Q"),
    "long long": (ctypes.c_int64, "q"),
    "_Bool": (ctypes.c_uint8, "B"),
    "enum colour": (ctypes.c_uint32, "I"),
    "const volatile unsigned int": (ctypes.c_uint32, "I"),
}


@dataclass(frozen=True)
class Member:
    """`type` is a scalar's name or the members of a nested struct."""

    type: str | tuple[Member, ...]
    dimensions: tuple[int, ...]


def members(inner: st.SearchStrategy[Member] | None = None) -> st.SearchStrategy[Member]:
    types: st.SearchStrategy[Any] = st.sampled_from(sorted(SCALARS))
    if inner is not None:
        types |= st.lists(inner, min_size=1, max_size=4).map(tuple)
    sizes = st.lists(st.integers(1, 9), max_size=2).map(tuple)
    return st.builds(Member, types, st.just(()) | sizes)


STRUCTS = st.lists(members(members(members())), min_size=1, max_size=8)


@settings(max_examples=8, deadline=None)
@given(st.lists(STRUCTS, min_size=1, max_size=50))
def test_any_struct_is_laid_out_as_ctypes_lays_it_out(structs: list[list[Member]]) -> None:
    texts = [declared(f"s{n}_event", body) + f"KT_EVENT(s{n});" for n, body in enumerate(structs)]
    read = BpfObject(compiled("\n".join(texts)))
    assert len(read.schemas) == len(structs)
    for number, body in enumerate(structs):
        schema, wanted = read.schemas[f"s{number}"], ctype(body)
        assert schema.size == schema.struct.size == ctypes.sizeof(wanted)
        assert [(f.name, f.offset, f.size, f.code) for f in schema.fields] == list(fields(body))


def declared(name: str, body: list[Member] | tuple[Member, ...]) -> str:
    lines = []
    for number, member in enumerate(body):
        kind = member.type
        if not isinstance(kind, str):
            kind = declared("", kind).rstrip(";\n")
        lines.append(f"{kind} m{number}{''.join(f'[{n}]' for n in member.dimensions)};")
    return f"struct {name} {{ {' '.join(lines)} }};\n"


def ctype(body: list[Member] | tuple[Member, ...]) -> Any:
    declared = [(f"m{number}", member_ctype(member)) for number, member in enumerate(body)]
    return type("Struct", (ctypes.Structure,), {"_fields_": declared})


def member_ctype(member: Member) -> Any:
    kind = SCALARS[member.type][0] if isinstance(member.type, str) else ctype(member.type)
    for size in reversed(member.dimensions):
        kind *= size
    return kind


def fields(
    body: list[Member] | tuple[Member, ...], prefix: str = "", base: int = 0
) -> Iterator[tuple[str, int, int, str]]:
    layout = ctype(body)
    for number, member in enumerate(body):
        name = f"m{number}"
        at, size = base + getattr(layout, name).offset, getattr(layout, name).size
        if member.dimensions:
            yield f"{prefix}{name}", at, size, f"{size}s"
        elif isinstance(member.type, str):
            yield f"{prefix}{name}", at, size, SCALARS[member.type][1]
        else:
            yield from fields(member.type, f"{prefix}{name}_", at)


# Meaning, and the cells of the ring

TYPES = """
typedef unsigned int kt_pid;
typedef kt_pid kt_victim;
typedef char kt_comm[16];
struct kt_header { unsigned int kind; unsigned int cpu; unsigned long long time; };
struct kt_party { unsigned long long process; kt_pid pid; };
struct loss_event {
	struct kt_header header;
	struct kt_party by;
	kt_victim victim;
	const kt_comm comm;
	unsigned char last;
};
KT_EVENT(loss);
const volatile _Bool kt_by_pid = 0;
"""


@pytest.fixture(scope="module")
def tiny() -> bytes:
    return compiled(TYPES)


def test_typedefs_give_meaning_and_the_header_needs_no_prefix(tiny: bytes) -> None:
    schema = BpfObject(tiny).schemas["loss"]
    assert [(f.name, f.type) for f in schema.fields][:-2] == [
        ("kind", "unsigned int"),
        ("cpu", "unsigned int"),
        ("time", "unsigned long long"),
        ("by_process", "unsigned long long"),
        ("by_pid", "kt_pid"),
        ("victim", "kt_victim"),
    ]
    assert [f.name for f in schema.fields][-2:] == ["comm", "last"]
    assert schema.fields[-2].code == "16s"


def test_cells_are_read_as_named_tuples(tiny: bytes) -> None:
    schema = BpfObject(tiny).schemas["loss"]
    rows = [(1, 2, 3 << 40, 4, 5, 6 + n, b"comm".ljust(16, b"\0"), n) for n in range(3)]
    data = b"".join(cell(schema.struct.pack(*row)) for row in rows)
    read = list(schema.cells(memoryview(data)))
    assert [tuple(record) for record in read] == rows
    assert [record.victim for record in read] == [6, 7, 8]
    assert read[2]._fields == tuple(f.name for f in schema.fields)


def test_cells_are_padded_where_records_are_not() -> None:
    source = "struct x_event { unsigned kind; unsigned char a[7]; }; KT_EVENT(x);"
    schema = BpfObject(compiled(source)).schemas["x"]
    assert schema.size == 12
    rows = [(1, b"1234567"), (1, b"abcdefg")]
    data = b"".join(cell(schema.struct.pack(*row)) for row in rows)
    assert [tuple(record) for record in schema.cells(memoryview(data))] == rows


@given(st.data())
def test_every_record_of_the_project_survives_packing(data: st.DataObject) -> None:
    schema = data.draw(st.sampled_from(sorted(records.schemas().values(), key=lambda s: s.name)))
    values = [data.draw(values_of(schema, f.code)) for f in schema.fields]
    packed = cell(schema.struct.pack(*values)) * 2
    assert [list(record) for record in schema.cells(memoryview(packed))] == [values, values]


def values_of(schema: Schema, code: str) -> st.SearchStrategy[Any]:
    size = struct.calcsize(code)
    if code.endswith("s"):
        return st.binary(min_size=1, max_size=8).map(lambda part: part.ljust(size, b"\0"))
    if code.islower():
        return st.integers(-(1 << 8 * size - 1), (1 << 8 * size - 1) - 1)
    return st.integers(0, (1 << 8 * size) - 1)


def test_records_made_in_user_space(tiny: bytes) -> None:
    schema = BpfObject(tiny).schemas["loss"].numbered(7)
    (record,) = schema.cells(memoryview(cell(schema.pack(victim=9, comm=b"nginx"))))
    assert (record.kind, record.victim, record.comm) == (7, 9, b"nginx".ljust(16, b"\0"))
    assert (record.cpu, record.by_process, record.last) == (0, 0, 0)
    with pytest.raises(KeyError, match="vicitm"):
        schema.pack(vicitm=9)


# What no record may have

UNREADABLE = {
    "a union": "struct x_event { union { int a; long long b; } u; }; KT_EVENT(x);",
    "a pointer": "struct x_event { int *at; }; KT_EVENT(x);",
    "a bit field": "struct x_event { unsigned a : 3, b : 5, c; }; KT_EVENT(x);",
    "a bit field at a byte": "struct x_event { int a; unsigned char b : 8; }; KT_EVENT(x);",
    "128 bits": "struct x_event { __int128 a; }; KT_EVENT(x);",
    "a float": "struct x_event { double a; }; KT_EVENT(x);",
    "a member without a name": "struct x_event { struct { int a; }; }; KT_EVENT(x);",
    "a word of Python": "struct x_event { int class; }; KT_EVENT(x);",
    "two members of one name": "struct x_event { struct { int b; } a; int a_b; }; KT_EVENT(x);",
    "no struct of that name": "const volatile unsigned kt_kind_x = 0; struct y { int a; } y;",
}


@pytest.mark.parametrize("source", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_struct_that_cannot_be_told_is_refused(source: str) -> None:
    with pytest.raises(BadObject):
        BpfObject(compiled(source))


def test_an_object_without_btf_is_refused() -> None:
    with pytest.raises(BadObject, match="BTF"):
        BpfObject(compiled(TYPES, "-g0"))


def test_an_object_without_settings_is_refused() -> None:
    with pytest.raises(BadObject, match="rodata"):
        BpfObject(compiled("struct x_event { int a; } x;"))


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"#!/bin/sh\n", b"\0" * 4096, b"\x7fELF" * 999])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(BadObject):
        BpfObject(data)


def test_a_program_is_no_bpf_object() -> None:
    with pytest.raises(BadObject):
        BpfObject(Path(sys.executable).read_bytes())


# Damage


def refused_or_read(data: bytes) -> None:
    """Both are fine; any other exception is the test's failure, and so is a hang."""
    try:
        BpfObject(data)
    except BadObject as error:
        assert isinstance(error, KtraceError)
        assert error.message


@pytest.mark.timeout(60)
def test_an_object_that_ends_early_is_refused(tiny: bytes) -> None:
    BpfObject(tiny)
    for size in range(0, len(tiny), 11):
        with pytest.raises(BadObject):
            BpfObject(tiny[:size])


@pytest.mark.timeout(60)
def test_a_real_object_that_ends_early_is_refused() -> None:
    whole = object_file("signals")
    for size in range(0, len(whole), 997):
        with pytest.raises(BadObject):
            BpfObject(whole[:size])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("change", [lambda b: b ^ 0xFF, lambda b: b + 1 & 0xFF])
def test_no_damaged_byte_does_worse_than_a_refusal(tiny: bytes, change: Callable[..., int]) -> None:
    start, end = btf_section(tiny)
    positions = [*range(0, 64, 3), *range(start, end), *range(end, len(tiny), 23)]
    for at in positions:
        refused_or_read(tiny[:at] + bytes([change(tiny[at])]) + tiny[at + 1 :])


@pytest.mark.timeout(60)
def test_no_wild_damage_does_worse_than_a_refusal() -> None:
    whole = object_file("signals")
    chance = random.Random(20)
    start, end = btf_section(whole)
    for _ in range(250):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 2, 50])):
            within = (start, end) if chance.random() < 0.7 else (0, len(whole))
            damaged[chance.randrange(*within)] = chance.randrange(256)
        refused_or_read(bytes(damaged))


@pytest.mark.timeout(20)
def test_types_that_lead_back_to_themselves_are_refused(tiny: bytes) -> None:
    """A typedef of itself, and one of the struct that it is a member of."""
    start, end = btf_section(tiny)
    btf = tiny[start:end]
    text_at, _ = struct.unpack_from("=II", btf, 16)
    name = btf.index(b"\0kt_victim\0", 24 + text_at) + 1 - 24 - text_at
    typedef = start + btf.index(struct.pack("=II", name, 8 << 24)) + 8
    refused = 0
    for number in range(1, 32):
        try:
            BpfObject(tiny[:typedef] + struct.pack("=I", number) + tiny[typedef + 4 :])
        except BadObject:
            refused += 1
    assert 2 <= refused < 31


def btf_section(data: bytes) -> tuple[int, int]:
    section = ELFFile(io.BytesIO(data)).get_section_by_name(".BTF")
    assert section is not None
    return section["sh_offset"], section["sh_offset"] + section["sh_size"]
