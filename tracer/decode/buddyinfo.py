# SPDX-License-Identifier: Apache-2.0
"""The kernel's lists of free pages, `/proc/buddyinfo` (proc(5)): how many free blocks of 2^n pages
each zone has, and what that means for an allocation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

from tracer.model.units import size

# What the zones keep back for emergencies is not memory that anybody can have: where transparent
# huge pages are on, vm.min_free_kbytes is 66 MiB, and pages are given up until half as much again
# is free (watermarks in mm/page_alloc.c, khugepaged's wish in mm/khugepaged.c).
NOTHING = 128 << 20
# x86 has that much for devices which cannot reach more. It is nearly always free, and kept from
# whoever does not ask for it: lowmem_reserve_ratio in Documentation/admin-guide/sysctl/vm.rst.
OLD_DEVICES = 16 << 20


class FreeBlocks(TypedDict):
    """Of a zone, by order."""

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
    """What is free in blocks of 2^order pages or more."""
    return sum(
        sum(count * page_size << at for at, count in enumerate(zone["free"]) if at >= order)
        for zone in zones
    )


def usable(
    zones: Iterable[FreeBlocks], page_size: int, flags: list[str] | None
) -> list[FreeBlocks]:
    """Without the zone that an allocation with these GFP flags could not have used."""
    asks = flags is None or "GFP_DMA" in flags or "__GFP_DMA" in flags
    return [
        zone
        for zone in zones
        if asks or zone["zone"] != "DMA" or free_bytes([zone], page_size) > OLD_DEVICES
    ]


def reading(
    order: int, page_size: int, zones: list[FreeBlocks] | None, flags: list[str] | None
) -> str | None:
    """What the free lists say about an allocation of 2^order pages that failed, in one line."""
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
