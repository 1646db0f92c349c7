# SPDX-License-Identifier: Apache-2.0
"""Free memory by block size, from /proc/buddyinfo or the kernel log: the largest blocks that are
available, for the whole node and zone by zone."""

from __future__ import annotations

import mmap
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tracer.decode import buddyinfo
from tracer.decode.allocation import COSTLY_ORDER
from tracer.decode.kind import Answer
from tracer.model.units import size

Zone = buddyinfo.FreeBlocks

# A zone with a smaller share of its free memory in blocks of more than 8 pages is fragmented.
LITTLE = 0.05

# CONFIG_ARCH_FORCE_MAX_ORDER: the number of orders tells the page size. arm64 with 64 and 16 KiB,
# powerpc with 64 KiB; all others have 11 orders of 4 KiB.
_PAGE_SIZES = {14: 64 << 10, 12: 16 << 10, 9: 64 << 10, 11: 4096}

_BUDDYINFO = re.compile(
    r"\bNode {1,8}(?P<node>\d{1,4}), zone {1,16}(?P<zone>\w{1,16})"
    r"(?P<free>(?:\s{1,16}\d{1,12}){1,32})\s{0,16}\Z"
)
# A kernel without CONFIG_NUMA leaves the node out.
_ZONE = (
    r"(?:\bNode (?P<node>\d{1,4}) (?P<zone>\w{1,16})|"
    r"\A(?P<only>DMA(?:32)?|Normal|HighMem|Movable))"
)
_LOG = re.compile(
    rf"{_ZONE}: (?P<free>(?:\d{{1,10}}\*\d{{1,10}}kB (?:\([A-Z]{{1,8}}\) )?){{1,32}})= \d{{1,20}}kB"
)
# Migrate types of blocks that ordinary allocations do not get: CMA, high-order atomic, isolated
# (show_migration_types() in mm/show_mem.c).
_SET_ASIDE = re.compile(r"(\d{1,10})(\*\d{1,10}kB) \([CHI]{1,3}\)")
_MARKS = re.compile(
    rf"{_ZONE} "
    r"free:(?P<free>\d{1,15})kB (?:boost:\d{1,15}kB )?"
    r"min:(?P<min>\d{1,15})kB low:(?P<low>\d{1,15})kB high:(?P<high>\d{1,15})kB"
)


@dataclass(frozen=True, slots=True)
class Marks:
    """A zone's free memory and its watermarks (show_free_areas())."""

    node: int
    zone: str
    free: int
    min: int
    low: int

    @property
    def words(self) -> str:
        words = f"node {self.node} zone {self.zone}: {size(self.free << 10)} free"
        if self.free < self.min:
            return f"{words}, below its reserve of {size(self.min << 10)}"
        return f"{words}, little: reclaim runs" if self.free < self.low else words


def of_buddyinfo(text: str) -> tuple[str, Zone] | None:
    """A line of /proc/buddyinfo: the prefix, as a loop over nodes prints it, and the zone."""
    found = _BUDDYINFO.search(text)
    if not found:
        return None
    free = [int(count) for count in found["free"].split()]
    return text[: found.start()].strip()[-255:], {
        "node": int(found["node"]),
        "zone": found["zone"],
        "free": free,
    }


def of_log(text: str, *, for_all: bool = False) -> tuple[int, Zone] | None:
    """`Node 0 DMA32: 74*4kB (UME) …`: the page size and the zone. With `for_all`, only the blocks
    that any allocation may get."""
    found = _LOG.search(text)
    if not found:
        return None
    told = _SET_ASIDE.sub(r"0\2", found["free"]) if for_all else found["free"]
    pairs = [pair.split("*") for pair in told.split() if "*" in pair]
    sizes = [int(kib.removesuffix("kB")) << 10 for _, kib in pairs]
    if not sizes[0] or any(one != sizes[0] << at for at, one in enumerate(sizes)):
        return None
    free = [int(count) for count, _ in pairs]
    node, name = _zone(found)
    return sizes[0], {"node": node, "zone": name, "free": free}


def marks(text: str) -> Marks | None:
    found = _MARKS.search(text)
    if not found:
        return None
    numbers = (int(found[name]) for name in ("free", "min", "low"))
    node, zone = _zone(found)
    return Marks(node, zone, *numbers)


def _zone(found: re.Match[str]) -> tuple[int, str]:
    return int(found["node"] or 0), found["zone"] or found["only"]


def page_size_of(zones: Sequence[Zone]) -> int:
    return page_size_by(max(len(zone["free"]) for zone in zones))


def page_size_by(orders: int) -> int:
    return _PAGE_SIZES.get(orders, mmap.PAGESIZE)


def decode_buddyinfo(zones: Sequence[Zone], page_size: int = mmap.PAGESIZE) -> Answer:
    """The available blocks, for the whole node and zone by zone."""
    free = buddyinfo.free_bytes(zones, page_size)
    lines = [f"{size(free)} free{_fragmentation(zones, page_size)}"]
    orders = max(len(zone["free"]) for zone in zones)
    for order in range(orders):
        left = buddyinfo.free_bytes(zones, page_size, order)
        share = f"{100 * left // free} %" if free else "–"
        count = sum(sum(zone["free"][order : order + 1]) for zone in zones)
        # With an unusual page size, only the order is comparable.
        block = size(page_size << order) if page_size == 4096 else f"2^{order} pages"
        lines.append(
            f"  order {order:2}  {block:>8}  {count:8} blocks;"
            f" in blocks of this size or more: {size(left):>8}, {share}"
        )
    return lines + [f"  node {zone['node']} {largest(zone, page_size)}" for zone in zones]


def _fragmentation(zones: Sequence[Zone], page_size: int) -> str:
    """A zone with large blocks only helps allocations that may use it, so zones count one by one.
    Small ones (DMA) hold next to nothing and are ignored."""
    counting = [one for one in zones if buddyinfo.free_bytes([one], page_size) >= buddyinfo.NOTHING]
    if not counting and buddyinfo.free_bytes(zones, page_size) >= buddyinfo.NOTHING:
        counting = list(zones)
    bad = [zone for zone in counting if large_share(zone, page_size) < LITTLE]
    if not bad:
        return ""
    nothing = all(large_share(zone, page_size) == 0 for zone in bad)
    if len(bad) == len(counting):
        where, there = "", ""
    else:
        where = " in " + ", ".join(f"node {one['node']} zone {one['zone']}" for one in bad[:8])
        there = " there"
    most = "nothing" if nothing else f"less than {LITTLE:.0%}".replace("%", " %")
    return f", but fragmented{where}: {most}{there} in blocks of more than 8 pages"


def large_share(zone: Zone, page_size: int) -> float:
    """The share of a zone's free memory in blocks that are hard to find."""
    free = buddyinfo.free_bytes([zone], page_size)
    large = buddyinfo.free_bytes([zone], page_size, COSTLY_ORDER + 1)
    return large / free if free else 1.0


def largest(zone: Zone, page_size: int) -> str:
    orders = [order for order, count in enumerate(zone["free"]) if count]
    if not orders:
        return f"zone {zone['zone']}: nothing free"
    return f"zone {zone['zone']}: the largest block is {size(page_size << orders[-1])}"
