# SPDX-License-Identifier: Apache-2.0
"""The few calls of `libbpf.so.1` that the core backend needs, through ctypes.

Every call that can fail raises `LibbpfError`, with the text of the errno and libbpf's own log
lines, or `LimitReached`. The log is kept in memory and never reaches the terminal on its own.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint32, c_void_p
from functools import cached_property
from pathlib import Path
from typing import Any

from tracer.backends.bpf import Map, recursion_misses, run_time
from tracer.kernel import limits
from tracer.model.errors import CannotOnThisKernel, KtraceError

# Shipped in a wheel for other systems (deploy/wheel).
_OWN = Path(__file__).parents[1] / "libraries" / "libbpf.so.1"
_KEPT_LINES = 60
# The verifier's log comes in one piece, with the reason at its end.
_LOG_BYTES = 1 << 20


class LibbpfError(KtraceError):
    """A libbpf call failed. `errno` is positive; `log` holds libbpf's own last lines."""

    def __init__(self, what: str, number: int, log: list[str]) -> None:
        super().__init__(f"{what}: {os.strerror(number)}")
        self.errno = number
        self.log = log

    @property
    def forbidden(self) -> bool:
        """Whether the process lacks permission. The verifier also returns EACCES, for programs that
        it rejects; then it has written a log."""
        verified = any("PROG LOAD LOG" in line for line in self.log)
        return self.errno == errno.EPERM or (self.errno == errno.EACCES and not verified)


class Libbpf:
    """The library, loaded once a process. Raises `CannotOnThisKernel` where there is none."""

    def __init__(self) -> None:
        try:
            place = str(_OWN) if _OWN.exists() else "libbpf.so.1"
            self.lib = ctypes.CDLL(place, use_errno=True)
            holding = ctypes.PyDLL(place, use_errno=True)
        except OSError as error:
            raise CannotOnThisKernel(
                f"libbpf.so.1 cannot be loaded ({error})",
                "install it: apt-get install libbpf1 (Debian, Ubuntu), dnf install libbpf (RHEL)",
            ) from error
        for name, (result, arguments) in _PROTOTYPES.items():
            function = getattr(self.lib if name in _LETTING_GO else holding, name)
            function.restype, function.argtypes = result, arguments
            setattr(self.lib, name, function)
        self._log: deque[str] = deque(maxlen=_KEPT_LINES)
        self._vsnprintf = ctypes.CDLL(None).vsnprintf
        self._vsnprintf.argtypes = [c_void_p, c_size_t, c_char_p, c_void_p]
        self._printer = _PRINT(self._keep)  # ctypes does not keep it alive, so we do
        self.lib.libbpf_set_print(self._printer)

    def error(self, what: str, number: int | None = None) -> KtraceError:
        """A reached limit is not a `LibbpfError`: the next attach point would hit it, too."""
        number = ctypes.get_errno() if number is None else abs(number)
        limit = limits.reached(what, number) or limits.hidden(what, number)
        return limit or LibbpfError(what, number, [*self._log])

    def check(self, result: int, what: str) -> int:
        if result < 0:
            raise self.error(what, result)
        return result

    def pointer(self, result: int | None, what: str) -> int:
        if not result:
            raise self.error(what)
        return result

    def version(self) -> str:
        words: bytes = self.lib.libbpf_version_string()
        return words.decode()

    @cached_property
    def has_kprobes(self) -> bool:
        """perf_event_open(2) finds them here since e12f03d7031a (4.17)."""
        return os.path.exists("/sys/bus/event_source/devices/kprobe")

    @cached_property
    def has_tracefs(self) -> bool:
        return any(os.path.exists(f"{place}/events") for place in _TRACEFS)

    @cached_property
    def has_fentry(self) -> bool:
        """Whether functions can be traced. Tried on the kernel's own test function
        (net/bpf/test_run.c, since 5.5)."""
        function = self.lib.libbpf_find_vmlinux_btf_id(b"bpf_fentry_test1", _FENTRY)
        options = _LoadOptions(
            sz=ctypes.sizeof(_LoadOptions), expected_attach_type=_FENTRY, attach_btf_id=function
        )
        arguments = (_TRACING, None, b"GPL", _RETURN_0, len(_RETURN_0) // 8, options)
        program = self.lib.bpf_prog_load(*arguments)
        if program < 0:
            return False
        link: int = self.lib.bpf_raw_tracepoint_open(None, program)
        os.close(program)
        if link >= 0:
            os.close(link)
        return link >= 0

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Without a log in the block. libbpf would call Python for each of hundreds of lines, and
        wait for the other threads' turns each time."""
        self.lib.libbpf_set_print(_PRINT())
        try:
            yield
        finally:
            self.lib.libbpf_set_print(self._printer)

    def check_kind(self, section: str) -> None:
        """Raises for a kind of program that this kernel cannot attach: trying to load it would take
        a twentieth of a second."""
        kind = section.partition("/")[0]
        if kind == "tp" and not self.has_tracefs:
            raise self.error("tracefs is not mounted", errno.ENOTSUP)
        if kind in ("kprobe", "kretprobe") and not self.has_kprobes:
            raise self.error("no kprobes in this kernel", errno.ENOTSUP)
        if kind in ("fentry", "fexit") and not self.has_fentry:
            raise self.error("no tracing of functions in this kernel", errno.ENOTSUP)

    def lacking(self, sections: Mapping[str, str]) -> frozenset[str]:
        """Those of these programs, by name, whose tracepoint or function the kernel lacks. Looks
        for the names only: libbpf would parse all of the kernel's types."""
        names = Path("/sys/kernel/btf/vmlinux").read_bytes() if sections else b""
        found = []
        for program, section in sections.items():
            kind, _, target = section.partition("/")
            known = f"btf_trace_{target}" if kind == "tp_btf" else target
            if f"\0{known}\0".encode() not in names:
                found.append(program)
        return frozenset(found)

    def open(self, data: bytes, name: str) -> LoadedObject:
        return LoadedObject(self, data, name)

    def _keep(self, level: int, template: bytes, arguments: int) -> int:
        if level < 2:  # 2 is LIBBPF_DEBUG: hundreds of lines for each object
            text = ctypes.create_string_buffer(_LOG_BYTES)
            self._vsnprintf(text, len(text), template, arguments)
            self._log += text.value.decode(errors="backslashreplace").splitlines()
        return 0


class LoadedObject:
    """A BPF object from opening to closing. Closing detaches and unloads everything; so does the
    end of the process, however it ends, because nothing is pinned."""

    def __init__(self, library: Libbpf, data: bytes, name: str) -> None:
        self._library = library
        self._lib = library.lib
        self._links: list[int] = []
        self._armed: dict[str, int] = {}  # links by program
        self._object = library.pointer(
            self._lib.bpf_object__open_mem(data, len(data), None), f"opening the {name} object"
        )

    def set_rodata(self, values: dict[int, bytes]) -> None:
        """Writes settings at their offsets; only before `load`."""
        found = self._lib.bpf_object__find_map_by_name(self._object, b".rodata")
        size = c_size_t()
        start = self._lib.bpf_map__initial_value(self._library.pointer(found, ".rodata"), size)
        for offset, value in values.items():
            if offset + len(value) > size.value:
                raise KtraceError("a setting lies outside the object's .rodata")
            ctypes.memmove(start + offset, value, len(value))

    def reuse_map(self, shared: Map) -> None:
        found = self._lib.bpf_object__find_map_by_name(self._object, shared.name.encode())
        if found:
            result = self._lib.bpf_map__reuse_fd(found, shared.fd)
            self._library.check(result, f"sharing map {shared.name}")

    def leave_out_maps(self, but: Collection[str]) -> None:
        """Makes only these maps, and libbpf's own such as `.rodata`; only before `load`."""
        table = self._lib.bpf_object__next_map(self._object, None)
        while table:
            name = self._lib.bpf_map__name(table).decode()
            if "." not in name and name not in but:
                self._lib.bpf_map__set_autocreate(table, False)
            table = self._lib.bpf_object__next_map(self._object, table)

    def map(self, name: str) -> Map:
        found = self._lib.bpf_object__find_map_by_name(self._object, name.encode())
        found = self._library.pointer(found, f"map {name}")
        return Map(
            self._lib.bpf_map__fd(found),
            name,
            self._lib.bpf_map__key_size(found),
            self._lib.bpf_map__value_size(found),
            self._lib.bpf_map__max_entries(found),
        )

    def load(self, programs: set[str] | None = None) -> None:
        """Loads the named programs, or all."""
        if programs is not None:
            found = dict(self._programs())
            if missing := programs - found.keys():
                raise KtraceError(f"the object lacks {', '.join(sorted(missing))}: make install")
            for name, program in found.items():
                self._lib.bpf_program__set_autoload(program, name in programs)
                if name in programs:
                    self._library.check_kind(self._section(program))
        result = self._lib.bpf_object__load(self._object)
        self._library.check(result, "loading")

    def attach(self, besides: Collection[str] = ()) -> None:
        """Attaches every loaded program except the iterators, which `walk` runs, and `besides`."""
        for name, program in self._programs():
            wanted = name not in besides and self._lib.bpf_program__autoload(program)
            if wanted and not self._is_iterator(program):
                link = self._lib.bpf_program__attach(program)
                self._links.append(self._library.pointer(link, f"attaching {name}"))

    def arm(self, every: Collection[str], wanted: Collection[str]) -> bool:
        """Of `every` one of these loaded programs, attaches those that are wanted, and detaches the
        others. False if the kernel refuses."""
        for name in self._armed.keys() & set(every) - set(wanted):
            self._lib.bpf_link__destroy(self._armed.pop(name))
        missing = set(every) & set(wanted) - self._armed.keys()
        found = {name: program for name, program in self._programs() if name in missing}
        links = {name: self._lib.bpf_program__attach(found[name]) for name in found}
        self._armed |= {name: link for name, link in links.items() if link}
        return all(links.values())

    def walk(self) -> bool:
        """Runs each loaded iterator once, to its end. Returns whether there was one."""
        found = [p for p in self._programs() if self._is_iterator(p[1])]
        loaded = [p for p in found if self._lib.bpf_program__autoload(p[1])]
        for name, program in loaded:
            link = self._lib.bpf_program__attach_iter(program, None)
            link = self._library.pointer(link, f"attaching {name}")
            try:
                fd = self._lib.bpf_iter_create(self._lib.bpf_link__fd(link))
                with open(self._library.check(fd, f"running {name}"), "rb", buffering=0) as pass_:
                    while pass_.read(1):
                        pass
            finally:
                self._lib.bpf_link__destroy(link)
        return bool(loaded)

    def _is_iterator(self, program: int) -> bool:
        return self._section(program).startswith("iter/")

    def _section(self, program: int) -> str:
        name: bytes = self._lib.bpf_program__section_name(program)
        return name.decode()

    def recursion_misses(self) -> dict[str, int]:
        """By program name: runs that the kernel refused because the same program was already
        running on that CPU."""
        return {name: recursion_misses(fd) for name, fd in self._descriptors()}

    def run_times(self) -> dict[str, tuple[int, int]]:
        """By program name: nanoseconds and runs, if the kernel counts them."""
        return {name: run_time(fd) for name, fd in self._descriptors()}

    def detach(self) -> None:
        self.arm([*self._armed], ())
        while self._links:
            self._lib.bpf_link__destroy(self._links.pop())

    def close(self) -> None:
        self.detach()
        if self._object:
            self._lib.bpf_object__close(self._object)
            self._object = 0

    def _descriptors(self) -> Iterator[tuple[str, int]]:
        """Of the loaded programs."""
        for name, program in self._programs():
            if self._lib.bpf_program__autoload(program):
                yield name, self._lib.bpf_program__fd(program)

    def _programs(self) -> Iterator[tuple[str, int]]:
        program = self._lib.bpf_object__next_program(self._object, None)
        while program:
            yield self._lib.bpf_program__name(program).decode(), program
            program = self._lib.bpf_object__next_program(self._object, program)


class CallbackRing:
    """libbpf's own reader of a ring buffer, for machines on which mapped memory needs barriers that
    Python does not have."""

    def __init__(self, library: Libbpf, ring: Map, deliver: Callable[[bytes], None]) -> None:
        def on_sample(_: int, data: int, size: int) -> int:
            deliver(ctypes.string_at(data, size))
            return 0

        self._library = library
        self._callback = _SAMPLE(on_sample)
        self._ring = library.pointer(
            library.lib.ring_buffer__new(ring.fd, self._callback, None, None), "opening the ring"
        )

    def consume(self) -> None:
        self._library.check(self._library.lib.ring_buffer__consume(self._ring), "reading the ring")

    def close(self) -> None:
        self._library.lib.ring_buffer__free(self._ring)


class _LoadOptions(ctypes.Structure):
    """The beginning of `struct bpf_prog_load_opts`; libbpf takes the rest as zero."""

    _fields_ = (
        ("sz", c_size_t),
        ("attempts", c_int),
        ("expected_attach_type", c_uint32),
        ("prog_btf_fd", c_uint32),
        ("prog_flags", c_uint32),
        ("prog_ifindex", c_uint32),
        ("kern_version", c_uint32),
        ("attach_btf_id", c_uint32),
    )


_TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")

# enum bpf_prog_type and enum bpf_attach_type, include/uapi/linux/bpf.h
_TRACING, _FENTRY = 26, 24
_RETURN_0 = bytes.fromhex("b700000000000000 9500000000000000")

# Other threads run during these. The other functions take microseconds, and to give up the
# interpreter for them would mean to wait for the other threads' turns after each call.
_LETTING_GO = {
    "bpf_iter_create",
    "bpf_link__destroy",
    "bpf_object__close",
    "bpf_object__load",
    "bpf_object__open_mem",
    "bpf_prog_load",
    "bpf_program__attach",
    "bpf_program__attach_iter",
    "libbpf_find_vmlinux_btf_id",
    "ring_buffer__consume",
}

_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
_SAMPLE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "bpf_iter_create": (c_int, [c_int]),
    "bpf_link__destroy": (c_int, [c_void_p]),
    "bpf_link__fd": (c_int, [c_void_p]),
    "bpf_map__fd": (c_int, [c_void_p]),
    "bpf_map__initial_value": (c_void_p, [c_void_p, POINTER(c_size_t)]),
    "bpf_map__key_size": (c_uint32, [c_void_p]),
    "bpf_map__max_entries": (c_uint32, [c_void_p]),
    "bpf_map__name": (c_char_p, [c_void_p]),
    "bpf_map__reuse_fd": (c_int, [c_void_p, c_int]),
    "bpf_map__set_autocreate": (c_int, [c_void_p, ctypes.c_bool]),
    "bpf_map__value_size": (c_uint32, [c_void_p]),
    "bpf_prog_load": (
        c_int,
        [c_int, c_char_p, c_char_p, c_char_p, c_size_t, POINTER(_LoadOptions)],
    ),
    "bpf_program__section_name": (c_char_p, [c_void_p]),
    "bpf_raw_tracepoint_open": (c_int, [c_char_p, c_int]),
    "libbpf_find_vmlinux_btf_id": (c_int, [c_char_p, c_int]),
    "bpf_object__close": (None, [c_void_p]),
    "bpf_object__find_map_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_object__load": (c_int, [c_void_p]),
    "bpf_object__next_map": (c_void_p, [c_void_p, c_void_p]),
    "bpf_object__next_program": (c_void_p, [c_void_p, c_void_p]),
    "bpf_object__open_mem": (c_void_p, [c_char_p, c_size_t, c_void_p]),
    "bpf_program__attach": (c_void_p, [c_void_p]),
    "bpf_program__attach_iter": (c_void_p, [c_void_p, c_void_p]),
    "bpf_program__autoload": (ctypes.c_bool, [c_void_p]),
    "bpf_program__fd": (c_int, [c_void_p]),
    "bpf_program__name": (c_char_p, [c_void_p]),
    "bpf_program__set_autoload": (c_int, [c_void_p, ctypes.c_bool]),
    "libbpf_set_print": (c_void_p, [_PRINT]),
    "libbpf_version_string": (c_char_p, []),
    "ring_buffer__consume": (c_int, [c_void_p]),
    "ring_buffer__free": (None, [c_void_p]),
    "ring_buffer__new": (c_void_p, [c_int, _SAMPLE, c_void_p, c_void_p]),
}
