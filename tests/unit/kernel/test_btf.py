# SPDX-License-Identifier: Apache-2.0
"""The kernel's enumerators: found without decoding everything, and agreeing with bpftool."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.kernel.bpf_object import BadObject, shipped
from tracer.kernel.btf import DAMAGE, VMLINUX, BadTypes, Btf, kernel_enum

INT, ENUM, ENUM64 = 1, 6, 19


def btf(types: bytes, text: bytes) -> bytes:
    return struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(text)) + (
        types + text
    )


def written(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "vmlinux"
    path.write_bytes(data)
    return str(path)


# An int of the same name comes first, and another word ends with the enum's name.
TEXT = b"\0my_colour\0colour\0RED\0GREEN\0CRIMSON\0"


def at(word: bytes) -> int:
    return TEXT.index(b"\0" + word + b"\0") + 1


def types(kind: int) -> bytes:
    decoy = struct.pack("=IIII", at(b"colour"), INT << 24, 4, 32)
    head = struct.pack("=III", at(b"colour"), kind << 24 | 3, 4 if kind == ENUM else 8)
    rows = [(b"RED", 1), (b"GREEN", 7), (b"CRIMSON", 1)]
    tail = [0] if kind == ENUM64 else []
    body = b"".join(struct.pack(f"=Ii{len(tail)}I", at(n), v, *tail) for n, v in rows)
    return decoy + head + body


@pytest.mark.parametrize("kind", [ENUM, ENUM64])
def test_an_enum_by_its_name(tmp_path: Path, kind: int) -> None:
    path = written(tmp_path, btf(types(kind), TEXT))
    assert kernel_enum("colour", path=path) == {"RED": 1, "GREEN": 7, "CRIMSON": 1}
    assert kernel_enum("my_colour", path=path) == {}
    assert kernel_enum("olour", path=path) == {}


def test_nothing_to_be_read(tmp_path: Path) -> None:
    assert kernel_enum("colour", path=str(tmp_path / "gone")) == {}
    assert kernel_enum("colour", path=written(tmp_path, b"")) == {}
    assert kernel_enum("colour", path=written(tmp_path, b"\0" * 100)) == {}


@given(st.integers(0, 300), st.binary(max_size=8))
def test_damage_is_no_crash(where: int, damage: bytes) -> None:
    data = btf(types(ENUM), TEXT)
    broken = data[:where] + damage + data[where + len(damage) :]
    try:
        names = Btf(broken).enum("colour")
    except (BadTypes, *DAMAGE):
        return
    assert all(name.encode() in broken for name in names)


@pytest.mark.skipif(not Path(VMLINUX).exists(), reason="this kernel carries no BTF")
@pytest.mark.parametrize("enum", ["sk_rst_reason", "skb_drop_reason", "sock_flags", "no_such_enum"])
def test_the_running_kernel_as_bpftool_reads_it(enum: str) -> None:
    bpftool = shutil.which("bpftool", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if bpftool is None:
        pytest.skip("bpftool is not installed")
    told = subprocess.run(
        [bpftool, "btf", "dump", "file", VMLINUX], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(rf"^\[\d+\] ENUM(?:64)? '{enum}'.*\n((?:\t.*\n)*)", told, re.MULTILINE)
    values = re.findall(r"'(\w+)' val=(-?\d+)", found[1] if found else "")
    assert kernel_enum(enum) == {name: int(value) for name, value in values}


def test_an_enum_without_a_name_by_its_first_member(tmp_path: Path) -> None:
    """Another enum has a member of the same number of text, and another type that number."""
    text = b"\0FIRST\0SECOND\0"
    first, second = text.index(b"FIRST"), text.index(b"SECOND")
    decoy = struct.pack("=IIII", first, INT << 24, 4, 32)
    other = struct.pack("=IIIIiIi", 0, ENUM << 24 | 2, 4, second, 0, first, 1)
    wanted = struct.pack("=IIIIiIi", 0, ENUM << 24 | 2, 4, first, 0, second, 5)
    path = written(tmp_path, btf(decoy + wanted + other, text))
    assert kernel_enum(begins="FIRST", path=path) == {"FIRST": 0, "SECOND": 5}
    assert kernel_enum(begins="SECOND", path=path) == {"SECOND": 0, "FIRST": 1}
    assert kernel_enum(begins="THIRD", path=path) == {}


# Of the probes

SOURCES = Path(__file__).resolve().parents[3] / "probes"
ENUMS = [
    (source.name.partition(".")[0].replace("ktrace", "context"), name)
    for source in sorted(SOURCES.rglob("*.[ch]"))
    for name in re.findall(r"^KT_NAMES\((\w+)\);", source.read_text(), re.MULTILINE)
]


@pytest.mark.parametrize(("described", "name"), ENUMS)
def test_an_object_holds_the_enums_of_its_source(described: str, name: str) -> None:
    """As the C compiler numbers them: counted on from the last number that is given."""
    text = "\n".join(path.read_text() for path in SOURCES.rglob("*.[ch]"))
    body = re.search(rf"^enum {name} \{{(.*?)^\}};", text, re.DOTALL | re.MULTILINE)
    assert body
    expected: dict[str, int] = {}
    number = -1
    for line in re.sub(r"/\*.*?\*/", "", body[1], flags=re.DOTALL).split(","):
        member, _, given = line.strip().partition(" = ")
        parts = [expected.get(word) or int(word) for word in given.split(" | ") if word]
        number = sum(parts) if parts else number + 1
        if member:
            expected[member] = number
    assert shipped(described).numbers(name) == expected


def test_words_for_what_is_no_enumerator() -> None:
    """A word that no enumerator has is a mistake, and so is an enum that is not there."""
    described = shipped("signals")
    assert described.words("kt_target_state", {"KT_DYING": "x"}) == {4: "x"}
    with pytest.raises(KeyError, match="KT_LIVING"):
        described.words("kt_target_state", {"KT_LIVING": "x"})
    with pytest.raises(BadObject, match="kt_no_such_enum"):
        described.numbers("kt_no_such_enum")
    with pytest.raises(BadObject, match="no_such_row"):
        described.layout("no_such_row")


@pytest.mark.parametrize(
    ("described", "row", "members"),
    [
        ("context", "kt_ancestor", "=I16s"),
        ("oom", "oom_row", "=II16sqqqqi4x"),
        ("pagealloc", "buddy_row", "=II16s128s"),
    ],
)
def test_rows_are_laid_out_as_recordings_have_them(described: str, row: str, members: str) -> None:
    """A recording holds whole arrays, so these layouts are a promise."""
    layout = shipped(described).layout(row)
    assert layout.size == struct.calcsize(members)
    given = {f.name: b"x" * f.size if "s" in f.code else 7 for f in layout.fields}
    given.pop("unused", None)
    assert layout.plain(**given) == struct.pack(members, *given.values())
