# SPDX-License-Identifier: Apache-2.0
"""Show page allocations that fail, and whether memory was gone or fragmented.

Failed page allocations: their process, their size, and the free memory at that moment.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from struct import pack
from typing import Any, TypedDict

from tracer.decode import gfp
from tracer.decode.buddyinfo import FreeBlocks, parse_line, reading
from tracer.kernel.bpf_object import shipped
from tracer.kernel.gfp import names_here
from tracer.model.event import Event, Process, text
from tracer.model.schema import Schema
from tracer.model.selection import Selection
from tracer.model.summary import summary
from tracer.model.units import size
from tracer.probes import Alike, AttachPoint, Decode, Metric, Options, Probe, Stream, option
from tracer.probes.columns import CONTAINER, POD, Column, ancestry_chain, exe, process_name
from tracer.probes.gfp import FlagNames

# More than any kernel has; a larger order is a forged record.
MAX_ORDER = 32
# Free lists read later than this do not explain the failure.
SAME_MOMENT_NS = 1_000_000_000


class AllocationBody(TypedDict):
    process: Process
    order: int
    bytes: int | None
    gfp_flags: list[str] | None
    gfp_mask: str
    quiet: bool | None
    can_wait: bool | None
    buddyinfo: list[FreeBlocks] | None
    reading: str | None


class Decoder:
    """Free lists come before the failures at which they were read."""

    def __init__(self, stream: Stream) -> None:
        self._resolver = stream.resolver
        self._flags = stream.shared(FlagNames)
        self._row = shipped("pagealloc").layout("buddy_row")
        self._lists: Any = None

    def failure(self, record: Any) -> Event[AllocationBody]:
        if record.order >= MAX_ORDER:
            raise ValueError(record.order)
        process = self._resolver.process(
            record.process_process, record.process_pid, record.process_tid
        )
        lists = self._lists
        zones, page_size, quiet, can_wait = None, 0, None, None
        if lists is not None:
            page_size = lists.page_size
            quiet = bool(record.gfp & lists.nowarn) if lists.nowarn else None
            can_wait = bool(record.gfp & lists.can_wait) if lists.can_wait else None
            if lists.rows and abs(lists.time - record.time) <= SAME_MOMENT_NS:
                zones = self._zones(lists)
        flags = self._flags.words(record.gfp)
        body: AllocationBody = {
            "process": process,
            "order": record.order,
            "bytes": page_size << record.order if page_size else None,
            "gfp_flags": flags,
            "gfp_mask": hex(record.gfp),
            "quiet": quiet,
            "can_wait": can_wait,
            "buddyinfo": zones,
            "reading": reading(record.order, page_size, zones, flags),
        }
        return Event("page_alloc_failure", record.time, process, None, body)

    def _zones(self, lists: Any) -> list[FreeBlocks]:
        rows = self._row.struct.iter_unpack(lists.row[: lists.rows * self._row.size])
        return [
            {
                "node": row.node,
                "zone": text(row.zone),
                "free": list(memoryview(row.free).cast("Q")[: row.orders]),
            }
            for row in map(self._row.make, rows)
        ]

    def free_lists(self, record: Any) -> None:
        self._lists = record


def _decoder(stream: Stream) -> dict[str, Decode]:
    decoder = Decoder(stream)
    return {
        "page_alloc_failure": decoder.failure,
        "buddyinfo": decoder.free_lists,
        "gfp_names": stream.shared(FlagNames).learn,
    }


class FreeLists:
    """Reads /proc/buddyinfo when an allocation has failed."""

    interval: float | None = None

    def __init__(self, schemas: Mapping[str, Schema], path: str = "/proc/buddyinfo") -> None:
        self._schemas = schemas
        self._path = path
        self._row = shipped("pagealloc").layout("buddy_row")
        self._table: gfp.Table | None = None

    def records(self, fresh: frozenset[str]) -> list[bytes]:
        if "page_alloc_failure" not in fresh:
            return []
        records = []
        if self._table is None:
            self._table = names_here()
            schema = self._schemas["gfp_names"]
            names = gfp.pack(self._table, schema.room("names"))
            records.append(schema.pack(names=names, names_bytes=len(names)))
        rows = self._rows()
        records.append(
            self._schemas["buddyinfo"].pack(
                time=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
                rows=len(rows),
                page_size=mmap.PAGESIZE,
                nowarn=gfp.bit_of("__GFP_NOWARN", self._table) or 0,
                can_wait=gfp.bit_of("__GFP_DIRECT_RECLAIM", self._table) or 0,
                row=b"".join(rows),
            )
        )
        return records

    def close(self) -> None:
        """Nothing is kept open."""

    def _rows(self) -> list[bytes]:
        try:
            lines = Path(self._path).read_text().splitlines()
            most = self._schemas["buddyinfo"].room("row") // self._row.size
            return [self._pack_row(line) for line in lines[:most]]
        except (OSError, ValueError, IndexError):
            return []

    def _pack_row(self, line: str) -> bytes:
        row = parse_line(line)
        free = row["free"][: self._row.room("free") // 8]
        numbers = pack(f"={len(free)}Q", *free)
        zone = row["zone"].encode()
        return self._row.plain(node=row["node"], orders=len(free), zone=zone, free=numbers)


def _free_lists_here(schemas: Mapping[str, Schema], _map_of: Any) -> FreeLists:
    return FreeLists(schemas)


@dataclass(frozen=True)
class AllocationOptions(Options):
    quiet_failures: bool = option(
        False, "Also failed allocations without a warning: the caller has another way."
    )

    def settings(self, selection: Selection) -> dict[str, int]:
        """If no source knows the flag's number, nothing is left out."""
        if self.quiet_failures:
            return {"kt_gfp_left_out": 0}
        return {"kt_gfp_left_out": gfp.bit_of("__GFP_NOWARN", names_here()) or 0}


def _summary(event: Event[AllocationBody]) -> str:
    body = event.body
    line = f"{process_name(event.about)} got no memory: "
    return line + (body["reading"] or f"order {body['order']}")


def _grouping(event: Event[AllocationBody]) -> Alike:
    """Failures whose free lists came late are grouped separately."""
    body = event.body
    known = body["buddyinfo"] is not None
    return Alike("page_alloc_failure", (body["process"].pid, body["order"], known))


def _alarm(event: Event[AllocationBody]) -> bool:
    """Whether a small allocation in a pod could wait and still failed."""
    body = event.body
    return bool(event.place and event.place.pod and body["order"] <= 3 and body["quiet"] is False)


PROBE: Probe[AllocationBody] = Probe(
    name="pagealloc",
    object="pagealloc",
    help=summary(__doc__),
    examples=(
        "ktrace pagealloc                     failures in pods that the caller did not expect",
        "ktrace pagealloc --all               also those of the node itself",
        "ktrace pagealloc --quiet-failures    also those for which the caller has another way",
        "ktrace pagealloc -o json | jq .buddyinfo",
    ),
    attach_points=(
        AttachPoint(
            "kprobe/warn_alloc",
            ("on_warn_alloc",),
            ("allocations that a cgroup's limit refused",),
            _free_lists_here,
        ),
        AttachPoint(
            "tp_btf/mm_page_alloc",
            ("on_mm_page_alloc",),
            ("failures in an interrupt that comes while another allocation is looked at",),
            _free_lists_here,
            nested={"on_mm_page_alloc": "allocations in interrupts"},
        ),
    ),
    decoder=_decoder,
    bodies={"page_alloc_failure": AllocationBody},
    whose={"page_alloc_failure": "process_process"},
    state={"gfp_names": ()},
    columns=(
        Column("PROCESS", lambda e: process_name(e.about), 14, 23),
        Column("SIZE", lambda e: size(e.body["bytes"]), 8, 8, 2),
        Column("READING", lambda e: e.body["reading"], 16, 90, 3),
        POD,
        CONTAINER,
        Column("QUIET", lambda e: _yes(e.body["quiet"]), 5, 5, 6, wide=True),
        Column("WAITS", lambda e: _yes(e.body["can_wait"]), 5, 5, 6, wide=True),
        Column("GFP", lambda e: _flags(e), 10, 60, 6, wide=True),
        Column("EXE", lambda e: exe(e.about), 10, 40, 6, wide=True),
        Column("ANCESTRY", lambda e: ancestry_chain(e.about), 10, 120, 6, wide=True),
    ),
    summary=_summary,
    alarm=_alarm,
    grouping=_grouping,
    options=AllocationOptions,
    metric=Metric(
        "page_allocation_failures",
        "Page allocations that failed; 2^order pages were asked for.",
        {"order": lambda e: str(e.body["order"])},
    ),
)


def _yes(value: bool | None) -> str | None:
    return {True: "yes", False: "no", None: None}[value]


def _flags(event: Event[AllocationBody]) -> str:
    flags = event.body["gfp_flags"]
    return "|".join(flags) if flags is not None else str(event.body["gfp_mask"])
