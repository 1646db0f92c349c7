# SPDX-License-Identifier: Apache-2.0
"""Reading records from perf buffers, for kernels without ring buffers: one for each CPU.

A record may refer to a description in another CPU's buffer, so records are sorted by time. Buffers
are read one after the other, so the newest records wait for the next read. perf_event_open(2)
describes the layout of the mapping. Its positions are read and written as in
tracer/backends/ring.py.
"""

from __future__ import annotations

import ctypes
import fcntl
import math
import mmap
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from tracer.backends.bpf import Map, possible_cpus
from tracer.model.batch import Batch, cell, split
from tracer.model.schema import Schema

BUFFER_BYTES = 1 << 20
# No program takes this long between taking a record's time and sending it.
SETTLED_NS = 20_000_000

_NUMBERS = {"x86_64": 298, "aarch64": 241}
_TYPE_SOFTWARE, _BPF_OUTPUT, _SAMPLE_RAW = 1, 10, 1 << 10
_FD_CLOEXEC = 1 << 3
_IOC_ENABLE = 0x2400
_RECORD_SAMPLE = 9
_HEAD, _TAIL = 1024 // 8, 1032 // 8  # of struct perf_event_mmap_page, in words


class _Attributes(ctypes.Structure):
    """The beginning of `struct perf_event_attr`, its first published size."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup_events", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("config1", ctypes.c_uint64),
    )


class PerfRing:
    """`array` is the map from CPU to buffer that the programs use."""

    def __init__(self, array: Map, schemas: Mapping[int, Schema]) -> None:
        self._schemas = schemas
        self._buffers: list[_Buffer] = []
        self._early: list[tuple[int, bytes]] = []
        self._settled = False
        try:
            for cpu in possible_cpus():
                with suppress(ProcessLookupError, FileNotFoundError):  # the CPU is absent
                    buffer = _Buffer(cpu)
                    self._buffers.append(buffer)
                    array.update(cpu.to_bytes(4, "little"), buffer.fd.to_bytes(4, "little"))
        except BaseException:
            self.close()
            raise

    @property
    def descriptors(self) -> Sequence[int]:
        return [buffer.fd for buffer in self._buffers]

    @property
    def patience(self) -> float:
        """Seconds after which to read again even if no descriptor is readable."""
        return SETTLED_NS / 1e9 if self._early else math.inf

    def read(self) -> Batch | None:
        until = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - SETTLED_NS
        found = self._early
        found += [(_time(r), r) for buffer in self._buffers for r in buffer.take()]
        found.sort(key=lambda timed: timed[0])
        count = len(found)
        if not self._settled:
            count = sum(when <= until for when, _ in found)
        self._early = found[count:]
        if not count:
            return None
        return split(b"".join(cell(self._trimmed(record)) for _, record in found[:count]))[0]

    def settle(self) -> None:
        """No more records will come, so the present ones need not wait."""
        self._settled = True

    def close(self) -> None:
        while self._buffers:
            self._buffers.pop().close()

    def _trimmed(self, record: bytes) -> bytes:
        """Without perf's padding."""
        return record[: self._schemas[int.from_bytes(record[:4], "little")].size]


class _Buffer:
    def __init__(self, cpu: int) -> None:
        self.fd = _open(cpu)
        page = mmap.PAGESIZE
        self._map = mmap.mmap(self.fd, page + BUFFER_BYTES)
        self._words = memoryview(self._map)[:page].cast("Q")
        self._data = memoryview(self._map)[page:]
        fcntl.ioctl(self.fd, _IOC_ENABLE, 0)

    def take(self) -> Iterator[bytes]:
        """The raw parts of samples. perf's own records of losses are skipped: the programs count
        losses by kind."""
        head, tail = self._words[_HEAD], self._words[_TAIL]
        while tail < head:
            kind, _, size = struct.unpack("=IHH", self._piece(tail, 8))
            if kind == _RECORD_SAMPLE:
                body = self._piece(tail + 8, size - 8)
                yield body[4 : 4 + int.from_bytes(body[:4], "little")]
            tail += size
        self._words[_TAIL] = tail

    def close(self) -> None:
        self._words.release()
        self._data.release()
        self._map.close()
        os.close(self.fd)

    def _piece(self, at: int, size: int) -> bytes:
        start = at % BUFFER_BYTES
        piece = bytes(self._data[start : start + size])
        return piece + bytes(self._data[: size - len(piece)])


def _time(record: bytes) -> int:
    """From its struct kt_header."""
    return int.from_bytes(record[8:16], "little")


def _open(cpu: int) -> int:
    attributes = _Attributes(
        type=_TYPE_SOFTWARE,
        size=ctypes.sizeof(_Attributes),
        config=_BPF_OUTPUT,
        sample_period=1,
        sample_type=_SAMPLE_RAW,
        wakeup_events=1,
    )
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.byref(attributes), -1, cpu, -1, _FD_CLOEXEC)
    fd: int = libc.syscall(_NUMBERS[os.uname().machine], *arguments)
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"opening a perf buffer: {os.strerror(number)}")
    return fd
