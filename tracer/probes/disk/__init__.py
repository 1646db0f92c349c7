# SPDX-License-Identifier: Apache-2.0
"""Show what fails for a file system: full, read-only, in error, in use; and who fills it.

What fails for a file system: it is full, has become read-only, has errors, keeps a file that
must not change, or is in use. Who fills it, whose files are the largest, and who holds it.

The states come from `companion`, which asks for them every second. The program that sees all calls
is attached only while one is bad (probes/disk.bpf.c), because it makes every system call slower.
"""

from __future__ import annotations

import errno
import os
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypedDict, TypeGuard

from tracer.decode import syscalls
from tracer.kernel.bpf_object import shipped
from tracer.kernel.devices import device_name
from tracer.model.bounded import keep
from tracer.model.event import Event, Place, Process, text
from tracer.model.names import normalise_uid
from tracer.model.path import path_of
from tracer.model.schema import Schema
from tracer.model.selection import Selection
from tracer.model.summary import summary
from tracer.model.units import size
from tracer.probes import (
    Alike,
    AttachPoint,
    Companion,
    Decode,
    Metric,
    Options,
    Probe,
    Stream,
    Table,
)
from tracer.probes.columns import CONTAINER, POD, Column, pod_name, process_name

# How a system call names the file that it is about: `enum disk_call` in probes/disk.bpf.c.
CALLS = {
    "KT_CALL_FD": (
        *("write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "fallocate"),
        *("ftruncate", "fsync", "fdatasync", "close", "fsetxattr", "fchmod", "fchown"),
        *("read", "pread64", "readv", "preadv", "preadv2", "getdents64", "sync_file_range"),
    ),
    "KT_CALL_THIRD_FD": ("splice", "copy_file_range"),
    "KT_CALL_PATH": (
        *("open", "creat", "mkdir", "mknod", "truncate", "unlink", "rmdir", "setxattr"),
        *("lsetxattr", "chmod", "chown", "lchown", "utime", "utimes", "umount2", "execve"),
    ),
    "KT_CALL_SECOND": ("rename", "link", "symlink"),
    "KT_CALL_AT": (
        *("openat", "openat2", "mkdirat", "mknodat", "unlinkat", "utimensat", "fchmodat"),
        *("fchownat", "execveat"),
    ),
    "KT_CALL_THIRD_AT": ("symlinkat",),
    "KT_CALL_FOURTH_AT": ("renameat", "renameat2", "linkat"),
    "KT_CALL_MOUNT": ("mount",),
    "KT_CALL_NONE": ("clone",),
}
# What else a call may tell: see the same enum.
TRAITS = {
    "KT_CALL_REMOVES": (
        "unlink",
        "unlinkat",
        "rmdir",
        "rename",
        "renameat",
        "renameat2",
        "umount2",
    ),
    "KT_CALL_SYNCS": ("fsync", "fdatasync", "sync_file_range"),
    "KT_CALL_STARTS": ("mount", "execve", "execveat", "mkdir", "mkdirat", "clone"),
}
# Splice's and copy_file_range's arguments, linkat's and the like: include/linux/syscalls.h.

# They have no room that could be used up: what fails there is something else's limit.
NOT_ON_DISK = frozenset(
    (
        *("bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs", "mqueue"),
        *("nsfs", "pipefs", "proc", "resctrl", "securityfs", "sockfs", "sysfs", "tracefs"),
    )
)
BLOCKS, INODES = "blocks", "inodes"
FULL, READ_ONLY, GOOD = "full", "read_only", "good"
MAX_PLACES = 1024
MAX_FILES = 64  # of one file system
MAX_STATES = 4096
LARGEST = 5
MAX_HOLDERS = 8  # of one mount
WRITERS = 5
# How long the companion may take to find who holds a mount.
SEARCH_NS = 3_000_000_000
# How old the last bad state may be that explains a failure: one look, and some delay.
STALE_NS = 2_000_000_000


class FileSystem(TypedDict):
    type: str | None
    device: str | None
    mount: str | None
    lacks: list[str] | None
    size_bytes: int | None
    free_bytes: int | None
    inodes: int | None
    free_inodes: int | None


class LargeFile(TypedDict):
    path: str
    bytes: int
    deleted: bool
    process: Process | None


class Writer(TypedDict):
    """`pod` is its place; None outside of pods."""

    pod: Place | None
    container: str | None
    bytes: int
    inodes: int | None
    seconds: int


class Holder(TypedDict):
    how: str
    path: str
    process: Process | None


class FailureBody(TypedDict):
    error: str
    call: str | None
    path: str | None
    file_system: FileSystem
    process: Process
    count: int
    largest: list[LargeFile] | None
    writers: list[Writer] | None
    attribute: str | None
    attribute_of: str | None
    holders: list[Holder] | None


class StartBody(TypedDict):
    error: str
    call: str | None
    path: str | None
    process: Process
    count: int


class ErrorBody(TypedDict):
    error: str
    reporter: str
    writes: bool
    sector: int | None
    bytes: int | None
    file_system: FileSystem
    count: int


class WriterBody(TypedDict):
    bytes: int
    inodes: int | None
    seconds: int
    file_system: FileSystem


class StateBody(TypedDict):
    state: str
    file_system: FileSystem


class FileBody(TypedDict):
    path: str
    bytes: int
    deleted: bool
    descriptor: int
    file_system: FileSystem
    process: Process


# A device's answers, include/linux/blk_types.h, as they become errno (block/blk-core.c).
STATUSES = {
    **{1: errno.EOPNOTSUPP, 2: errno.ETIMEDOUT, 3: errno.ENOSPC, 4: errno.ENOLINK},
    **{5: errno.EREMOTEIO, 6: errno.EBADE, 7: errno.ENODATA, 8: errno.EILSEQ},
    **{9: errno.ENOMEM, 10: errno.EIO},
}
HOLDS = {
    "KT_HOLD_OPEN": "open",
    "KT_HOLD_CWD": "working directory",
    "KT_HOLD_ROOT": "root directory",
    "KT_HOLD_MAPPED": "mapped",
    "KT_HOLD_MOUNT": "mount",
}
_ATTRIBUTES = (("IMMUTABLE", "immutable"), ("APPEND", "append-only"))
# In paths of the kubelet and the runtimes: a pod's uid, a container's id.
_POD = re.compile(r"/pods/([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{32})(?:/|$)")
_CONTAINER = re.compile(r"/([0-9a-f]{64})(?:/|$)")


def is_disk_failure(event: Event) -> TypeGuard[Event[FailureBody]]:
    return event.kind == "disk_failure"


class Decoder:
    """What user space tells of file systems, paths and files comes before the failures."""

    def __init__(self, stream: Stream) -> None:
        self._resolver = stream.resolver
        self._states: dict[int, Any] = {}
        self._bad: dict[int, Any] = {}  # the last state of each that was bad
        # the last failure of a process, with this error and base, and whether it had a path
        self._last: dict[tuple[int, int, int], tuple[Event[FailureBody], bool, bool]] = {}
        self._errors: dict[tuple[int, int], Event[ErrorBody]] = {}  # the last, by error and device
        self._below: dict[int, int] = {}  # by device of an overlay
        self._places: dict[tuple[int, bytes], tuple[int, str, int]] = {}  # by pid and name
        self._holders: dict[tuple[int, bytes], list[Holder]] = {}  # in the same way
        self._writers: dict[int, dict[int, Writer]] = {}  # by device and cgroup
        self._files: dict[int, dict[tuple[int, int], LargeFile]] = {}  # by device

    def failure(self, record: Any) -> Event[FailureBody] | None:
        # a path from the root may lead anywhere
        there = (None, None) if record.absolute else (record.device, text(record.type) or None)
        key = record.process_pid, record.name
        device, kind, marks = self._places.get(key, (*there, 0))
        process = self._resolver.process(
            record.process_process, record.process_pid, record.process_tid
        )
        if kind in NOT_ON_DISK:
            return None
        attribute = of_directory = None
        if record.error == errno.EPERM:
            attribute, of_directory = _attribute(marks)
            if attribute is None:  # another reason: a capability, a security module
                return None
        searched = marks & _marks()["SEARCHED"]
        if record.error == errno.EBUSY and not marks & _marks()["MOUNT_POINT"]:
            return None
        if device is not None:
            device = self._below.get(device, device)
        state = self._state_at(device, record.time)
        # a volume that is mounted read-only is meant to be
        if record.error == errno.EROFS and not (state and state.flags & _flags()["READ_ONLY"]):
            return None
        files = sorted(
            self._files.get(device or 0, {}).values(), key=lambda f: f["bytes"], reverse=True
        )
        path = _path(record)
        body: FailureBody = {
            "error": errno.errorcode.get(record.error, str(record.error)),
            "call": _call_name(record.call),
            "path": path,
            "file_system": _file_system(state, device, kind),
            "process": process,
            "count": 1,
            "largest": files[:LARGEST] if state else None,
            "writers": self._most(device) if state else None,
            "attribute": attribute,
            "attribute_of": os.path.dirname(path or "") if of_directory else attribute and path,
            "holders": self._holders.get(key, []) if searched else None,
        }
        waits = record.error == errno.EBUSY and not searched
        event = Event(
            *("disk_failure", record.time, process, None, body, self._owner(process, path)),
            again=partial(self.failure, record) if waits else None,
            awaits_ns=SEARCH_NS,
        )
        last = event, bool(text(record.name)), bool(record.absolute)
        keep(self._last, (record.process_pid, record.error, record.device), last, MAX_PLACES)
        return event

    def start(self, record: Any) -> Event[StartBody]:
        process = self._resolver.process(
            record.process_process, record.process_pid, record.process_tid
        )
        body: StartBody = {
            "error": errno.errorcode.get(record.error, str(record.error)),
            "call": _call_name(record.call),
            "path": _path(record) if text(record.name) else None,
            "process": process,
            "count": 1,
        }
        return Event("start_failure", record.time, process, None, body)

    def _owner(self, process: Process, path: str | None) -> Place | None:
        """The pod whose directory it is, if the caller is in none: the kubelet, a runtime."""
        place = process.place
        if path is None or (place and (place.identity.pod_uid or place.identity.container_id)):
            return None
        pod, container = _POD.search(path), _CONTAINER.search(path)
        if pod is None and container is None:
            return None
        uid = normalise_uid(pod[1]) if pod else None
        return self._resolver.owner(uid, container[1] if container else None)

    def _most(self, device: int | None) -> list[Writer]:
        writers = self._writers.get(device or 0, {}).values()
        order = sorted(writers, key=lambda w: (w["bytes"], w["inodes"] or 0), reverse=True)
        return order[:WRITERS]

    def more(self, record: Any) -> Event[Any] | None:
        """Failures of the process of one that was told. Where paths are given, theirs are not
        known, nor is where those from the root led."""
        if not record.pid:
            return self._more_errors(record)
        found = self._last.get((record.pid, record.error, record.device))
        if found is None:
            return None
        last, named, absolute = found
        body: FailureBody = {**last.body, "count": record.count}
        if named:
            body["path"] = body["attribute"] = body["attribute_of"] = None
        if absolute:
            body["file_system"], body["largest"] = _file_system(None, None, None), None
        return Event("disk_failure", record.time, last.about, None, body, last.place)

    def _more_errors(self, record: Any) -> Event[ErrorBody] | None:
        known = self._errors.get((record.error, record.device))
        if known is None:
            return None
        body: ErrorBody = {**known.body, "count": record.count, "sector": None, "bytes": None}
        return Event("disk_error", record.time, None, None, body)

    def _state_at(self, device: int | None, time: int) -> Any:
        """Of the states around a failure the bad one, because a look comes a moment later."""
        if device is None:
            return None
        state, bad = self._states.get(device), self._bad.get(device)
        if state is None or state.flags or bad is None:
            return state
        return bad if bad.time + STALE_NS >= time else state

    def error(self, record: Any) -> Event[ErrorBody]:
        by_device = record.reporter == _numbers("disk_reporter", "KT_BY_")["DEVICE"]
        number = STATUSES.get(record.error, errno.EIO) if by_device else record.error
        state = self._states.get(record.device)
        body: ErrorBody = {
            "error": errno.errorcode.get(number, str(number)),
            "reporter": "device" if by_device else "writeback",
            "writes": bool(record.writes),
            "sector": record.sector if by_device else None,
            "bytes": record.bytes if by_device else None,
            "file_system": _file_system(state, record.device, None),
            "count": 1,
        }
        event = Event(
            *("disk_error", record.time, None, None, body, self._resolver.place(record.cgroup))
        )
        keep(self._errors, (record.error, record.device), event, MAX_STATES)
        return event

    def writer(self, record: Any) -> Event[WriterBody]:
        place = self._resolver.place(record.cgroup)
        container = place.container if place else None
        state = self._states.get(record.device)
        knows = state is not None and text(state.type) == "ext4"
        writer: Writer = {
            "pod": place if place and place.pod else None,
            "container": container.name if container else None,
            "bytes": record.bytes,
            "inodes": record.inodes if knows else None,
            "seconds": record.seconds,
        }
        if record.device in self._writers or len(self._writers) < MAX_STATES:
            of_device = self._writers.setdefault(record.device, {})
            keep(of_device, record.cgroup, writer, MAX_FILES)
        body: WriterBody = {
            "bytes": record.bytes,
            "inodes": writer["inodes"],
            "seconds": record.seconds,
            "file_system": _file_system(state, record.device, None),
        }
        return Event("disk_writer", record.time, None, None, body, place)

    def holder(self, record: Any) -> None:
        process = None
        if record.process_pid:
            process = self._resolver.process(
                record.process_process, record.process_pid, record.process_tid
            )
        names = _numbers("disk_hold", "")
        how = next((word for name, word in HOLDS.items() if names[name] == record.how), "open")
        held: Holder = {"how": how, "path": text(record.path), "process": process}
        known = self._holders.get((record.pid, record.name), [])
        if len(known) < MAX_HOLDERS:
            keep(self._holders, (record.pid, record.name), [*known, held], MAX_PLACES)

    def state(self, record: Any) -> Event[StateBody] | None:
        keep(self._states, record.device, record, MAX_STATES)
        if record.flags:
            keep(self._bad, record.device, record, MAX_STATES)
        if not record.flags:
            self._files.pop(record.device, None)
        if not record.changed:
            return None
        state = GOOD
        if record.flags:
            state = READ_ONLY if record.flags & _flags()["READ_ONLY"] else FULL
        body: StateBody = {
            "state": state,
            "file_system": _file_system(record, record.device, None),
        }
        return Event("disk_state", record.time, None, None, body)

    def overlay(self, record: Any) -> None:
        keep(self._below, record.device, record.below, MAX_STATES)

    def place(self, record: Any) -> None:
        key = record.pid, record.name
        keep(self._places, key, (record.device, text(record.type), record.marks), MAX_PLACES)
        if not record.marks & _marks()["SEARCHED"]:
            self._holders.pop(key, None)

    def file(self, record: Any) -> Event[FileBody]:
        process = self._resolver.process(
            record.process_process, record.process_pid, record.process_tid
        )
        large: LargeFile = {
            "path": text(record.path),
            "bytes": record.bytes,
            "deleted": bool(record.deleted),
            "process": process,
        }
        files = self._files.setdefault(record.device, {})
        keep(files, (record.process_pid, record.descriptor), large, MAX_FILES)
        body: FileBody = {
            "path": large["path"],
            "bytes": record.bytes,
            "deleted": large["deleted"],
            "descriptor": record.descriptor,
            "file_system": _file_system(self._states.get(record.device), record.device, None),
            "process": process,
        }
        return Event("disk_file", record.time, process, None, body)


def _decoder(stream: Stream) -> dict[str, Decode]:
    decoder = Decoder(stream)
    return {
        "disk_failure": decoder.failure,
        "start_failure": decoder.start,
        "disk_more": decoder.more,
        "disk_state": decoder.state,
        "disk_overlay": decoder.overlay,
        "disk_place": decoder.place,
        "disk_file": decoder.file,
        "disk_holder": decoder.holder,
        "disk_error": decoder.error,
        "disk_writer": decoder.writer,
    }


@cache
def _numbers(enum: str, prefix: str) -> dict[str, int]:
    numbers = shipped("disk").numbers(enum)
    return {name.removeprefix(prefix): number for name, number in numbers.items()}


def _flags() -> dict[str, int]:
    return _numbers("disk_flags", "KT_DISK_")


def _marks() -> dict[str, int]:
    return _numbers("disk_marks", "KT_MARK_")


def _attribute(marks: int) -> tuple[str | None, bool]:
    """What forbids a removal, and whether the directory has it."""
    for below in ("", "BELOW_"):
        for name, word in _ATTRIBUTES:
            if marks & _marks()[below + name]:
                return word, bool(below)
    return None, False


def _call_name(number: int) -> str | None:
    return syscalls.name(_machine(), number)


@cache
def _machine() -> str:
    return {"aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _path(record: Any) -> str | None:
    """As the process itself sees it."""
    base = path_of(record.path, record.path_bytes, record.path_whole)
    name = text(record.name)
    if not name:
        return base if record.path_bytes or record.path_whole else None
    return name if record.absolute else f"{base.rstrip('/')}/{name}"


def _file_system(state: Any, device: int | None, kind: str | None) -> FileSystem:
    """Without a state nothing is known but the device and the type."""
    if state is None:
        return {
            "type": kind,
            "device": device_name(device) if device else None,
            "mount": None,
            "lacks": None,
            "size_bytes": None,
            "free_bytes": None,
            "inodes": None,
            "free_inodes": None,
        }
    lacks = [
        word
        for word, flag in ((BLOCKS, "NO_BLOCKS"), (INODES, "NO_INODES"))
        if state.flags & _flags()[flag]
    ]
    return {
        "type": text(state.type),
        "device": device_name(state.device),
        "mount": text(state.mount),
        "lacks": lacks,
        "size_bytes": state.size,
        "free_bytes": state.free,
        "inodes": state.inodes or None,
        "free_inodes": state.free_inodes if state.inodes else None,
    }


def _watched(schemas: Mapping[str, Schema], map_of: Callable[[str], Table]) -> Companion:
    from tracer.probes.disk.companion import Watched

    return Watched(schemas, map_of("kt_disk_failing"), map_of("kt_disk_writers"))


def _looks(schemas: Mapping[str, Schema], _map_of: Any) -> Companion:
    from tracer.probes.disk.companion import Watched

    return Watched(schemas, None, None)


@dataclass(frozen=True)
class DiskOptions(Options):
    def settings(self, selection: Selection) -> dict[str, int]:
        return {"kt_disk_calls": int.from_bytes(call_table(), "little")}


def call_table() -> bytes:
    """The content of `kt_disk_calls`: by number, how a call names its file."""
    described = shipped("disk")
    table = bytearray(described.numbers("disk_bounds")["KT_DISK_CALLS"])
    ways = {call: way for way, calls in CALLS.items() for call in calls}
    numbers = described.numbers("disk_call")
    for number in range(len(table)):
        way = ways.get(_call_name(number) or "")
        table[number] = numbers[way] if way else 0
        for trait, calls in TRAITS.items():
            if _call_name(number) in calls:
                table[number] |= numbers[trait]
    return bytes(table)


def _room(event: Event[Any]) -> str | None:
    """`0 B of 1 MiB, 0 of 16 inodes`: what is free."""
    system: FileSystem | None = event.body.get("file_system")
    if system is None or system["size_bytes"] is None:
        return None
    words = f"{size(system['free_bytes'])} of {size(system['size_bytes'])}"
    if system["inodes"]:
        words += f", {system['free_inodes']} of {system['inodes']} inodes"
    return words


def _where(event: Event[Any]) -> str | None:
    system: FileSystem | None = event.body.get("file_system")
    return (system["mount"] or system["device"]) if system else None


def _what(event: Event[Any]) -> str:
    body = event.body
    if event.kind == "disk_state":
        return str(body["state"]).replace("_", " ")
    if event.kind == "disk_file":
        return f"{size(body['bytes'])} {'deleted' if body['deleted'] else 'open'}"
    if event.kind == "disk_writer":
        return f"wrote {_amount(body)}"
    if event.kind == "disk_error":
        return f"{body['error']} ({_half(body)})"
    return f"{body['error']}" + (f" ({body['call']})" if body["call"] else "")


def _summary(event: Event[Any]) -> str:
    body, where = event.body, _where(event) or "a file system that is not known"
    if event.kind == "disk_state":
        room = f" ({_room(event)} free)" if body["state"] == FULL else ""
        return f"{where} is {_what(event)}{room}"
    if event.kind == "disk_error":
        return f"{where}: the {_half(body)} failed: {body['error']}{_times(body)}"
    if event.kind == "disk_writer":
        pod = pod_name(event.place) or "the node"
        return f"{pod} wrote {_amount(body)} on {where} in {body['seconds']} s"
    who = process_name(event.about)
    if event.kind == "disk_file":
        deleted = "deleted, " if body["deleted"] else ""
        return f"{who} has {body['path']} open, {deleted}{size(body['bytes'])} on {where}"
    what = f"{who}: {body['call'] or 'a call'} of {body['path'] or 'a file'}: {body['error']}"
    return f"{what}{_why(body)}{_times(body)}"


def _times(body: Any) -> str:
    return f", {body['count']} times" if body["count"] > 1 else ""


def _half(body: Any) -> str:
    if body["reporter"] == "writeback":
        return "writing back"
    return "disk's write" if body["writes"] else "disk's read"


def _amount(body: Any) -> str:
    """`3 GiB, 12 files`."""
    files = f", {body['inodes']} new files" if body["inodes"] else ""
    return f"{size(body['bytes'])}{files}"


def _why(body: Any) -> str:
    """What forbids a removal, or who holds the mount."""
    if body.get("attribute"):
        return f": {body['attribute_of']} is {body['attribute']}"
    held = [named_holder(holder) for holder in body.get("holders") or ()]
    return f": held by {', '.join(held[:2])}" if held else ""


def named_holder(holder: Holder) -> str:
    """`app[7] of pod shop/web-0 (working directory /data)`."""
    process = holder["process"]
    if process is None:
        return f"the mount {holder['path']}"
    pod = pod_name(process.place)
    return (
        f"{process_name(process)}{f' of pod {pod}' if pod else ''} ({holder['how']}"
        f" {holder['path']})"
    )


def _grouping(event: Event[Any]) -> Alike:
    body = event.body
    if event.kind == "start_failure":
        return Alike("start_failure", (body["error"], body["call"], body["path"]))
    device = body["file_system"]["device"]
    if event.kind == "disk_failure":
        own = body["path"] if body["attribute"] or body["holders"] else None
        return Alike(("disk_failure", body["error"]), (device, own), body["count"])
    if event.kind == "disk_error":
        return Alike("disk_error", (device, body["error"], body["reporter"]), body["count"])
    if event.kind == "disk_writer":
        return Alike("disk_writer", device)
    if event.kind == "disk_file":
        return Alike("disk_file", (body["process"].pid, body["descriptor"], device))
    return Alike("disk_state", (body["state"], device))


def _alarm(event: Event[Any]) -> bool:
    in_pod = event.place is not None and event.place.pod is not None
    return in_pod and event.kind == "disk_failure"


_STATES_ONLY = "who met the error, and on which file"
_REMOVALS = (
    "immutable files and mounts in use that could not be removed, unless a file system is full",
    "which of the runtime's calls failed in a container's start, unless a file system is full",
)
_UNSEEN = "file systems that ktrace does not see mounted, and those of servers"
# Calls so rare that their functions are watched always. Newer architectures have only the first.
WATCHED = ("unlinkat", "umount", "mkdirat", "fallocate", "mount", "execve", "clone")
WATCHED_X86 = ("unlink", "rmdir", "mkdir")
# What counts who writes, and what tells of errors without a look at every call.
WRITES = ("on_dirty_folio", "on_dirty_page", "on_new_inode")
_OPTIONAL = {
    "on_dirty_folio": "",
    "on_dirty_page": "",
    "on_new_inode": "how many files are made on ext4",
    "on_block_error": "errors of disks that reach no file system",
}


def _watched_calls() -> tuple[str, ...]:
    return (*WATCHED, *(WATCHED_X86 if _machine() == "x86_64" else ()))


def _fexits() -> tuple[str, ...]:
    return tuple(f"fexit_{name}" for name in _watched_calls())


def _kretprobes() -> tuple[str, ...]:
    kinds = "kprobe", "kretprobe"
    return tuple(f"{kind}_{name}" for name in _watched_calls() for kind in kinds)


def _point(prefix: str, functions: tuple[str, ...]) -> AttachPoint:
    """`functions` are programs on the functions of rare calls."""
    rare = f"{prefix}unlink, umount, mkdir, mount, execve, …; " if functions else ""
    return AttachPoint(
        f"{rare}statfs, every second; tp_btf/sys_exit while a file system is full or read-only",
        (*functions, "on_check_wb_err", "on_set_wb_err", "on_block_error"),
        cannot_tell=(
            "failures in the first second after a file system became full",
            *(() if functions else _REMOVALS),
            _UNSEEN,
        ),
        companion=_watched,
        nested={
            "on_sys_exit": "ends of system calls while another was looked at",
            "on_set_wb_err": "errors of disks in interrupts",
            "on_block_error": "errors of disks in interrupts",
            **dict.fromkeys(WRITES, "pages written in interrupts"),
        },
        armed=("on_sys_exit", *WRITES),
        optional=_OPTIONAL,
    )


PROBE: Probe[Any] = Probe(
    name="disk",
    object="disk",
    help=summary(__doc__),
    examples=(
        "ktrace disk                  pods that fail for a disk, or fill it",
        "ktrace disk --all            also file systems, errors of disks, the kubelet",
        "ktrace disk -o json | jq 'select(.deleted) | .process.pid'",
    ),
    attach_points=(
        _point("fexit/", _fexits()),
        _point("kretprobe/", _kretprobes()),
        _point("", ()),
        AttachPoint(
            "statfs, every second",
            (),
            cannot_tell=(_STATES_ONLY, *_REMOVALS, _UNSEEN),
            companion=_looks,
        ),
    ),
    decoder=_decoder,
    bodies={
        "disk_failure": FailureBody,
        "disk_state": StateBody,
        "disk_file": FileBody,
        "disk_error": ErrorBody,
        "disk_writer": WriterBody,
        "start_failure": StartBody,
    },
    whose={
        "disk_failure": "process_process",
        "disk_state": "cgroup",
        "disk_file": "process_process",
        "disk_error": "cgroup",
        "disk_writer": "cgroup",
        "start_failure": "process_process",
    },
    state={
        "disk_state": ("device",),
        "disk_overlay": ("device",),
        "disk_file": ("process_pid", "descriptor", "device"),
        "disk_writer": ("cgroup", "device"),
    },
    columns=(
        Column("WHAT", _what, 9, 22),
        Column("WHERE", _where, 9, 40, 1),
        Column("FREE", _room, 12, 36, 4),
        Column("PROCESS", lambda e: process_name(e.about), 10, 23, 2),
        POD,
        CONTAINER,
        Column("PATH", lambda e: e.body.get("path"), 12, 60, 3),
    ),
    summary=_summary,
    alarm=_alarm,
    grouping=_grouping,
    options=DiskOptions,
    metric=Metric(
        "disk_failures",
        "Calls that failed on a full or read-only file system; its states, and large files there.",
        {
            "kind": lambda e: e.kind.removeprefix("disk_"),
            "error": lambda e: e.body.get("error"),
        },
        lambda e: e.body.get("count", 1),
    ),
)
