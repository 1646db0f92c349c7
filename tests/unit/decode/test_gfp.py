# SPDX-License-Identifier: Apache-2.0
"""Names of GFP flags, from the texts and types of several kernels."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tracer.decode import gfp
from tracer.identity.resolver import Resolver
from tracer.kernel import gfp as kernel_gfp
from tracer.kernel.btf import VMLINUX
from tracer.probes import Stream
from tracer.probes.gfp import FlagNames

# As 5.10 and 6.18 print it, cut short.
OLD = """name: mm_page_alloc
print fmt: "page=%p order=%d gfp_flags=%s", REC->order, (REC->gfp_flags) ? \
__print_flags(REC->gfp_flags, "|", \
{(unsigned long)(((( gfp_t)(0x400u|0x800u)) | (( gfp_t)0x40u)) & ~(( gfp_t)0x800u)), "GFP_ODD"}, \
{(unsigned long)((( gfp_t)(0x400u|0x800u)) | (( gfp_t)0x40u) | (( gfp_t)0x80u)), "GFP_KERNEL"}, \
{(unsigned long)(( gfp_t)0x2000u), "__GFP_NOWARN"}, \
{(unsigned long)(( gfp_t)0), "__GFP_NEVER"} ) : "none"
"""
NEW = """name: mm_page_alloc
print fmt: "page=%p", (REC->gfp_flags) ? __print_flags(REC->gfp_flags, "|", \
{( unsigned long)((( gfp_t)(((((1UL))) << (10))|((((1UL))) << (11)))) | \
(( gfp_t)((((1UL))) << (6))) | (( gfp_t)((((1UL))) << (7)))), "GFP_KERNEL"}, \
{( unsigned long)(( gfp_t)((((1UL))) << (13))), "__GFP_NOWARN"}, { 0, ((void *)0) } ) : "none"
"""


def test_a_format_of_numbers() -> None:
    assert gfp.from_format(OLD) == [
        (0x440, "GFP_ODD"),
        (0xCC0, "GFP_KERNEL"),
        (0x2000, "__GFP_NOWARN"),
    ]


def test_a_format_of_shifts() -> None:
    assert gfp.from_format(NEW) == [(0xCC0, "GFP_KERNEL"), (0x2000, "__GFP_NOWARN")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "print fmt: something else",
        NEW.replace("(13)", "(___GFP_NOWARN_BIT)"),  # an enum that the kernel has not resolved
        NEW.replace("(13)", "(99999999999)"),
        NEW.replace("(13)", "__import__('os')"),
        NEW.replace("(13)", "(13"),
    ],
)
def test_a_format_that_is_not_understood(text: str) -> None:
    """Half a table would call flags by wrong names."""
    assert gfp.from_format(text) == []


def test_words_as_the_kernel_shows_them() -> None:
    table = [(0xCC0, "GFP_KERNEL"), (0x2000, "__GFP_NOWARN"), (0x40, "__GFP_IO")]
    assert gfp.words(0x2CC0, table) == ["GFP_KERNEL", "__GFP_NOWARN"]
    assert gfp.words(0x40, table) == ["__GFP_IO"]
    assert gfp.words(0x1000041, table) == ["__GFP_IO", "0x1000001"]
    assert gfp.words(0, table) == []
    assert gfp.bit_of("__GFP_NOWARN", table) == 0x2000
    assert gfp.bit_of("__GFP_NOFAIL", table) is None


def test_an_enum_of_bits() -> None:
    names = ["DMA", "HIGH", "IO", "FS", "UNUSED", "DIRECT_RECLAIM", "KSWAPD_RECLAIM", "LAST"]
    members = {f"___GFP_{name}_BIT": at for at, name in enumerate(names)}
    table = gfp.from_bits({**members, "SOMETHING_ELSE": 3, "___GFP_FAR_BIT": 64})
    assert table == [
        (0b1101100, "GFP_KERNEL"),
        (0b1100100, "GFP_NOFS"),
        (0b1000010, "GFP_ATOMIC"),
        (0b1100000, "GFP_NOIO"),
        (1, "__GFP_DMA"),
        (2, "__GFP_HIGH"),
        (4, "__GFP_IO"),
        (8, "__GFP_FS"),
        (32, "__GFP_DIRECT_RECLAIM"),
        (64, "__GFP_KSWAPD_RECLAIM"),
    ]


def test_names_travel_with_the_records() -> None:
    table = [(0xCC0, "GFP_KERNEL"), (0x2000, "__GFP_NOWARN")]
    raw = gfp.pack(table, 100)
    assert gfp.unpack(raw) == table
    one, two = (Stream(Resolver(lambda place: None)).shared(FlagNames) for _ in range(2))
    one.learn(SimpleNamespace(names=raw + bytes(10), names_bytes=len(raw)))
    assert one.words(0x2000) == ["__GFP_NOWARN"]
    assert two.words(0x2000) is None


def test_more_names_than_there_is_room_for() -> None:
    table = [(1, "x" * 100)] * 100
    packed = gfp.pack(table, 4096)
    assert 0 < len(packed) <= 4096
    assert len(gfp.unpack(packed)) < 100


def test_this_kernel() -> None:
    """As bpftool reads it."""
    bpftool = shutil.which("bpftool", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if bpftool is None:
        pytest.skip("bpftool is not installed")
    told = subprocess.run(
        [bpftool, "btf", "dump", "file", VMLINUX], capture_output=True, text=True, check=False
    ).stdout
    bits = {name: int(bit) for name, bit in re.findall(r"'_(__GFP_\w+)_BIT' val=(\d+)", told)}
    if not bits:
        pytest.skip("this kernel's BTF has no names of flags")
    table = {name: mask for mask, name in kernel_gfp.names_here()}
    for name in ("__GFP_NOWARN", "__GFP_ZERO", "__GFP_NOFAIL", "__GFP_HIGHMEM"):
        assert table[name] == 1 << bits[name]
    kernel = ("__GFP_DIRECT_RECLAIM", "__GFP_KSWAPD_RECLAIM", "__GFP_IO", "__GFP_FS")
    assert table["GFP_KERNEL"] == sum(1 << bits[name] for name in kernel)


@pytest.mark.parametrize("held", [b"", b"\x9f\xeb", b"\x9f\xeb\x01\x00" + bytes(20)])
def test_a_btf_file_that_holds_none(
    held: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vmlinux").write_bytes(held)
    monkeypatch.setattr(kernel_gfp, "TRACEFS", ())
    monkeypatch.setattr(kernel_gfp, "VMLINUX", str(tmp_path / "vmlinux"))
    assert kernel_gfp.names_here() == []
