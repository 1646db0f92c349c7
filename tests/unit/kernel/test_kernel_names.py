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

from tracer.kernel.enums import VMLINUX, _search, enum_names

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
    assert enum_names("colour", path) == {1: "RED", 7: "GREEN"}
    assert enum_names("my_colour", path) == {}
    assert enum_names("olour", path) == {}


def test_nothing_to_be_read(tmp_path: Path) -> None:
    assert enum_names("colour", str(tmp_path / "gone")) == {}
    assert enum_names("colour", written(tmp_path, b"")) == {}
    assert enum_names("colour", written(tmp_path, b"\0" * 100)) == {}


@given(st.integers(0, 300), st.binary(max_size=8))
def test_damage_is_no_crash(where: int, damage: bytes) -> None:
    data = btf(types(ENUM), TEXT)
    broken = data[:where] + damage + data[where + len(damage) :]
    try:
        names = _search(broken, b"colour")
    except (ValueError, struct.error, UnicodeDecodeError):
        return
    assert all(name.encode() in broken for name in names.values())


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
    expected: dict[int, str] = {}
    for name, value in re.findall(r"'(\w+)' val=(-?\d+)", found[1] if found else ""):
        expected.setdefault(int(value), name)
    assert enum_names(enum) == expected
