# SPDX-License-Identifier: Apache-2.0
"""Raw records as every backend yields them: the kernel ring buffer's own cells, untouched.

A cell is an 8-byte header (u32 length, whose top bits are flags; u32 for the kernel), the record,
and padding to 8 bytes (kernel/bpf/ringbuf.c). A record's first word is its kind. Backends without a
kernel ring write the same cells. Cells of one kind mostly form long runs; slicing finds a run
without a look at each cell.
"""

from __future__ import annotations

from dataclasses import dataclass

BUSY = 1 << 31
DISCARDED = 1 << 30
HEADER = 8


@dataclass(frozen=True, slots=True)
class Run:
    """`count` cells of one kind, from byte `start` to byte `end` of the batch."""

    kind: int
    count: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Batch:
    data: bytes
    runs: list[Run]


def split(data: bytes) -> tuple[Batch, int]:
    """The cells before the first unfinished one, and their size in bytes. `data` begins at a cell;
    its size is a multiple of 8."""
    words = memoryview(data).cast("I")
    runs: list[Run] = []
    at, end = 0, len(words)
    while at + 2 < end:
        length = words[at]
        if length & BUSY:
            break
        stride = _stride(length & ~DISCARDED)
        if at + stride > end:
            break
        if length & DISCARDED:
            at += stride
            continue
        kind = words[at + 2]
        count = _same(words, at, end, stride, length, kind)
        runs.append(Run(kind, count, at * 4, (at + count * stride) * 4))
        at += count * stride
    return Batch(data, runs), at * 4


def cell(record: bytes) -> bytes:
    """A record as a cell."""
    size = len(record)
    return size.to_bytes(4, "little") + bytes(4) + record + bytes(-size % 8)


def _stride(length: int) -> int:
    """A cell's size in words."""
    return (length + HEADER + 7) // 8 * 2


def _same(words: memoryview, at: int, end: int, stride: int, length: int, kind: int) -> int:
    """How many cells from `at` on have this length and kind. The search doubles its step."""
    count, look = 1, 4
    while True:
        start = at + count * stride
        look = min(look, (end - start) // stride)
        stop = start + look * stride
        lengths = words[start:stop:stride].tolist()
        kinds = words[start + 2 : stop : stride].tolist()
        if look and lengths.count(length) == look == kinds.count(kind):
            count += look
            look *= 2
            continue
        for found_length, found_kind in zip(lengths, kinds, strict=True):
            if (found_length, found_kind) != (length, kind):
                break
            count += 1
        return count
