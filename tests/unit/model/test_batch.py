# SPDX-License-Identifier: Apache-2.0
"""Cutting the ring's bytes into runs of records, against a reader that takes one cell at a time."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tracer.model import batch
from tracer.model.batch import BUSY, DISCARDED, Run, cell, split


@dataclass(frozen=True)
class Cell:
    """`count` cells that look alike."""

    kind: int
    size: int
    flags: int = 0
    count: int = 1

    def data(self) -> bytes:
        one = struct.pack("<IIII", self.size | self.flags, 7, self.kind, 0xDEAD)
        return one.ljust(8 + self.size + -self.size % 8, b"\xbb") * self.count


# A record is at least its kind; the second word above is part of it when there is room.
SIZES = st.sampled_from([8, 12, 16, 20, 56, 57, 64])
FLAGS = st.sampled_from([0] * 12 + [DISCARDED] * 2 + [BUSY, BUSY | DISCARDED])
COUNTS = st.integers(1, 3) | st.integers(1, 70)
CELLS = st.lists(st.builds(Cell, st.integers(1, 3), SIZES, FLAGS, COUNTS), max_size=12)


def naive(data: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """Kind and record of every cell up to the first busy one, and where that is."""
    found = []
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        size = length & ~(BUSY | DISCARDED)
        end = at + 8 + size + -size % 8
        if length & BUSY or end > len(data):
            break
        if not length & DISCARDED:
            found.append((struct.unpack_from("<I", data, at + 8)[0], data[at + 8 : at + 8 + size]))
        at = end
    return found, at


def one_by_one(data: bytes, runs: list[Run]) -> list[tuple[int, bytes]]:
    """The same from runs: every cell of a run has the same size."""
    found = []
    for run in runs:
        stride, rest = divmod(run.end - run.start, run.count)
        assert rest == 0
        for at in range(run.start, run.end, stride):
            (size,) = struct.unpack_from("<I", data, at)
            found.append((run.kind, data[at + 8 : at + 8 + size]))
    return found


@given(CELLS)
def test_runs_hold_what_a_naive_reader_finds(cells: list[Cell]) -> None:
    data = b"".join(c.data() for c in cells)
    found, used = split(data)
    records, end = naive(data)
    assert used == end
    assert found.data == data
    assert one_by_one(data, found.runs) == records


@given(CELLS, st.integers(0, 200))
def test_a_cell_that_is_cut_off_waits_for_the_next_read(cells: list[Cell], short: int) -> None:
    data = b"".join(c.data() for c in cells)
    data = data[: max(0, len(data) - 8 * short)]
    found, used = split(data)
    records, end = naive(data)
    assert used == end
    assert one_by_one(data, found.runs) == records


@given(CELLS)
def test_what_one_read_leaves_the_next_one_finds(cells: list[Cell]) -> None:
    """However often the reader comes by, it sees every record once and in order."""
    data = b"".join(c.data() for c in cells if not c.flags & BUSY)
    seen: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        part = data[at : at + 512]
        found, used = split(part)
        assert used, "a reader that does not advance would never end"
        seen += one_by_one(part, found.runs)
        at += used
    assert seen == naive(data)[0]


@given(CELLS)
def test_neighbours_of_one_kind_and_size_are_one_run(cells: list[Cell]) -> None:
    data = b"".join(c.data() for c in cells if not c.flags)
    runs = split(data)[0].runs
    for before, after in pairwise(runs):
        same_kind = before.kind == after.kind
        same_stride = (before.end - before.start) // before.count == (
            after.end - after.start
        ) // after.count
        same_size = data[before.start : before.start + 4] == data[after.start : after.start + 4]
        assert not (same_kind and same_stride and same_size)


def test_a_long_run_is_one_run_and_is_found_without_looking_at_each_cell() -> None:
    storm = Cell(2, 56, count=16_000).data()
    looked: list[int] = []

    def counted(*arguments: int) -> int:
        looked.append(1)
        return original(*arguments)

    original = batch._stride
    batch._stride = counted  # type: ignore[assignment]
    try:
        found, used = split(Cell(1, 2224).data() + storm + Cell(1, 2224).data())
    finally:
        batch._stride = original
    assert [(run.kind, run.count) for run in found.runs] == [(1, 1), (2, 16_000), (1, 1)]
    assert used == len(found.data)
    assert len(looked) == 3


def test_a_discarded_cell_ends_a_run_and_leaves_no_trace() -> None:
    data = Cell(1, 16, count=5).data() + Cell(1, 16, DISCARDED).data() + Cell(1, 16).data()
    assert [(run.count, run.start) for run in split(data)[0].runs] == [(5, 0), (1, 6 * 24)]


def test_nothing_is_read_behind_a_busy_cell() -> None:
    data = Cell(1, 16).data() + Cell(1, 16, BUSY).data() + Cell(1, 16).data()
    found, used = split(data)
    assert [run.count for run in found.runs] == [1]
    assert used == 24


def test_an_empty_ring() -> None:
    found, used = split(b"")
    assert (found.runs, used) == ([], 0)


@given(st.lists(st.binary(min_size=8, max_size=100), min_size=1, max_size=20))
def test_cells_made_here_are_the_cells_of_the_kernel(records: list[bytes]) -> None:
    data = b"".join(map(cell, records))
    assert len(data) % 8 == 0
    found, used = split(data)
    assert used == len(data)
    assert [record for _, record in one_by_one(data, found.runs)] == records
    assert [kind for kind, _ in naive(data)[0]] == [
        int.from_bytes(record[:4], "little") for record in records
    ]
