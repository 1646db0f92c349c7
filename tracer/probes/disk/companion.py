# SPDX-License-Identifier: Apache-2.0
"""The user-space part of the `disk` probe: asks the node's file systems every second how they are,
and looks for large open files while one is full.

Nothing here may hang. Only file systems of this machine's own devices and memory are asked, never
one that a server or another process answers for (NFS, FUSE), nor one that is mounted below such.
"""

from __future__ import annotations

import os
import queue
import select
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tracer.kernel.bpf_object import shipped
from tracer.kernel.netstat import processes
from tracer.model.bounded import keep
from tracer.model.schema import Schema
from tracer.probes import LAST_CALL, Table
from tracer.probes.described import Processes, boot_ns

INTERVAL = 1.0
END_SECONDS = 2.0
# How long the end of system calls is watched after no file system is bad any more.
AFTER_SECONDS = 10.0
SEARCH_SECONDS = 10.0
# A file system with less than this much is full: the rest of a large one may be too little for a
# call, and the kernel keeps some back.
FULL_BYTES, FULL_INODES, FULL_SHARE = 64 << 20, 64, 0.01
MAX_MOUNTS = 4096
MAX_DESCRIPTORS = 50_000
MAX_HEARD = 256
MAX_FOUND = 16
MAX_TOLD = 4096
MAX_ROOTS = 64
SMALLEST_SHARE = 0.01  # of the file system, of a file that is told

# Others answer for these, and may not.
_REMOTE: tuple[str, ...] = ("9p", "afs", "autofs", "ceph", "cifs", "fuse", "gfs2", "gluster")
_REMOTE += ("lustre", "nfs", "ocfs2", "smb", "virtiofs")
_IN_MEMORY = ("tmpfs", "zfs")


class Mount(NamedTuple):
    """A line of /proc/PID/mountinfo."""

    id: int
    device: int
    point: str
    type: str
    options: str


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


class Watched:
    """The companion. `failing` is `kt_disk_failing`, whose counts only grow; None if the kernel
    side is never attached."""

    interval: float | None = None
    hears = "disk_failure"

    def __init__(self, schemas: Mapping[str, Schema], failing: Table | None) -> None:
        self._failing = failing
        self._more = schemas["disk_more"]
        self._key = shipped("disk").layout("kt_failing")
        self._value = shipped("disk").layout("kt_failed")
        self._more_told: dict[bytes, int] = {}
        self._next_more = 0.0
        self._found: queue.SimpleQueue[list[bytes]] = queue.SimpleQueue()
        self._heard: list[Any] = []
        self._wake: Callable[[], None] = lambda: None
        self._arm: Callable[[bool], bool] = lambda on: False
        self._armed = False
        self._place = schemas["disk_place"]
        self._ending = threading.Event()
        self._roots = Roots()
        self._look = Look(schemas)
        self._thread = threading.Thread(target=self._work, name="ktrace-disks", daemon=True)
        self._thread.start()

    def arm_with(self, arm: Callable[[bool], bool]) -> None:
        self._arm = arm

    def wake_with(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def hear(self, records: Iterator[Any]) -> None:
        for record in records:
            if len(self._heard) < MAX_HEARD:
                self._heard.append(record)

    def records(self, fresh: frozenset[str]) -> list[bytes]:
        if fresh == LAST_CALL:
            self._ending.set()
            self._thread.join(END_SECONDS)
        elif self._look.bad != self._armed:
            bad = self._look.bad
            self._armed = self._arm(bad) and bad  # if the kernel refuses, it is asked again
        found = [self._found.get() for _ in range(self._found.qsize())]
        heard, self._heard = self._heard, []
        told = [record for records in found for record in records] + self._answers(heard)
        return told + self._untold(last=fresh == LAST_CALL)

    def close(self) -> None:
        self._ending.set()

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
        """Where the paths of failed calls lead, and how those file systems are now."""
        places: dict[tuple[int, bytes], bytes] = {}
        devices: dict[int, None] = {}
        for record in heard:
            key = (record.process_pid, record.name)
            if key in places:
                continue
            mount = self._roots.mount_of(record)
            if mount is not None:
                kind = mount.type.encode()
                places[key] = self._place.pack(
                    time=boot_ns(), pid=key[0], name=key[1], device=mount.device, type=kind
                )
            devices[mount.device if mount else record.device] = None
        return [*places.values(), *self._look.now(devices)]

    def _work(self) -> None:
        ended = False
        while not ended:
            if found := self._look.round():
                self._found.put(found)
            if found or self._look.bad != self._armed:
                self._wake()
            ended = self._ending.wait(INTERVAL)
        self._look.close()


class Look:
    """One look a second. `bad` says whether a file system is full or has become read-only, or was
    a moment ago."""

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self.bad = False
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
        device = int(major) << 20 | int(minor)
        return Mount(int(words[0]), device, unescaped(words[4]), more[0], more[2])
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


def device_number(device: int) -> int:
    return os.major(device) << 20 | os.minor(device)


class Roots:
    """The mounts that processes see, by the device of their root: that of a container is its own,
    and one of its processes may be gone when its failure is looked at."""

    def __init__(self) -> None:
        own = device_number(os.stat("/").st_dev)
        self._seen: dict[int, list[Mount]] = {own: read_mounts("self")}

    def mount_of(self, record: Any) -> Mount | None:
        """Where the path of a failed call leads, by mount points alone: to look at the file might
        hang. None if the call has no path, or that is not known."""
        name = record.name.split(b"\0", 1)[0]
        if not name:
            return None
        if not record.absolute:
            if not record.path_whole:
                return None
            names = record.path[: record.path_bytes].split(b"\0")[:-1]
            name = b"/" + b"/".join(reversed(names)) + b"/" + name
        mounts = None
        with suppress(OSError):
            mounts = read_mounts(record.process_pid)
        if record.absolute:
            if mounts:
                keep(self._seen, record.device, mounts, MAX_ROOTS)
            else:
                mounts = self._seen.get(record.device)
        return mount_at(os.path.normpath(os.fsdecode(name)), mounts or [])


def mount_at(path: str, mounts: list[Mount]) -> Mount | None:
    """Of several mounts on one point, the last one is seen."""
    found: Mount | None = None
    for mount in mounts:
        if is_below(path, mount) and (found is None or is_below(mount.point, found)):
            found = mount
    return found


def is_below(path: str, mount: Mount) -> bool:
    return f"{path}/".startswith(f"{mount.point.rstrip('/')}/")


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
