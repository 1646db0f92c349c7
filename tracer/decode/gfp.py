# SPDX-License-Identifier: Apache-2.0
"""Names of GFP flags, whose numbers move between the kernel's releases.

A table comes from the format of a tracepoint, which has the combinations that the kernel's log
shows (GFP_KERNEL and so on), or from an enum of the bits. It travels with the records that need it
(`struct gfp_names_event`), so a recording is read with the names of its own kernel.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence

# Masks and their names, in the order of matching; a match consumes its bits.
Table = list[tuple[int, str]]


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


def pack(table: Table, room: int) -> bytes:
    """The table in at most `room` bytes."""
    packed = b""
    for bits, name in table:
        entry = f"{bits:x} {name}".encode() + b"\0"
        if len(packed) + len(entry) > room:
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


_BIT = re.compile(r"_(__GFP_\w+)_BIT")
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


def from_bits(members: Mapping[str, int]) -> Table:
    """The table from the kernel's enum of bits, `___GFP_DMA_BIT` and so on."""
    bits: dict[str, int] = {}
    for member, value in members.items():
        found = _BIT.fullmatch(member)
        if found and found[1] != "__GFP_LAST" and "UNUSED" not in member and 0 <= value < 64:
            bits[found[1]] = 1 << value
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
