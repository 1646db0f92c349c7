# SPDX-License-Identifier: Apache-2.0
"""bpf(2) for maps, without a library: the same for maps of every backend."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from tracer.kernel.btf import MapShape
from tracer.kernel.limits import reached
from tracer.model.errors import KtraceError

# The number of the system call depends on the machine; the commands of bpf(2) do not.
_NUMBERS = {"x86_64": 321, "aarch64": 280}
_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE, _NEXT_KEY, _OBJECT_INFO = 0, 1, 2, 3, 4, 15
_ENABLE_STATS, _STATS_RUN_TIME = 32, 0
_ANY = 0
# Offsets in struct bpf_prog_info, include/uapi/linux/bpf.h.
_RUN_TIME_NS, _RUN_COUNT, _RECURSION_MISSES = 192, 200, 208
_NAME_BYTES = 16


_Memory = bytes | ctypes.Array[ctypes.c_char] | None


class _Element(ctypes.Structure):
    """The part of `union bpf_attr` for one element; `other` is the value, or the next key."""

    _fields_ = (
        ("map_fd", ctypes.c_uint32),
        ("key", ctypes.c_void_p),
        ("other", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
    )


class _Create(ctypes.Structure):
    _fields_ = (
        ("map_type", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("numa_node", ctypes.c_uint32),
        ("map_name", ctypes.c_char * _NAME_BYTES),
    )


class _Info(ctypes.Structure):
    _fields_ = (
        ("bpf_fd", ctypes.c_uint32),
        ("info_len", ctypes.c_uint32),
        ("info", ctypes.c_void_p),
    )


class _Stats(ctypes.Structure):
    _fields_ = (("type", ctypes.c_uint32),)


class Map:
    """One BPF map by its descriptor. Keys and values are bytes; sizes are in bytes."""

    def __init__(self, fd: int, name: str, key_size: int, value_size: int, entries: int) -> None:
        self.fd = fd
        self.name = name
        self._key_size = key_size
        self._value_size = value_size
        self.entries = entries

    def update(self, key: bytes, value: bytes) -> None:
        if number := self._element(_UPDATE, key, value):
            doing = f"writing to map {self.name}"
            raise reached(doing, number) or KtraceError(f"{doing}: {os.strerror(number)}")

    def lookup(self, key: bytes, size: int | None = None) -> bytes | None:
        """The value, or None. A per-CPU map needs the `size` of all CPUs' values."""
        value = ctypes.create_string_buffer(size or self._value_size)
        number = self._element(_LOOKUP, key, value)
        if number == errno.ENOENT:
            return None
        if number:
            doing = f"reading map {self.name}"
            raise reached(doing, number) or KtraceError(f"{doing}: {os.strerror(number)}")
        return value.raw

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Entries added or deleted meanwhile may be missing; none comes twice."""
        for key in self._keys():
            value = self.lookup(key)
            if value is not None:
                yield key, value

    def delete(self, key: bytes) -> None:
        self._element(_DELETE, key, None)

    def close(self) -> None:
        os.close(self.fd)

    def _keys(self) -> Iterable[bytes]:
        """The walk is bounded: after a key that was just deleted, the kernel begins again."""
        keys: dict[bytes, None] = {}
        key: bytes | None = None
        following = ctypes.create_string_buffer(self._key_size)
        for _ in range(2 * self.entries):
            if self._element(_NEXT_KEY, key, following):
                break
            key = following.raw
            keys[key] = None
        return keys

    def _element(self, command: int, key: bytes | None, other: _Memory) -> int:
        """errno, or 0."""
        return _call(command, _Element(self.fd, _address(key), _address(other), _ANY))[1]


def create_map(name: str, shape: MapShape) -> Map:
    """Raises OSError."""
    sizes = (shape.key_size, shape.value_size, shape.entries)
    short = name.encode()[: _NAME_BYTES - 1]
    fd, number = _call(_MAP_CREATE, _Create(shape.type, *sizes, map_name=short))
    if fd < 0:
        raise OSError(number, f"making map {name}: {os.strerror(number)}")
    return Map(fd, name, *sizes)


def count_lost(table: Map, kinds: Mapping[str, int], missed: Mapping[str, int]) -> dict[str, int]:
    """Lost records by event name: `kt_lost` of the kind, summed over all CPUs, plus `missed`."""
    size = 8 * len(possible_cpus())
    lost = dict(missed)
    for name, kind in kinds.items():
        raw = table.lookup(kind.to_bytes(4, "little"), size) or b""
        lost[name] = lost.get(name, 0) + sum(memoryview(raw).cast("Q"))
    return {name: count for name, count in lost.items() if count}


class Misses:
    """Program runs that the kernel refused: `lost` by event name, `unseen` by what the program
    observes."""

    def __init__(self) -> None:
        self.lost: dict[str, int] = {}
        self.unseen: dict[str, int] = {}

    def add(self, event: str, nested: Mapping[str, str], refused: Mapping[str, int]) -> None:
        """`refused` is by program name; `nested` is the attach point's."""
        for program, count in refused.items():
            counts = self.unseen if program in nested else self.lost
            key = nested.get(program, event)
            if count and key:
                counts[key] = counts.get(key, 0) + count


@cache
def possible_cpus() -> list[int]:
    """The CPUs that have a value in per-CPU maps, absent ones included."""
    with open("/sys/devices/system/cpu/possible") as file:
        parts = [part.split("-") for part in file.read().strip().split(",")]
    return [cpu for part in parts for cpu in range(int(part[0]), int(part[-1]) + 1)]


def recursion_misses(program: int) -> int:
    """`bpf_prog_info.recursion_misses` (9ed9e9ba2337, 5.12): runs that the kernel refused because
    the same program was already running on that CPU; 0 where the kernel does not fill it."""
    return _number(_program_info(program), _RECURSION_MISSES)


def run_time(program: int) -> tuple[int, int]:
    """Nanoseconds that the program took, and its runs; 0 unless the kernel counts both."""
    info = _program_info(program)
    return _number(info, _RUN_TIME_NS), _number(info, _RUN_COUNT)


def count_run_time() -> int | None:
    """A descriptor. While it is open, the kernel counts the run time of every BPF program (since
    5.8). None if it refuses: that takes CAP_SYS_ADMIN."""
    fd, _ = _call(_ENABLE_STATS, _Stats(_STATS_RUN_TIME))
    return fd if fd >= 0 else None


def _program_info(program: int) -> bytes:
    info = ctypes.create_string_buffer(256)
    _call(_OBJECT_INFO, _Info(program, len(info), ctypes.addressof(info)))
    return info.raw


def _number(info: bytes, at: int) -> int:
    return int.from_bytes(info[at : at + 8], "little")


def _address(memory: _Memory) -> ctypes.c_void_p:
    """Of memory that the caller keeps alive."""
    pointer = memory if isinstance(memory, ctypes.Array) else ctypes.c_char_p(memory)
    return ctypes.cast(pointer, ctypes.c_void_p)


def _call(command: int, attributes: ctypes.Structure) -> tuple[int, int]:
    """The result of bpf(2), and errno if that is negative."""
    size = ctypes.sizeof(attributes)
    result = _libc.syscall(_number_here(), command, ctypes.byref(attributes), size)
    return result, ctypes.get_errno() if result < 0 else 0


@cache
def _number_here() -> ctypes.c_long:
    return ctypes.c_long(_NUMBERS[os.uname().machine])


# bpf(2) takes microseconds. Giving up the interpreter for it, as CDLL does, would mean to wait for
# the other threads' turns after each call: a quarter of a session's time under the live view.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
