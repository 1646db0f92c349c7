# SPDX-License-Identifier: Apache-2.0
"""The kernel's lists of free pages, `/proc/buddyinfo` (proc(5)): the number of free blocks of 2^n
pages in each zone, and their meaning for a failed allocation."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TypedDict

from tracer.model.units import size

# The zones' emergency reserve is not available to ordinary allocations. With transparent huge pages
# vm.min_free_kbytes is 66 MiB, and the kernel reclaims pages until half as much again is free
# (watermarks in mm/page_alloc.c, khugepaged's wish in mm/khugepaged.c).
NOTHING = 128 << 20
# x86 reserves this much for devices that cannot address more. It is nearly always free, and denied
# to other allocations: lowmem_reserve_ratio in Documentation/admin-guide/sysctl/vm.rst.
OLD_DEVICES = 16 << 20


class FreeBlocks(TypedDict):
    """A zone's free blocks by order."""

    node: int
    zone: str
    free: list[int]


def parse_line(line: str) -> FreeBlocks:
    """`Node 0, zone   Normal      1      2 …` as {node, zone, free[]}. Raises ValueError or
    IndexError for anything else."""
    words = line.replace(",", " ").split()
    if (words[0], words[2]) != ("Node", "zone"):
        raise ValueError(line)
    return {"node": int(words[1]), "zone": words[3], "free": [int(word) for word in words[4:]]}


def free_bytes(zones: Iterable[FreeBlocks], page_size: int, order: int = 0) -> int:
    """The free memory in blocks of 2^order pages or more."""
    return sum(
        sum(count * page_size << at for at, count in enumerate(zone["free"]) if at >= order)
        for zone in zones
    )


def usable(
    zones: Collection[FreeBlocks], page_size: int, flags: list[str] | None
) -> list[FreeBlocks]:
    """The zones without the one that an allocation with these GFP flags could not use. Small
    machines of arm64 have no other."""
    asks = flags is None or "GFP_DMA" in flags or "__GFP_DMA" in flags
    asks = asks or {zone["zone"] for zone in zones} == {"DMA"}
    return [
        zone
        for zone in zones
        if asks or zone["zone"] != "DMA" or free_bytes([zone], page_size) > OLD_DEVICES
    ]


def reading(
    order: int, page_size: int, zones: list[FreeBlocks] | None, flags: list[str] | None
) -> str | None:
    """One line that explains a failed allocation of 2^order pages by the free lists."""
    if zones is None or not page_size:
        return None
    zones = usable(zones, page_size, flags)
    free, large = free_bytes(zones, page_size), free_bytes(zones, page_size, order)
    if order == 0 and free < NOTHING:
        return "order 0: no memory at all"
    line = f"order {order}: {size(free)} free, "
    if order:
        line += f"{size(large) if large else 'none'} of it in blocks of {size(page_size << order)}"
        line += " or more: "
        if not large:
            return line + ("fragmented" if free >= NOTHING else "little, and in pieces")
    if any("ACCOUNT" in flag for flag in flags or ()):
        return line + "the limit of its cgroup, or kept back for others"
    return line + "kept back for others"
