# SPDX-License-Identifier: Apache-2.0
"""Where a program crashed: the kernel log's line about a fault, and the function that it points to.

The kernel names the mapped file and the offset, for processor faults only (not for SIGBUS), and
unless debug.exception-trace is 0. The function comes from that file's own symbols, read through the
container's root, which is held open from before the crash. Both the name and the file are the
container's choice: links are followed within its root only, and everything read has a bound.
"""

from __future__ import annotations

import ctypes
import os
import re
import stat
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from io import BytesIO
from itertools import islice
from typing import Any

from tracer.decode.faults import Fault, parse
from tracer.kernel.cgroupfs import Cgroup, container_cgroups
from tracer.kernel.kmsg import KernelLog
from tracer.kernel.procfs import stat_of
from tracer.model.bounded import keep
from tracer.model.cgroup import CgroupIdentity
from tracer.model.cgroup import parse as parse_cgroup
from tracer.model.event import Process

MAX_ROOTS = 256
MAX_FAULTS = 1024
MAX_FILE = 256 << 20
MAX_TABLE = 32 << 20
MAX_KIN, MAX_MAPS = 8, 4 << 20
MAX_ENTRIES, MAX_IN_FOLDER = 10_000, 5_000
MAX_SEGMENTS, MAX_SECTIONS = 1024, 65_535
PAGE = 4096
# The kernel says so once for each cgroup. Only the kernel can write such lines.
_REFUSED = re.compile(r"^cgroup: fork rejected by pids controller in (?P<path>[^\n]{1,4096})")


class FaultFinder:
    """Listens to the kernel log from now on, and holds the roots of running containers open.
    `close` takes each root that is let go."""

    def __init__(self, close: Callable[[int], None] = os.close) -> None:
        self._close = close
        self._roots: dict[str, int] = {}
        self._found: dict[int, Fault] = {}
        self._refused: dict[CgroupIdentity, int] = {}
        try:
            self._log: KernelLog | None = KernelLog()
        except OSError:
            self._log = None

    def hold_roots(self, containers: set[str | None]) -> None:
        """Holds the roots of the running containers with these ids."""
        if containers - {None} <= self._roots.keys():
            return
        for cgroup in _container_cgroups():
            container = cgroup.identity.container_id
            if container not in containers or container is None or container in self._roots:
                continue
            if self._has_room(containers):
                self.hold_root(container, cgroup)

    def hold_root(self, container: str, cgroup: Cgroup) -> bool:
        """Holds the root of a running container; returns whether it is held. While the runtime
        prepares the container, it has none of its own. The oldest root makes room."""
        for pid in cgroup.own_processes()[:1] if container not in self._roots else []:
            root = _own_root(pid)
            if root is not None:
                self._has_room(set())
                self._roots[container] = root
        return container in self._roots

    def let_go(self, container: str) -> None:
        """Of a container that has been judged: as long as its root is held, its file system stays
        mounted."""
        root = self._roots.pop(container, None)
        if root is not None:
            self._close(root)

    @property
    def held(self) -> Collection[str]:
        """The ids of containers whose roots are held."""
        return self._roots.keys()

    def _has_room(self, containers: set[str | None]) -> bool:
        """Makes room by dropping the oldest root that is not wanted."""
        if len(self._roots) >= MAX_ROOTS:
            over = next((held for held in self._roots if held not in containers), None)
            if over is None:
                return False
            self._close(self._roots.pop(over))
        return True

    def place_of(self, process: Process | None) -> str | None:
        """`in libc.so.6, strlen()`, as far as known."""
        if process is None:
            return None
        self.listen()
        fault = self._found.get(process.tid)
        if fault is None or fault.module is None:
            return None
        function = self._function(fault, process)
        return f"in {fault.module}" + (f", function {function}()" if function else "")

    def listen(self) -> bool:
        """Reads new lines of the kernel log; returns whether the kernel refused a process to a
        cgroup."""
        refused = False
        for line in self._log.read() if self._log else []:
            fault = parse(line.text)
            if fault is not None:
                keep(self._found, fault.tid, fault, MAX_FAULTS)
            path = _REFUSED.search(line.text)
            if path is not None:
                keep(self._refused, parse_cgroup(path["path"].strip()), line.boot_ns, MAX_FAULTS)
                refused = True
        return refused

    def refused(self, identity: CgroupIdentity) -> int | None:
        """When the kernel first refused a process or thread to the container or its pod."""
        for known, moment in self._refused.items():
            own = known.container_id in (identity.container_id, None)
            if known.pod_uid == identity.pod_uid and own and (known.pod_uid or known.container_id):
                return moment
        return None

    def close(self) -> None:
        if self._log:
            self._log.close()
        while self._roots:
            self._close(self._roots.popitem()[1])

    def _function(self, fault: Fault, process: Process) -> str | None:
        container = process.container
        if container is not None:
            self.hold_roots({container.id})  # a worker's container may still run
        root = self._roots.get(container.id) if container else None
        if root is None or fault.module is None or fault.offset is None:
            return None
        for path in dict.fromkeys(_paths(root, fault.module, process)):
            try:
                return function_at(_read(root, path), fault.offset, fault.in_file)
            except (OSError, ValueError):
                continue
        return None


def _own_root(pid: int) -> int | None:
    """The process's own root; None while the runtime prepares the container, because its first
    process then has the host's root."""
    with suppress(OSError):
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)
        with suppress(OSError, ValueError, IndexError):
            parent = stat_of(pid)
            if parent and os.path.samestat(os.fstat(root), os.stat(f"/proc/{parent.parent}/root")):
                os.close(root)
                return None
        return root
    return None


def _container_cgroups() -> list[Cgroup]:
    try:
        return container_cgroups()
    except OSError:  # no descriptor left: functions stay unnamed
        return []


def _paths(root: int, module: str, process: Process) -> Iterator[str]:
    """Where the file of this name may be: where its living relatives map it (such as a worker's
    master), in the usual directories, or among Python's packages."""
    yield from _mapped(root, module, process)
    yield from _candidates(module, process.exe)
    if "/" not in module and ".so" in module:
        yield from _packages(root, module, process)


def _mapped(root: int, module: str, process: Process) -> Iterator[str]:
    own = os.fstat(root)
    for pid, _ in process.ancestry[:MAX_KIN]:
        try:
            there = os.stat(f"/proc/{pid}/root")
            if (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino):
                return  # its supervisor and above
            with open(f"/proc/{pid}/maps", "rb") as file:
                lines = file.read(MAX_MAPS).decode(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            path = line.partition("/")[2]
            if path.rpartition("/")[2] == module:
                yield f"/{path}"
                break


def _packages(root: int, module: str, process: Process) -> Iterator[str]:
    """Below the interpreter's own directory and below virtual environments."""
    programs = [process.exe or "", *(process.argv or [])[:2]]
    prefixes = [path.rpartition("/bin/")[0] for path in programs if path.startswith("/")]
    folders = [
        f"{prefix}/{lib}"
        for prefix in (*prefixes, "/usr", "/usr/local")
        for lib in ("lib", "lib64")
    ]
    left = MAX_ENTRIES
    for folder in dict.fromkeys(folders):
        waiting = [
            f"{folder}/{name}/{sub}"
            for name in _names(root, folder)
            if name.startswith("python3")
            for sub in ("site-packages", "dist-packages", "lib-dynload")
        ]
        while waiting and left > 0:
            here = waiting.pop(0)
            names = _names(root, here)
            left -= len(names) + 1
            if module in names:
                yield f"{here}/{module}"
                return
            waiting += [
                f"{here}/{name}" for name in names if "." not in name or name[-5:] == ".libs"
            ]


def _names(root: int, path: str) -> list[str]:
    """The names in a directory, bounded because the container chooses them; empty if it is no
    directory."""
    try:
        folder = _open(root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in islice(entries, MAX_IN_FOLDER)]
    except OSError:
        return []
    finally:
        os.close(folder)


def _candidates(module: str, exe: str | None) -> Iterator[str]:
    """Where a file of this name may lie: the executable itself, else the library directories."""
    if exe and exe.rpartition("/")[2] == module:
        yield exe
        return
    if "/" in module:
        return
    machine = f"{os.uname().machine}-linux-gnu"
    for folder in ("lib", f"lib/{machine}", "lib64"):
        yield f"/{folder}/{module}"
        yield f"/usr/{folder}/{module}"
    yield f"/usr/local/lib/{module}"


class _OpenHow(ctypes.Structure):
    """struct open_how, openat2(2)"""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10


def _open(root: int, path: str, flags: int) -> int:
    """Opens the path below `root`; links cannot lead out of it."""
    libc = ctypes.CDLL(None, use_errno=True)
    how = _OpenHow(flags, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    name = os.fsencode(path)
    fd: int = libc.syscall(_OPENAT2, root, name, ctypes.byref(how), ctypes.sizeof(how))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "openat2", path)
    return fd


def _read(root: int, path: str) -> bytes:
    """Reads a regular file."""
    fd = _open(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE:
            raise ValueError(path)
        return file.read(MAX_FILE)


def function_at(data: bytes, offset: int, in_file: bool) -> str | None:
    """The function at an offset, by the file's own symbols. Raises ValueError if it is no ELF file
    for this machine."""
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError
    from elftools.elf.elffile import ELFFile

    damage = (ELFError, ConstructError, struct.error, *_DAMAGE)
    try:
        elf = ELFFile(BytesIO(data))
        if not _is_plausible(elf):
            return None
        address = _address(elf, offset, in_file)
        tables = (elf.get_section_by_name(name) for name in (".symtab", ".dynsym"))
        found = (_symbol(table, address) for table in tables if address is not None)
        return next((name for name in found if name), None)
    except damage as error:
        raise ValueError("not a usable ELF file") from error


# What a reader raises for a file that is no valid program.
_DAMAGE = (ArithmeticError, AttributeError, LookupError, TypeError)


def _is_plausible(elf: Any) -> bool:
    """Whether it is a 64-bit little-endian file whose tables can be walked. The file itself claims
    its counts and strides."""
    header = elf.header
    steps = header["e_phentsize"], header["e_shentsize"]
    return (
        (elf.elfclass, elf.little_endian) == (64, True)
        and steps == (56, 64)
        and elf.num_segments() <= MAX_SEGMENTS
        and elf.num_sections() <= MAX_SECTIONS
    )


def _address(elf: Any, offset: int, in_file: bool) -> int | None:
    """The link-time address of a file offset; without one, of an offset beyond the executable
    segment's mapping."""
    for segment in elf.iter_segments("PT_LOAD"):
        begin, size = segment["p_offset"], segment["p_filesz"]
        if not in_file:
            if segment["p_flags"] & 1:
                return int(segment["p_vaddr"] - begin % PAGE + offset)
        elif begin <= offset < begin + size:
            return int(segment["p_vaddr"] + offset - begin)
    return None


_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym
_FUNCTION = 2


def _symbol(table: Any, address: int) -> str | None:
    if table is None or not 0 < table["sh_size"] <= MAX_TABLE:
        return None
    data = table.data()
    whole = len(data) // _SYMBOL.size * _SYMBOL.size
    for name, info, _, _, value, size in _SYMBOL.iter_unpack(data[:whole]):
        if info & 0xF == _FUNCTION and value <= address < value + size:
            found = table.stringtable.get_string(name)
            return str(found)[:200] or None
    return None
