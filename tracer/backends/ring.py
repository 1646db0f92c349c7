# SPDX-License-Identifier: Apache-2.0
"""Reading a BPF ring buffer in batches, by mapping it.

Page 0 of the mapping is the consumer's position (ours to write), page 1 the producer's. Then comes
the data, mapped twice in a row so that a span that wraps reads as one piece (kernel/bpf/ringbuf.c).
The positions are read and written as whole 64-bit words. On x86, loads are not reordered with loads
nor stores with stores, except within one copy of many bytes (Intel SDM, volume 3, "Memory
Ordering"), so the protocol needs nothing more than a second copy. Elsewhere libbpf's callback reads
the ring.
"""

from __future__ import annotations

import mmap
import platform

from tracer.backends.bpf import Map
from tracer.backends.libbpf import CallbackRing, Libbpf
from tracer.model.batch import Batch, cell, split

BATCH_BYTES = 1 << 20


def open_ring(ring: Map, size: int) -> MappedRing | CopyingRing:
    if platform.machine() in ("x86_64", "AMD64"):
        return MappedRing(ring.fd, size)
    return CopyingRing(Libbpf(), ring)


class MappedRing:
    """`size` is the data area's, a power of two. Only the first of its two mappings is used: both
    would count as our memory, and joining a wrapped span costs little."""

    def __init__(self, fd: int, size: int) -> None:
        page = mmap.PAGESIZE
        self._size = size
        self._consumer_page = mmap.mmap(fd, page, offset=0)
        self._producer_page = mmap.mmap(fd, page + size, prot=mmap.PROT_READ, offset=page)
        self._consumer = memoryview(self._consumer_page).cast("Q")
        self._producer = memoryview(self._producer_page)[:page].cast("Q")
        self._data = memoryview(self._producer_page)[page:]

    def read(self) -> Batch | None:
        """The committed records, up to a megabyte; None if there are none."""
        consumed = self._consumer[0]
        waiting = self._producer[0] - consumed
        if not waiting:
            return None
        start = consumed & (self._size - 1)
        # A copy loads in no certain order: of a record that was finished meanwhile it may hold the
        # new header and old bytes behind it. So it only tells how much is finished.
        _, used = split(self._copied(start, min(waiting, BATCH_BYTES)))
        batch, _ = split(self._copied(start, used))
        self._consumer[0] = consumed + used
        return batch if used else None

    def _copied(self, start: int, length: int) -> bytes:
        end = start + length
        data = bytes(self._data[start:end])
        return data + self._data[: end - self._size] if end > self._size else data

    @property
    def waiting(self) -> int:
        """Bytes that were written and not yet read."""
        return int(self._producer[0] - self._consumer[0])

    def close(self) -> None:
        for view in (self._consumer, self._producer, self._data):
            view.release()
        self._consumer_page.close()
        self._producer_page.close()


class CopyingRing:
    def __init__(self, library: Libbpf, ring: Map) -> None:
        self._cells: list[bytes] = []
        self._ring = CallbackRing(library, ring, lambda record: self._cells.append(cell(record)))

    def read(self) -> Batch | None:
        self._ring.consume()
        if not self._cells:
            return None
        data = b"".join(self._cells)
        self._cells.clear()
        return split(data)[0]

    @property
    def waiting(self) -> None:
        """libbpf does not tell."""
        return None

    def close(self) -> None:
        self._ring.close()
