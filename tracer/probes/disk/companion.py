# SPDX-License-Identifier: Apache-2.0
"""The user-space part of the `disk` probe: asks the node's file systems every second how they are,
looks for large open files while one is full, and for who holds a mount that is in use.

Nothing here may hang. Only file systems of this machine's own devices and memory are asked, never
one that a server or another process answers for (NFS, FUSE), nor one that is mounted below such.
"""

from __future__ import annotations

import ctypes
import errno
import os
import queue
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

from tracer.kernel.bpf_object import shipped
from tracer.kernel.devices import device_number, numbered
from tracer.kernel.netstat import processes
from tracer.model.bounded import keep
from tracer.model.path import joined
from tracer.model.schema import Schema
from tracer.probes import LAST_CALL, Table
from tracer.probes.described import Processes, boot_ns
from tracer.probes.disk import WRITES

INTERVAL = 1.0
END_SECONDS = 2.0
# How long the end of system calls is watched after no file system is bad any more.
AFTER_SECONDS = 10.0
SEARCH_SECONDS = 10.0
# A file system with less than this much is full: the rest of a large one may be too little for a
# call, and the kernel keeps some back.
FULL_BYTES, FULL_INODES, FULL_SHARE = 64 << 20, 64, 0.01
# Who writes is counted while less than this is free. Kubelets evict below 15 percent by default.
FILLING_SHARE = 0.2
WRITER_SECONDS = 10.0
WINDOW_SECONDS = 300.0
LEAST_WRITTEN = 0.01  # of the file system, of a writer that is told
MAX_WRITERS = 8  # of one file system
# How often who holds one mount is looked for.
HOLDERS_SECONDS = 10.0
MAX_SEARCHES = 16
MAX_HOLDERS = 8
MAX_LINKS = 40  # of one path, as the kernel's own MAXSYMLINKS
MAX_MOUNTS = 4096
MAX_DESCRIPTORS = 50_000
MAX_HEARD = 256
MAX_FOUND = 16
MAX_TOLD = 4096
MAX_ROOTS = 64
LEAST_MADE = 1000  # files of a writer that is told
SMALLEST_SHARE = 0.01  # of the file system, of a file that is told

# Others answer for these, and may not.
_REMOTE: tuple[str, ...] = ("9p", "afs", "autofs", "ceph", "cifs", "fuse", "gfs2", "gluster")
_REMOTE += ("lustre", "nfs", "ocfs2", "smb", "virtiofs")
_IN_MEMORY = ("tmpfs", "zfs")
_BAD = "on_sys_exit"


class Mount(NamedTuple):
    """A line of /proc/PID/mountinfo. `peers` are the numbers of its shared groups: an unmount
    reaches their mounts in other namespaces, and fails if one of those is in use."""

    id: int
    device: int
    point: str
    type: str
    options: str
    parent: int = 0
    peers: frozenset[str] = frozenset()


@dataclass(slots=True)
class State:
    """How a file system was when it was last asked."""

    mount: Mount
    size: int = 0
    free: int = 0
    inodes: int = 0
    free_inodes: int = 0
    flags: int = 0
    writable: bool = False  # it was once
    filling: bool = False


class Watched:
    """The companion. `failing` is `kt_disk_failing` and `writers` `kt_disk_writers`, whose counts
    only grow; None if the kernel side is never attached."""

    interval: float | None = None
    hears = "disk_failure"

    def __init__(
        self, schemas: Mapping[str, Schema], failing: Table | None, writers: Table | None
    ) -> None:
        self._failing = failing
        self._more = schemas["disk_more"]
        self._key = shipped("disk").layout("kt_failing")
        self._value = shipped("disk").layout("kt_failed")
        self._more_told: dict[bytes, int] = {}
        self._next_more = 0.0
        self._found: queue.SimpleQueue[list[bytes]] = queue.SimpleQueue()
        self._heard: list[Any] = []
        self._wake: Callable[[], None] = lambda: None
        self._arm: Callable[[Collection[str]], bool] = lambda names: False
        self._armed: tuple[str, ...] = ()
        self._error_until = 0.0
        self._asked: dict[tuple[int, bytes], float] = {}
        self._last = False, False
        self._ending = threading.Event()
        self._roots = Roots()
        self._look = Look(schemas, writers)
        self._thread = threading.Thread(target=self._work, name="ktrace-disks", daemon=True)
        self._thread.start()

    def arm_with(self, arm: Callable[[Collection[str]], bool]) -> None:
        self._arm = arm

    def wake_with(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def hear(self, records: Iterator[Any]) -> None:
        for record in records:
            if len(self._heard) < MAX_HEARD:
                self._heard.append(record)

    def records(self, fresh: frozenset[str]) -> list[bytes]:
        if fresh == LAST_CALL:
            self.close()
            self._thread.join(END_SECONDS)
        elif (wanted := self._wanted(fresh)) != self._armed and self._arm(wanted):
            self._armed = wanted  # if the kernel refuses, it is asked again
        found = [self._found.get() for _ in range(self._found.qsize())]
        heard, self._heard = self._heard, []
        told = [record for records in found for record in records] + self._answers(heard)
        return told + self._untold(last=fresh == LAST_CALL)

    def close(self) -> None:
        self._ending.set()
        self._look.stir.set()

    def _wanted(self, fresh: frozenset[str]) -> tuple[str, ...]:
        """The programs that should run now. After an error of a disk, as after a full one, calls
        are watched for a while."""
        if "disk_error" in fresh:
            self._error_until = time.monotonic() + AFTER_SECONDS
        bad = self._look.bad or time.monotonic() < self._error_until
        return (*([_BAD] if bad else []), *(WRITES if self._look.filling else ()))

    def _untold(self, last: bool) -> list[bytes]:
        """The failures that the kernel side only counted, a second after they began."""
        now = time.monotonic()
        if self._failing is None or not (last or (self._armed and now >= self._next_more)):
            return []
        self._next_more = now + INTERVAL
        out = []
        for key, value in self._failing.items():
            who = self._key.make(self._key.struct.unpack(key))
            count = self._value.make(self._value.struct.unpack(value)).count
            before = self._more_told.get(key, 0)
            new = count - before if count >= before else count
            if new:
                keep(self._more_told, key, count, MAX_TOLD)
                members = {"pid": who.pid, "error": who.error, "device": who.device}
                out.append(self._more.pack(time=boot_ns(), count=new, **members))
        return out

    def _answers(self, heard: list[Any]) -> list[bytes]:
        """Where the paths of failed calls lead, and how those file systems are now. Who holds a
        mount is looked for in the other thread."""
        places: dict[tuple[int, bytes], bytes] = {}
        devices: dict[int, None] = {}
        for record in heard:
            key = (record.process_pid, record.name)
            now = time.monotonic()
            if key in places or now < self._asked.get(key, 0.0):
                continue
            found = self._roots.find(record)
            mount = found.mount if found else None
            if found is not None and mount is not None:
                answer = Answer(key, mount, self._marks_of(record, found))
                places[key] = self._look.place(answer, 0)
                if record.error == errno.EBUSY and found.path == mount.point:
                    keep(self._asked, key, now + HOLDERS_SECONDS, MAX_TOLD)
                    self._look.search(answer, found.mounts)
            devices[mount.device if mount else record.device] = None
        return [*places.values(), *self._look.now(devices)]

    def _marks_of(self, record: Any, found: Found) -> int:
        marks = 0
        if record.error == errno.EPERM and is_ours(found.mount):
            for prefix, path in (("", found.path), ("BELOW_", os.path.dirname(found.path))):
                attributes = attributes_of(found.root + path)
                for name, bit in _ATTRIBUTES.items():
                    marks |= self._look.marks[f"KT_MARK_{prefix}{name}"] if attributes & bit else 0
        if found.path == found.mount.point:
            marks |= self._look.marks["KT_MARK_MOUNT_POINT"]
        return marks

    def _work(self) -> None:
        next_round = 0.0
        while not self._ending.is_set():
            found = self._look.searched()
            if time.monotonic() >= next_round:
                found += self._look.round()
                next_round = time.monotonic() + INTERVAL
            if found:
                self._found.put(found)
            if found or (self._look.bad, self._look.filling) != self._last:
                self._last = self._look.bad, self._look.filling
                self._wake()
            self._look.stir.wait(max(0.0, next_round - time.monotonic()))
            self._look.stir.clear()
        self._look.close()


class Answer(NamedTuple):
    """Where the path of a call led. `key` is the process and the path as it gave it."""

    key: tuple[int, bytes]
    mount: Mount
    marks: int


class Look:
    """One look a second. `bad` says whether a file system is full or has become read-only, or was
    a moment ago; `filling` whether one has little room left. `stir` ends the wait for the next."""

    def __init__(self, schemas: Mapping[str, Schema], writers: Table | None) -> None:
        self.bad = self.filling = False
        self.stir = threading.Event()
        self.marks = shipped("disk").numbers("disk_marks")
        self._hold = shipped("disk").numbers("disk_hold")
        self._place, self._holder = schemas["disk_place"], schemas["disk_holder"]
        self._searches: queue.Queue[tuple[Answer, list[Mount]]] = queue.Queue(MAX_SEARCHES)
        self._writers = Writers(schemas["disk_writer"], writers) if writers else None
        self._state, self._overlay = schemas["disk_state"], schemas["disk_overlay"]
        self._file = schemas["disk_file"]
        self._processes = Processes(schemas)
        self._flags = shipped("disk").numbers("disk_flags")
        self._changes = MountChanges()
        self._states: dict[int, State] = {}
        self._below: dict[int, int] = {}
        # bytes, by process, device, inode and whether it is deleted
        self._told: dict[tuple[int, int, int, bool], int] = {}
        self._good_since = 0.0
        self._next_search = 0.0

    def round(self) -> list[bytes]:
        out: list[bytes] = []
        if self._changes.seen():
            out += self._read_mounts()
        for device, state in self._states.items():
            before = state.flags
            if not self._ask(state):
                continue
            changed = bool(before) != bool(state.flags)
            if state.flags or changed:
                out.append(self._told_state(device, state, changed))
        now = time.monotonic()
        if any(state.flags for state in self._states.values()):
            self.bad, self._good_since = True, now
        elif now - self._good_since >= AFTER_SECONDS:
            self.bad = False
        filling = {device: s.size for device, s in self._states.items() if s.filling}
        self.filling = bool(filling)
        if self._writers:
            out += self._writers.told(filling, now)
        lacks = self._flags["KT_DISK_NO_BLOCKS"] | self._flags["KT_DISK_NO_INODES"]
        full = {device for device, state in self._states.items() if state.flags & lacks}
        if full and now >= self._next_search:
            out += self._search(full)
            self._next_search = time.monotonic() + SEARCH_SECONDS
        elif not full:
            self._next_search = 0.0
        return out

    def close(self) -> None:
        self._changes.close()

    def _read_mounts(self) -> list[bytes]:
        mounts = list(local_mounts(read_mounts("self")))
        known = self._states
        self._states = {}
        for mount in mounts:
            if mount.device not in self._states:
                self._states[mount.device] = known.get(mount.device) or State(mount)
                self._states[mount.device].mount = mount
        out = []
        for mount in read_mounts("self"):
            below = below_of(mount)
            if below is not None and self._below.get(mount.device) != below:
                keep(self._below, mount.device, below, MAX_MOUNTS)
                out.append(self._overlay.pack(time=boot_ns(), device=mount.device, below=below))
        return out

    def now(self, devices: Iterable[int]) -> list[bytes]:
        """How these are at this moment; called in another thread."""
        out = []
        for device in devices:
            device = self._below.get(device, device)
            known = self._states.get(device)
            if known is not None and self._ask(state := replace(known)):
                out.append(self._told_state(device, state, changed=False))
        return out

    def _ask(self, state: State) -> bool:
        """False if the mount point is another's now, or gone."""
        try:
            if device_number(os.stat(state.mount.point).st_dev) != state.mount.device:
                return False
            told = os.statvfs(state.mount.point)
        except OSError:
            return False
        unit = told.f_frsize or told.f_bsize
        state.size, state.free = told.f_blocks * unit, told.f_bavail * unit
        state.inodes, state.free_inodes = told.f_files, told.f_favail
        read_only = bool(told.f_flag & os.ST_RDONLY)
        state.writable = state.writable or not read_only
        flags = 0
        if is_short(state.free, state.size, FULL_BYTES):
            flags |= self._flags["KT_DISK_NO_BLOCKS"]
        if is_short(state.free_inodes, state.inodes, FULL_INODES):
            flags |= self._flags["KT_DISK_NO_INODES"]
        state.filling = not read_only and (
            state.free < FILLING_SHARE * state.size
            or state.free_inodes < FILLING_SHARE * state.inodes
        )
        if read_only:  # full or not, nobody can write
            flags = self._flags["KT_DISK_READ_ONLY"] if state.writable else 0
        state.flags = flags
        return True

    def _told_state(self, device: int, state: State, changed: bool) -> bytes:
        return self._state.pack(
            time=boot_ns(),
            device=device,
            size=state.size,
            free=state.free,
            inodes=state.inodes,
            free_inodes=state.free_inodes,
            flags=state.flags,
            changed=changed,
            type=state.mount.type.encode(),
            mount=os.fsencode(state.mount.point)[:255],
        )

    def place(self, answer: Answer, further: int) -> bytes:
        (pid, name), mount = answer.key, answer.mount
        return self._place.pack(
            time=boot_ns(),
            pid=pid,
            name=name,
            device=mount.device,
            marks=answer.marks | further,
            type=mount.type.encode(),
        )

    def search(self, answer: Answer, mounts: list[Mount]) -> None:
        """Asks who holds a mount, seen among `mounts`; called in another thread."""
        with suppress(queue.Full):
            self._searches.put_nowait((answer, mounts))
            self.stir.set()

    def searched(self) -> list[bytes]:
        out: list[bytes] = []
        while not self._searches.empty():
            answer, mounts = self._searches.get()
            for held in islice(holders(answer.mount, mounts), MAX_HOLDERS):
                described = self._processes.describe(held.pid) if held.pid else None
                out += described.records if described else []
                out.append(
                    self._holder.pack(
                        time=boot_ns(),
                        process_process=described.process if described else 0,
                        process_pid=held.pid,
                        process_tid=held.pid,
                        pid=answer.key[0],
                        name=answer.key[1],
                        how=self._hold[f"KT_HOLD_{held.how}"],
                        path=os.fsencode(held.path)[:255],
                    )
                )
            out.append(self.place(answer, self.marks["KT_MARK_SEARCHED"]))
        return out

    def _search(self, full: set[int]) -> list[bytes]:
        found = sorted(open_files(full, self._below), key=lambda file: file.bytes, reverse=True)
        out: list[bytes] = []
        count: dict[int, int] = {}
        for file in found:
            key = (file.pid, file.device, file.inode, file.deleted)
            few = count.get(file.device, 0) < MAX_FOUND
            large = file.bytes >= SMALLEST_SHARE * self._states[file.device].size
            if not (few and large) or file.bytes < 2 * self._told.get(key, 0):
                continue
            described = self._processes.describe(file.pid)
            if described is None:
                continue
            count[file.device] = count.get(file.device, 0) + 1
            keep(self._told, key, file.bytes, MAX_TOLD)
            record = self._file.pack(
                time=boot_ns(),
                process_process=described.process,
                process_pid=file.pid,
                process_tid=file.pid,
                bytes=file.bytes,
                device=file.device,
                descriptor=file.descriptor,
                deleted=file.deleted,
                writes=file.writes,
                path=os.fsencode(file.path)[:255],
            )
            out += [*described.records, record]
        return out


class Writers:
    """Who has written how much in the last minutes, from counts that only grow."""

    def __init__(self, schema: Schema, table: Table) -> None:
        self._schema, self._table = schema, table
        self._key = shipped("disk").layout("kt_writer")
        self._value = shipped("disk").layout("kt_written")
        # time, bytes and inodes, by the table's key: the first is what the window begins with
        self._counts: dict[bytes, deque[tuple[float, int, int]]] = {}
        self._told: dict[bytes, tuple[int, int]] = {}
        self._next = 0.0

    def told(self, filling: Mapping[int, int], now: float) -> list[bytes]:
        """Of file systems that have little room left, with their sizes."""
        if not filling:
            self._counts.clear()
            self._told.clear()
            return []
        if now < self._next:
            return []
        self._next = now + WRITER_SECONDS
        found: dict[int, list[tuple[int, int, int, bytes, Any]]] = {}
        for key, value in self._table.items():
            who = self._key.make(self._key.struct.unpack(key))
            if who.device not in filling:
                continue
            count = self._value.make(self._value.struct.unpack(value))
            if key not in self._counts:
                keep(self._counts, key, deque([(now - WRITER_SECONDS, 0, 0)]), MAX_TOLD)
            counts = self._counts[key]
            counts.append((now, count.bytes, count.inodes))
            while len(counts) > 2 and counts[1][0] <= now - WINDOW_SECONDS:
                counts.popleft()
            began, bytes_, inodes = counts[0]
            written, made = max(0, count.bytes - bytes_), max(0, count.inodes - inodes)
            if written >= LEAST_WRITTEN * filling[who.device] or made >= LEAST_MADE:
                row = (written, made, max(1, round(now - began)), key, who)
                found.setdefault(who.device, []).append(row)
        return [one for rows in found.values() for one in self._most(rows)]

    def _most(self, rows: list[tuple[int, int, int, bytes, Any]]) -> Iterator[bytes]:
        rows.sort(key=lambda row: row[:2], reverse=True)
        for written, made, seconds, key, who in rows[:MAX_WRITERS]:
            if self._told.get(key) != (written, made):
                keep(self._told, key, (written, made), MAX_TOLD)
                yield self._schema.pack(
                    time=boot_ns(),
                    cgroup=who.cgroup,
                    device=who.device,
                    bytes=written,
                    inodes=made,
                    seconds=seconds,
                )


class MountChanges:
    """Whether mounts have changed since the last call: mountinfo is then readable, as proc(5)
    says."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._poll.register(self._fd, select.POLLPRI)
        self._first = True

    def seen(self) -> bool:
        changed = bool(self._poll.poll(0)) or self._first
        self._first = False
        return changed

    def close(self) -> None:
        os.close(self._fd)


def is_short(free: int, of: int, least: int) -> bool:
    return bool(of) and free <= min(least, int(of * FULL_SHARE))


def read_mounts(pid: int | str) -> list[Mount]:
    """Raises OSError."""
    with open(f"/proc/{pid}/mountinfo", errors="surrogateescape") as file:
        lines = file.readlines()
    return [mount for line in lines[-MAX_MOUNTS:] if (mount := parse_mount(line)) is not None]


def parse_mount(line: str) -> Mount | None:
    """proc_pid_mountinfo(5)."""
    own, _, rest = line.partition(" - ")
    words, more = own.split(" "), rest.rstrip("\n").split(" ")
    try:
        major, minor = words[2].split(":")
        device = numbered(int(major), int(minor))
        own_peers = frozenset(
            word.partition(":")[2] for word in words[6:] if word.startswith(("shared:", "master:"))
        )
        numbers = int(words[0]), device
        return Mount(*numbers, unescaped(words[4]), more[0], more[2], int(words[1]), own_peers)
    except (IndexError, ValueError):
        return None


def unescaped(word: str) -> str:
    """Blanks and the like are octal numbers."""
    if "\\" not in word:
        return word
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(octal, character)
    return word


def local_mounts(mounts: list[Mount]) -> Iterator[Mount]:
    """Those of this machine's devices and memory, the first of each file system. One below a mount
    point that others answer for is left out: the way to it may hang."""
    remote = [mount.point.rstrip("/") for mount in mounts if mount.type.startswith(_REMOTE)]
    types = block_types()
    seen: set[int] = set()
    for mount in mounts:
        hangs = any(f"{mount.point}/".startswith(f"{point}/") for point in remote)
        if mount.device in seen or hangs or not (mount.type in types or mount.type in _IN_MEMORY):
            continue
        seen.add(mount.device)
        yield mount


def block_types() -> set[str]:
    """The types of file systems that lie on a block device."""
    with open("/proc/filesystems") as file:
        lines = [line.split() for line in file]
    return {words[0] for words in lines if len(words) == 1 and not words[0].startswith(_REMOTE)}


def below_of(mount: Mount) -> int | None:
    """The device on which the files of an overlay are written."""
    if mount.type != "overlay":
        return None
    options = dict(part.partition("=")[::2] for part in mount.options.split(","))
    try:
        return device_number(os.stat(unescaped(options["upperdir"])).st_dev)
    except (KeyError, OSError):
        return None


def is_ours(mount: Mount) -> bool:
    """Whether its files may be looked at: nobody else answers for them."""
    own = mount.type in _IN_MEMORY or mount.type == "overlay"
    return own or mount.type in block_types()


class _Statx(ctypes.Structure):
    """The head of struct statx, statx(2)."""

    _fields_ = (
        ("mask", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("attributes", ctypes.c_uint64),
        ("rest", ctypes.c_uint8 * 240),
    )


# statx(2), and include/uapi/linux/fcntl.h
_AT_FDCWD, _AT_SYMLINK_NOFOLLOW, _AT_STATX_DONT_SYNC = -100, 0x100, 0x4000
_ATTRIBUTES = {"IMMUTABLE": 0x10, "APPEND": 0x20}


def attributes_of(path: str) -> int:
    """0 if it is gone."""
    told = _Statx()
    how = _AT_SYMLINK_NOFOLLOW | _AT_STATX_DONT_SYNC
    if _libc().statx(_AT_FDCWD, os.fsencode(path), how, 0, ctypes.byref(told)):
        return 0
    return int(told.attributes)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


class Found(NamedTuple):
    """Where a path leads: to `path` as its process sees it, below `root` as ktrace does."""

    mount: Mount
    path: str
    root: str
    mounts: list[Mount]


class Roots:
    """The mounts that processes see, by the device of their root: that of a container is its own,
    and one of its processes may be gone when its failure is looked at."""

    def __init__(self) -> None:
        own = device_number(os.stat("/").st_dev)
        self._seen: dict[int, tuple[str, list[Mount]]] = {own: ("", read_mounts("self"))}

    def find(self, record: Any) -> Found | None:
        """Where the path of a failed call leads. None if the call has no path, or that is not
        known."""
        name, base = record.name.split(b"\0", 1)[0], b"/"
        if not name:
            return None
        if not record.absolute:
            if not record.path_whole:
                return None
            base = joined(record.path, record.path_bytes)
            name = base + b"/" + name
        root, mounts = f"/proc/{record.process_pid}/root", list[Mount]()
        with suppress(OSError):
            mounts = read_mounts(record.process_pid)
        if record.absolute and mounts:
            keep(self._seen, record.device, (root, mounts), MAX_ROOTS)
        elif record.absolute:
            root, mounts = self._seen.get(record.device, (root, mounts))
        elif not mounts:  # the process is gone: its directory tells in which of them it was
            for seen in self._seen.values():
                there = mount_at(os.fsdecode(base), seen[1])
                if there is not None and there.device == record.device:
                    root, mounts = seen
                    break
        path = resolved(root, os.fsdecode(name), mounts)
        mount = mount_at(path, mounts)
        return Found(mount, path, root, mounts) if mount else None


def resolved(root: str, path: str, mounts: list[Mount]) -> str:
    """The path without its symbolic links, but for the last name. Where others answer for a file,
    it is not looked at, and taken for none: that might hang."""
    names, done, links = deque(path.split("/")), "/", 0
    while names:
        name = names.popleft()
        if name in ("", "."):
            continue
        if name == "..":
            done = os.path.dirname(done)
            continue
        here = os.path.join(done, name)
        mount = mount_at(here, mounts)
        target = None
        if any(names) and mount is not None and here != mount.point and is_ours(mount):
            with suppress(OSError):
                target = os.readlink(root + here)
        links += target is not None
        if target is None or links > MAX_LINKS:
            done = here
            continue
        names.extendleft(reversed(target.split("/")))
        if target.startswith("/"):
            done = "/"
    return done


def mount_at(path: str, mounts: list[Mount]) -> Mount | None:
    """Of several mounts on one point, the last one is seen."""
    found: Mount | None = None
    for mount in mounts:
        if is_below(path, mount) and (found is None or is_below(mount.point, found)):
            found = mount
    return found


def is_below(path: str, mount: Mount) -> bool:
    return f"{path}/".startswith(f"{mount.point.rstrip('/')}/")


class Held(NamedTuple):
    """`how` is a name of `enum disk_hold` without its head. `pid` is 0 for a mount."""

    pid: int
    how: str
    path: str


def holders(mount: Mount, mounts: list[Mount]) -> Iterator[Held]:
    """What keeps a mount in use: mounts below it, and files of processes, also where a mount of
    another namespace would go with it."""
    for one in mounts:
        if one.parent == mount.id:
            yield Held(0, "MOUNT", one.point)
    namespaces: dict[str, dict[int, str]] = {}  # the points of such mounts, by their numbers
    looked = 0
    for pid in processes():
        try:
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
            if namespace not in namespaces:
                namespaces[namespace] = {
                    one.id: one.point
                    for one in read_mounts(pid)
                    if one.id == mount.id
                    or (one.device == mount.device and one.peers & mount.peers)
                }
            points = namespaces[namespace]
            if points:
                yield from _held_by(pid, points, mount.device)
                looked += len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            continue
        if looked > MAX_DESCRIPTORS:
            return


def _held_by(pid: int, points: Mapping[int, str], device: int) -> Iterator[Held]:
    for link, how in (("cwd", "CWD"), ("root", "ROOT")):
        with suppress(OSError):
            path = os.readlink(f"/proc/{pid}/{link}")
            if _is_in(path, points):
                yield Held(pid, how, path)
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError, ValueError, KeyError):
            with open(f"/proc/{pid}/fdinfo/{name}") as info:
                told = dict(line.split(":\t", 1) for line in info if ":\t" in line)
            if int(told["mnt_id"]) in points:
                yield Held(pid, "OPEN", os.readlink(f"/proc/{pid}/fd/{name}"))
    number = f"{device >> 20:02x}:{device & 0xFFFFF:02x}"
    with suppress(OSError), open(f"/proc/{pid}/maps", errors="surrogateescape") as maps:
        for line in maps:
            words = line.rstrip("\n").split(None, 5)
            if len(words) == 6 and words[3] == number and _is_in(words[5], points):
                yield Held(pid, "MAPPED", words[5])
                return


def _is_in(path: str, points: Mapping[int, str]) -> bool:
    path = path.removesuffix(" (deleted)")
    return any(f"{path}/".startswith(f"{point.rstrip('/')}/") for point in points.values())


class OpenFile(NamedTuple):
    pid: int
    descriptor: int
    device: int
    inode: int
    bytes: int
    deleted: bool
    writes: bool
    path: str


def open_files(devices: set[int], below: Mapping[int, int]) -> Iterator[OpenFile]:
    """Files on these file systems that processes have open, deleted or for writing. A descriptor's
    mount tells whether its file may be looked at."""
    looked = 0
    mounts: dict[str, dict[int, int]] = {}  # devices by mount, by namespace
    for pid in processes():
        try:
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
            if namespace not in mounts:
                every = ((one.id, below.get(one.device, one.device)) for one in read_mounts(pid))
                mounts[namespace] = {id_: device for id_, device in every if device in devices}
            known = mounts[namespace]
            names = os.listdir(f"/proc/{pid}/fd") if known else []
        except OSError:
            continue
        for name in names:
            looked += 1
            with suppress(OSError, ValueError, KeyError):
                if (file := open_file(pid, int(name), known)) is not None:
                    yield file
        if looked > MAX_DESCRIPTORS:
            return


def open_file(pid: int, descriptor: int, mounts: Mapping[int, int]) -> OpenFile | None:
    with open(f"/proc/{pid}/fdinfo/{descriptor}") as info:
        told = dict(line.split(":\t", 1) for line in info if ":\t" in line)
    device = mounts.get(int(told["mnt_id"]))
    if device is None:
        return None
    link = f"/proc/{pid}/fd/{descriptor}"
    found = os.stat(link)
    deleted, writes = not found.st_nlink, bool(int(told["flags"], 8) & os.O_ACCMODE)
    if not stat.S_ISREG(found.st_mode) or not (deleted or writes):
        return None
    path = os.readlink(link).removesuffix(" (deleted)" if deleted else "")
    room = 512 * found.st_blocks
    return OpenFile(pid, descriptor, device, found.st_ino, room, deleted, writes, path)
