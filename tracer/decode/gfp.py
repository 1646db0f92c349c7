# SPDX-License-Identifier: Apache-2.0
"""Names of GFP flags on the running kernel: their numbers move between releases.

The best source is tracefs's format of `kmem:mm_page_alloc`, because it has the combinations that
the kernel's log shows (GFP_KERNEL and so on). It needs a mounted tracefs. Since 6.10 (772dd0342727,
"mm: enumerate all gfp flags") an enum in the kernel's BTF names the bits. Without either, flags
stay numbers.

The table travels with the records that need it (`struct gfp_names_event`), so a recording is read
with the names of its own kernel.
"""

from __future__ import annotations

import ast
import re
import struct
from collections.abc import Sequence
from pathlib import Path

# Masks and their names, in the order of matching; a match consumes its bits.
Table = list[tuple[int, str]]

TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
BTF = "/sys/kernel/btf/vmlinux"
MAX_PACKED = 4096


def names_here() -> Table:
    """The running kernel's table; empty if there is no source."""
    for place in TRACEFS:
        try:
            text = Path(place, "events/kmem/mm_page_alloc/format").read_text()
        except (OSError, UnicodeDecodeError):
            continue
        if table := from_format(text):
            return table
    try:
        return from_btf(Path(BTF).read_bytes())
    except (OSError, struct.error):
        return []


def words(mask: int, table: Table) -> list[str]:
    """The words of a mask, as in the kernel's log. Bits without a name are one number at the
    end."""
    found = []
    for bits, name in table:
        if mask & bits == bits:
            found.append(name)
            mask &= ~bits
    return [*found, hex(mask)] if mask else found


def bit_of(name: str, table: Table) -> int | None:
    """The mask of one flag."""
    return next((bits for bits, known in table if known == name), None)


def pack(table: Table) -> bytes:
    packed = b""
    for bits, name in table:
        entry = f"{bits:x} {name}".encode() + b"\0"
        if len(packed) + len(entry) > MAX_PACKED:
            break
        packed += entry
    return packed


def unpack(raw: bytes) -> Table:
    entries = (entry.decode().split(" ", 1) for entry in raw.split(b"\0") if entry)
    return [(int(bits, 16), name) for bits, name in entries]


def from_format(text: str) -> Table:
    """The table in a tracepoint's `print fmt`, which has pairs of a C expression and a name."""
    _, flags, rest = text.partition("__print_flags(REC->gfp_flags")
    table: Table = []
    for expression, name in _FLAG.findall(rest if flags else ""):
        bits = _evaluate(expression)
        if bits is None:  # an incomplete table would give wrong names
            return []
        if bits:
            table.append((bits, name))
    return table


_FLAG = re.compile(r'\{([^"{}]*),\s*"(\w+)"\}')
_CAST = re.compile(r"\(\s*(?:gfp_t|unsigned(?: long| int)?|int|long|u32|u64)\s*\)")
_SUFFIX = re.compile(r"\b(0x[0-9a-fA-F]+|\d+)[uUlL]+\b")


def _evaluate(expression: str) -> int | None:
    """The value of a C expression of numbers, shifts, and, or, not; None for anything else."""
    plain = _SUFFIX.sub(r"\1", _CAST.sub("", expression)).strip()
    try:
        return _value(ast.parse(plain, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, OverflowError):
        return None


def _value(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        return ~_value(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.BitOr):
            return left | right
        if isinstance(node.op, ast.BitAnd):
            return left & right
        if isinstance(node.op, ast.LShift) and right < 64:
            return left << right
    raise ValueError(ast.dump(node))


def from_btf(data: bytes) -> Table:
    """The table from the enum with members `___GFP_…_BIT`. A search for the bytes of its first
    member finds it: to parse all types of a kernel would take longer than the rest of the start."""
    magic, _, _, header, type_at, type_bytes, text_at, text_bytes = struct.unpack_from(
        "=HBBIIIII", data
    )
    text = data[header + text_at : header + text_at + text_bytes]
    types = data[header + type_at : header + type_at + type_bytes]
    name = text.find(b"\0___GFP_DMA_BIT\0") + 1
    if magic != 0xEB9F or not name:
        return []
    at = types.find(struct.pack("=Ii", name, 0))
    bits: dict[str, int] = {}
    while 0 <= at <= len(types) - 8:
        name, value = struct.unpack_from("=Ii", types, at)
        member = text[name : text.find(b"\0", name)]
        found = re.fullmatch(rb"__(_GFP_\w+)_BIT", member)
        if not found or not 0 <= value < 64:
            break
        bits["_" + found[1].decode()] = 1 << value
        at += 8
    bits.pop("__GFP_LAST", None)
    bits = {name: mask for name, mask in bits.items() if "UNUSED" not in name}
    return [*_combinations(bits), *((mask, name) for name, mask in bits.items())]


# Combinations as defined in include/linux/gfp_types.h, the larger ones first.
_COMBINED: Sequence[tuple[str, str]] = (
    ("GFP_HIGHUSER_MOVABLE", "DIRECT_RECLAIM KSWAPD_RECLAIM IO FS HARDWALL HIGHMEM MOVABLE"),
    ("GFP_HIGHUSER", "DIRECT_RECLAIM KSWAPD_RECLAIM IO FS HARDWALL HIGHMEM"),
    ("GFP_USER", "DIRECT_RECLAIM KSWAPD_RECLAIM IO FS HARDWALL"),
    ("GFP_KERNEL_ACCOUNT", "DIRECT_RECLAIM KSWAPD_RECLAIM IO FS ACCOUNT"),
    ("GFP_KERNEL", "DIRECT_RECLAIM KSWAPD_RECLAIM IO FS"),
    ("GFP_NOFS", "DIRECT_RECLAIM KSWAPD_RECLAIM IO"),
    ("GFP_ATOMIC", "HIGH KSWAPD_RECLAIM"),
    ("GFP_NOIO", "DIRECT_RECLAIM KSWAPD_RECLAIM"),
)


def _combinations(bits: dict[str, int]) -> Table:
    table: Table = []
    for name, parts in _COMBINED:
        masks = [bits.get(f"__GFP_{part}") for part in parts.split()]
        known = [mask for mask in masks if mask is not None]
        if len(known) == len(masks):
            table.append((sum(known), name))
    return table
