# SPDX-License-Identifier: Apache-2.0
"""Free memory zone by zone: /proc/buddyinfo, the lists in the kernel log, /proc/pagetypeinfo and
/proc/zoneinfo. Most lines begin with `Node`, but the numbers differ in meaning."""

from __future__ import annotations

import re

from tracer.decode import freelists
from tracer.decode.freelists import Zone
from tracer.decode.kind import Answer, Blocks, Kernel
from tracer.decode.lines import Line
from tracer.model.units import size

# More zones than any machine has.
MAX_ZONES = 4096

_TYPE = re.compile(
    r"Node {1,8}(?P<node>\d{1,4}), zone {1,16}(?P<zone>\w{1,16}), type {1,16}(?P<type>\w{1,16})"
    r"(?P<free>(?:\s{1,16}>?\d{1,12}){1,32})\s{0,16}\Z"
)
_TYPE_HEADER = re.compile(
    r"Page block order: {1,8}\d|Pages per block: {1,8}\d|Free pages count per migrate type"
)
_BLOCKS_HEADER = re.compile(r"Number of (?:mixed )?blocks type")
_ZONE_HEADER = re.compile(r"Node (?P<node>\d{1,4}), zone {1,16}(?P<zone>\w{1,16})\Z")
_ZONE_LINE = re.compile(
    r"(?P<name>(?:pages )?[A-Za-z][\w ():-]{0,40}?):?\s{0,16}(?P<count>\(?\d{0,20}[\d, ]{0,200}\)?)"
)


class _FreeLists:
    def __init__(self, _kernel: Kernel) -> None:
        self.swallows = False
        self._host: str | None = None
        self._zones: dict[tuple[int, str], Zone] = {}
        self._page_size: int | None = None
        self._types: dict[tuple[int, str, str], list[int]] = {}
        self._counts_blocks = False
        self._infos: dict[tuple[int, str], dict[str, int]] = {}
        self._info: dict[str, int] | None = None

    def take(self, line: Line, answers: list[Answer]) -> bool:
        text = line.text
        if self._info is not None and self._zoneinfo(text):
            return True
        if "Node" not in text and "kB" not in text:
            return self._header(text, answers)
        if header := _ZONE_HEADER.search(text):
            self._begin_zone(header, answers)
            return True
        if found := _TYPE.search(text):
            return self._typed(found, answers)
        if found_in_log := freelists.of_log(text):
            self._add("", found_in_log[1], found_in_log[0], answers)
            return True
        if found_in_proc := freelists.of_buddyinfo(text):
            if not self._counts_blocks:
                self._add(*found_in_proc, None, answers)
            return True
        return "Node" not in text and self._header(text, answers)

    def pause(self, answers: list[Answer]) -> None:
        self.end(answers)

    def end(self, answers: list[Answer]) -> None:
        if self._zones:
            answers.append(self._of_zones())
        if self._types:
            answers.append(_of_types(self._types))
        if self._infos:
            answers.append(_of_infos(self._infos))
        self._zones, self._types, self._infos = {}, {}, {}
        self._info, self._counts_blocks = None, False

    def _add(self, host: str, zone: Zone, page_size: int | None, answers: list[Answer]) -> None:
        """Adds a zone. Another node, machine or moment begins a new answer."""
        key = zone["node"], zone["zone"]
        other = (host, page_size) != (self._host, self._page_size)
        if self._zones and (other or key in self._zones or len(self._zones) >= MAX_ZONES):
            self.end(answers)
        self._host, self._page_size = host, page_size
        self._zones[key] = zone

    def _of_zones(self) -> Answer:
        zones = list(self._zones.values())
        page_size = self._page_size or freelists.page_size_of(zones)
        lines = freelists.decode_buddyinfo(zones, page_size)
        if self._host:
            lines[0] = f"{self._host.rstrip(':')}: {lines[0]}"
        if page_size != 4096:
            orders = max(len(zone["free"]) for zone in zones)
            why = "as the text says" if self._page_size else f"as lists of {orders} orders mean"
            lines.append(f"  a page has {size(page_size)}, {why}")
        return lines

    # /proc/pagetypeinfo

    def _header(self, text: str, answers: list[Answer]) -> bool:
        if _TYPE_HEADER.match(text):
            if self._types and text.startswith("Page block order"):
                self.end(answers)
            return True
        if _BLOCKS_HEADER.match(text):
            self._counts_blocks = True
            return True
        return False

    def _typed(self, found: re.Match[str], answers: list[Answer]) -> bool:
        key = int(found["node"]), found["zone"], found["type"]
        if key in self._types or len(self._types) >= MAX_ZONES:
            self.end(answers)
        self._types[key] = [int(count.lstrip(">")) for count in found["free"].split()]
        self._counts_blocks = False
        return True

    # /proc/zoneinfo

    def _begin_zone(self, header: re.Match[str], answers: list[Answer]) -> None:
        key = int(header["node"]), header["zone"]
        if key in self._infos or len(self._infos) >= MAX_ZONES:
            self.end(answers)
        self._info = self._infos.setdefault(key, {})

    def _zoneinfo(self, text: str) -> bool:
        found = _ZONE_LINE.fullmatch(text)
        if not found or self._info is None:
            return False
        name = found["name"].strip()
        if name in ("pages free", "min", "low", "high", "present", "managed"):
            count = found["count"].strip()
            if count.isdecimal():
                self._info.setdefault(name, int(count))
        return True


def _of_types(types: dict[tuple[int, str, str], list[int]]) -> Answer:
    lines = ["/proc/pagetypeinfo: what is free, by what it may be used for (migrate type)"]
    for (node, zone, kind), free in types.items():
        orders = [order for order, count in enumerate(free) if count]
        page = freelists.page_size_by(len(free))
        most = "nothing"
        if orders:
            most = f"pieces of up to {size(page << orders[-1])} (order {orders[-1]})"
        lines.append(f"  node {node} zone {zone}, {kind}: {most}")
    lines.append(
        "the kernel's own allocations are Unmovable and Reclaimable, those of processes Movable; a"
        " type that has nothing left takes from others"
    )
    return lines


def _of_infos(infos: dict[tuple[int, str], dict[str, int]]) -> Answer:
    lines = ["/proc/zoneinfo: pages that are free, and the marks below which reclaim begins"]
    for (node, zone), info in infos.items():
        free = info.get("pages free")
        if free is None:
            lines.append(f"  node {node} zone {zone}: not told")
            continue
        state = "no lack"
        for mark, words in (
            ("high", "reclaim goes on until it is reached"),
            ("low", "reclaim runs"),
            ("min", "allocations have to wait or fail"),
        ):
            if mark in info and free < info[mark]:
                state = f"below {mark} ({info[mark]}): {words}"
        lines.append(f"  node {node} zone {zone}: {free} pages; {state}")
    return lines


BLOCK = Blocks(_FreeLists, rank=50)
