# SPDX-License-Identifier: Apache-2.0
"""The ring as the kernel lays it out, in a file of exactly that size: nothing more is needed."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from tracer.backends.ring import BATCH_BYTES, MappedRing
from tracer.model.batch import cell

SIZE = 4 * BATCH_BYTES
PAGE = mmap.PAGESIZE


class Kernel:
    """The writer's side."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + SIZE)
        self.written = 0

    def begin_at(self, position: int) -> None:
        self.written = position
        os.pwrite(self.fd, struct.pack("=Q", position), 0)
        os.pwrite(self.fd, struct.pack("=Q", position), PAGE)

    def submit(self, record: bytes) -> None:
        for byte in cell(record):
            os.pwrite(self.fd, bytes([byte]), 2 * PAGE + self.written % SIZE)
            self.written += 1
        os.pwrite(self.fd, struct.pack("=Q", self.written), PAGE)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    os.close(made.fd)


@pytest.mark.parametrize("before", range(0, 96, 8))
def test_a_record_may_wrap_anywhere(kernel: Kernel, before: int) -> None:
    ring = MappedRing(kernel.fd, SIZE)
    assert ring.read() is None
    kernel.begin_at(5 * SIZE - before)
    sent = [struct.pack("=QQ", 1, n) + bytes([n]) * 16 for n in range(1, 4)]
    for record in sent:
        kernel.submit(record)
    batch = ring.read()
    assert batch is not None
    assert bytes(batch.data) == b"".join(map(cell, sent))
    assert ring.read() is None
    ring.close()


class OutOfOrder(MappedRing):
    """A copy during which the kernel finishes a record: what lies behind the header was loaded
    first."""

    copies = 0

    def _copied(self, start: int, length: int) -> bytes:
        self.copies += 1
        data = super()._copied(start, length)
        return data[:8] + bytes(len(data) - 8) if self.copies == 1 else data


def test_a_record_that_is_finished_while_it_is_copied(kernel: Kernel) -> None:
    ring = OutOfOrder(kernel.fd, SIZE)
    record = struct.pack("=QQ", 1, 2)
    kernel.submit(record)
    batch = ring.read()
    assert batch is not None
    assert bytes(batch.data) == cell(record)
    assert [(run.kind, run.count) for run in batch.runs] == [(1, 1)]
    ring.close()
