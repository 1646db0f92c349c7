# SPDX-License-Identifier: Apache-2.0
"""What becomes of a failed page allocation, and how the free lists are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.unit.records import Decoding
from tracer.decode.buddyinfo import reading
from tracer.kernel.bpf_object import shipped
from tracer.model.batch import cell
from tracer.model.event import Clock, Event, to_json
from tracer.model.selection import Selection
from tracer.probes.pagealloc import PROBE, AllocationOptions, FreeLists

SCHEMAS = shipped("pagealloc").schemas
BUDDYINFO = """Node 0, zone      DMA      0      0      0      0      0      0      0      0      1
Node 0, zone    DMA32      1      2      4      2      0      0      0      0      0
Node 1, zone   Normal  78643      0      0      0      0      0      0      0      0
"""
PAGE = 4096


def zone(*free: int) -> dict[str, Any]:
    return {"node": 0, "zone": "Normal", "free": list(free)}


@pytest.mark.parametrize(
    ("order", "zones", "flags", "line"),
    [
        (0, [zone(0, 0)], None, "order 0: no memory at all"),
        (0, [zone(100, 3)], None, "order 0: no memory at all"),
        (0, [zone(1 << 18)], None, "order 0: 1 GiB free, kept back for others"),
        (
            4,
            [zone(314573, 0, 0, 0, 0)],
            None,
            "order 4: 1.2 GiB free, none of it in blocks of 64 KiB or more: fragmented",
        ),
        (
            4,
            [zone(0, 0, 0, 0, 16), zone(256)],
            None,
            "order 4: 2 MiB free, 1 MiB of it in blocks of 64 KiB or more: kept back for others",
        ),
        (
            1,
            [zone(0, 0, 256)],
            ["GFP_KERNEL_ACCOUNT"],
            "order 1: 4 MiB free, 4 MiB of it in blocks of 8 KiB or more: the limit of its cgroup,"
            " or kept back for others",
        ),
        (
            9,
            [zone(1)],
            None,
            "order 9: 4 KiB free, none of it in blocks of 2 MiB or more: little, and in pieces",
        ),
        (1, None, None, None),
    ],
)
def test_a_reading(order: int, zones: Any, flags: Any, line: str | None) -> None:
    assert reading(order, PAGE, zones, flags) == line


OLD_DEVICES = {"node": 0, "zone": "DMA", "free": [0] * 10 + [3]}
LOWER_HALF = {"node": 0, "zone": "DMA", "free": [0] * 10 + [300]}


@pytest.mark.parametrize(
    ("zones", "flags", "large"),
    [
        ([OLD_DEVICES, zone(4096)], ["GFP_KERNEL"], "none"),
        ([OLD_DEVICES, zone(4096)], ["GFP_KERNEL", "__GFP_DMA"], "12 MiB"),
        ([OLD_DEVICES, zone(4096)], None, "12 MiB"),
        ([LOWER_HALF, zone(4096)], ["GFP_KERNEL"], "1.2 GiB"),  # as arm64 has it
        ([OLD_DEVICES], ["GFP_KERNEL"], "12 MiB"),  # a small machine's, with nearly nothing left
    ],
)
def test_what_is_kept_for_old_devices_is_nobody_elses(zones: Any, flags: Any, large: str) -> None:
    line = reading(10, PAGE, zones, flags)
    assert line is not None
    assert f" free, {large} of it in blocks of 4 MiB or more" in line


def read(tmp_path: Path, text: str | None) -> list[bytes]:
    path = tmp_path / "buddyinfo"
    if text is not None:
        path.write_text(text)
    return FreeLists(SCHEMAS, str(path)).records(frozenset({"page_alloc_failure"}))


def decoded(resolver: Decoding, name: str, raw: bytes) -> Event[Any] | None:
    (record,) = SCHEMAS[name].cells(memoryview(cell(raw)))
    if name == "buddyinfo":
        record = record._replace(nowarn=0x2000, can_wait=0x400, page_size=PAGE)
    return resolver.decode[name](record)


def failure(tmp_path: Path, text: str | None, gfp: int = 0xCC0, later: int = 0) -> Event[Any]:
    resolver = Decoding(PROBE)
    raw = read(tmp_path, text)[-1]
    (record,) = SCHEMAS["buddyinfo"].cells(memoryview(cell(raw)))
    decoded(resolver, "buddyinfo", raw)
    values = {"time": record.time - later, "process_pid": 5, "process_tid": 5}
    schema = SCHEMAS["page_alloc_failure"]
    event = decoded(resolver, schema.name, schema.pack(order=3, gfp=gfp, **values))
    assert event
    return event


def body(event: Event) -> Any:
    return orjson.loads(to_json(event, Clock(0), "node"))


def test_an_event_with_the_free_lists(tmp_path: Path) -> None:
    event = failure(tmp_path, BUDDYINFO)
    seen = body(event)
    assert seen["process"]["pid"] == 5
    assert (seen["order"], seen["bytes"]) == (3, 32768)
    assert (seen["quiet"], seen["can_wait"]) == (False, True)
    assert [(z["node"], z["zone"]) for z in seen["buddyinfo"]] == [
        (0, "DMA"),
        (0, "DMA32"),
        (1, "Normal"),
    ]
    assert seen["buddyinfo"][1]["free"] == [1, 2, 4, 2, 0, 0, 0, 0, 0]
    assert seen["reading"].startswith("order 3: 308 MiB free, 1.1 MiB of it in blocks of 32 KiB")
    assert PROBE.summary(event) == f"[5] got no memory: {seen['reading']}"


def test_a_quiet_one_that_cannot_wait(tmp_path: Path) -> None:
    seen = body(failure(tmp_path, BUDDYINFO, gfp=0x2800))
    assert (seen["quiet"], seen["can_wait"]) == (True, False)
    assert seen["gfp_mask"] == "0x2800"
    assert seen["gfp_flags"] is None  # no names have come


@pytest.mark.parametrize("text", [None, "", "nonsense\n", "Node x, zone DMA 1\n"])
def test_without_free_lists(tmp_path: Path, text: str | None) -> None:
    event = failure(tmp_path, text)
    seen = body(event)
    assert seen["buddyinfo"] is None
    assert seen["reading"] is None
    assert seen["bytes"] == 32768
    assert PROBE.summary(event) == "[5] got no memory: order 3"


def test_free_lists_of_another_moment(tmp_path: Path) -> None:
    assert body(failure(tmp_path, BUDDYINFO, later=1_000_000_001))["buddyinfo"] is None


def test_a_machine_with_many_zones(tmp_path: Path) -> None:
    text = "".join(f"Node {node}, zone Normal {'1 ' * 20}\n" for node in range(100))
    zones = body(failure(tmp_path, text))["buddyinfo"]
    assert len(zones) == 32
    assert all(zone["free"] == [1] * 16 for zone in zones)


def test_only_read_when_something_failed() -> None:
    assert FreeLists(SCHEMAS, "/nonexistent").records(frozenset({"signal"})) == []


def test_silence_is_chosen_in_the_kernel() -> None:
    assert AllocationOptions(quiet_failures=True).settings(Selection()) == {"kt_gfp_left_out": 0}
    (left_out,) = PROBE.options().settings(Selection()).values()
    assert left_out.bit_count() <= 1


def test_the_columns_fit_in_60() -> None:
    """Besides the time and the sign, which take 17."""
    last = [c for c in PROBE.columns if c.rank <= 2 and not c.wide]
    assert [c.title for c in last] == ["PROCESS", "SIZE", "POD"]
    assert 17 + sum(c.narrow for c in last) + 2 * (len(last) - 1) <= 60
