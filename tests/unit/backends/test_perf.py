# SPDX-License-Identifier: Apache-2.0
"""Records out of perf buffers, from memory as the kernel writes it (perf_event_open(2))."""

from __future__ import annotations

import mmap
import struct
import time
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tracer.backends.bcc import perf
from tracer.backends.bcc.perf import BUFFER_BYTES, SETTLED_NS, PerfRing

_SAMPLE, _LOST = 9, 2


class Memory(perf._Buffer):
    """A buffer that nobody else knows; `start` is how much was written and read before."""

    def __init__(self, start: int = 0) -> None:
        self._page = bytearray(mmap.PAGESIZE)
        self._words = memoryview(self._page).cast("Q")
        self._bytes = bytearray(BUFFER_BYTES)
        self._data = memoryview(self._bytes)
        self._words[perf._HEAD] = self._words[perf._TAIL] = start

    def write(self, kind: int, body: bytes) -> None:
        record = struct.pack("=IHH", kind, 0, 8 + len(body)) + body
        at = self._words[perf._HEAD]
        for offset, byte in enumerate(record):
            self._bytes[(at + offset) % BUFFER_BYTES] = byte
        self._words[perf._HEAD] = at + len(record)

    def sample(self, raw: bytes) -> None:
        size = len(raw) + (-len(raw) - 4) % 8
        self.write(_SAMPLE, size.to_bytes(4, "little") + raw.ljust(size, b"\xaa"))


def record(kind: int, when: int, more: bytes = b"") -> bytes:
    """It begins as struct kt_header does."""
    return struct.pack("<IIQ", kind, 0, when) + more


def ring_of(*buffers: Memory, sizes: dict[int, int]) -> PerfRing:
    ring: Any = object.__new__(PerfRing)
    ring._schemas = {kind: SimpleNamespace(size=size) for kind, size in sizes.items()}
    ring._buffers, ring._early, ring._settled = list(buffers), [], False
    return ring  # type: ignore[no-any-return]


@given(
    start=st.integers(0, 3 * BUFFER_BYTES // 8).map(lambda words: words * 8)
    | st.just(BUFFER_BYTES - 16),
    bodies=st.lists(st.binary(max_size=60), max_size=10),
    lost=st.booleans(),
)
def test_every_sample_comes_out(start: int, bodies: list[bytes], lost: bool) -> None:
    memory = Memory(start)
    for body in bodies:
        memory.sample(body)
        if lost:
            memory.write(_LOST, bytes(16))
    taken = list(memory.take())
    assert [raw[: len(body)] for raw, body in zip(taken, bodies, strict=True)] == bodies
    assert list(memory.take()) == []


def test_buffers_are_read_in_the_order_of_time() -> None:
    """What perf has padded is cut off again."""
    one, other = Memory(), Memory()
    one.sample(record(1, 30, b"abc"))
    other.sample(record(2, 10))
    other.sample(record(2, 40))
    batch = ring_of(one, other, sizes={1: 19, 2: 16}).read()
    assert batch is not None
    assert [(run.kind, run.count) for run in batch.runs] == [(2, 1), (1, 1), (2, 1)]
    run = batch.runs[1]
    assert batch.data[run.start : run.end] == struct.pack("<II", 19, 0) + record(1, 30, b"abc") + (
        bytes(5)
    )


def test_what_is_young_waits_for_the_other_buffers() -> None:
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    memory = Memory()
    memory.sample(record(1, now + 60_000_000_000))
    ring = ring_of(memory, sizes={1: 16})
    assert ring.patience == float("inf")
    assert ring.read() is None
    assert ring.patience == SETTLED_NS / 1e9
    ring.settle()
    batch = ring.read()
    assert batch is not None and [run.count for run in batch.runs] == [1]
    assert ring.patience == float("inf")
