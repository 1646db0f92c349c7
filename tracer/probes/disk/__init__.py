# SPDX-License-Identifier: Apache-2.0
"""Show file systems that are full, who fails for that, and the largest files.

File systems that are full or have become read-only: which calls failed for that, on which file,
and whose files are the largest.

The states come from `companion`, which asks for them every second. The kernel side is attached only
while one is bad (probes/disk.bpf.c), because it would make every system call slower.
"""

from __future__ import annotations

import errno
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypedDict, TypeGuard

from tracer.decode import syscalls
from tracer.kernel.bpf_object import shipped
from tracer.model.bounded import keep
from tracer.model.event import Event, Process, text
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
from tracer.probes.columns import CONTAINER, POD, Column, process_name

# How a system call names the file that it is about: `enum disk_call` in probes/disk.bpf.c.
CALLS = {
    "KT_CALL_FD": (
        *("write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "fallocate"),
        *("ftruncate", "fsync", "fdatasync", "close", "fsetxattr", "fchmod", "fchown"),
    ),
    "KT_CALL_THIRD_FD": ("splice", "copy_file_range"),
    "KT_CALL_PATH": (
        *("open", "creat", "mkdir", "mknod", "truncate", "unlink", "rmdir", "setxattr"),
        *("lsetxattr", "chmod", "chown", "lchown", "utime", "utimes"),
    ),
    "KT_CALL_SECOND": ("rename", "link", "symlink"),
    "KT_CALL_AT": (
        *("openat", "openat2", "mkdirat", "mknodat", "unlinkat", "utimensat", "fchmodat"),
        "fchownat",
    ),
    "KT_CALL_THIRD_AT": ("symlinkat",),
    "KT_CALL_FOURTH_AT": ("renameat", "renameat2", "linkat"),
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


class FailureBody(TypedDict):
    error: str
    call: str | None
    path: str | None
    file_system: FileSystem
    process: Process
    count: int
    largest: list[LargeFile] | None


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
        self._below: dict[int, int] = {}  # by device of an overlay
        self._places: dict[tuple[int, bytes], tuple[int, str]] = {}  # by pid and name
        self._files: dict[int, dict[tuple[int, int], LargeFile]] = {}  # by device

    def failure(self, record: Any) -> Event[FailureBody] | None:
        # a path from the root may lead anywhere
        there = (None, None) if record.absolute else (record.device, text(record.type) or None)
        device, kind = self._places.get((record.process_pid, record.name), there)
        if kind in NOT_ON_DISK:
            return None
        if device is not None:
            device = self._below.get(device, device)
        state = self._state_at(device, record.time)
        # a volume that is mounted read-only is meant to be
        if record.error == errno.EROFS and not (state and state.flags & _flags()["READ_ONLY"]):
            return None
        process = self._resolver.process(
            record.process_process, record.process_pid, record.process_tid
        )
        files = sorted(
            self._files.get(device or 0, {}).values(), key=lambda f: f["bytes"], reverse=True
        )
        body: FailureBody = {
            "error": errno.errorcode.get(record.error, str(record.error)),
            "call": _call_name(record.call),
            "path": _path(record),
            "file_system": _file_system(state, device, kind),
            "process": process,
            "count": 1,
            "largest": files[:LARGEST] if state else None,
        }
        event = Event("disk_failure", record.time, process, None, body)
        last = event, bool(text(record.name)), bool(record.absolute)
        keep(self._last, (record.process_pid, record.error, record.device), last, MAX_PLACES)
        return event

    def more(self, record: Any) -> Event[FailureBody] | None:
        """Failures of the process of one that was told. Where paths are given, theirs are not
        known, nor is where those from the root led."""
        found = self._last.get((record.pid, record.error, record.device))
        if found is None:
            return None
        last, named, absolute = found
        body: FailureBody = {**last.body, "count": record.count}
        if named:
            body["path"] = None
        if absolute:
            body["file_system"], body["largest"] = _file_system(None, None, None), None
        return Event("disk_failure", record.time, last.about, None, body)

    def _state_at(self, device: int | None, time: int) -> Any:
        """Of the states around a failure the bad one, because a look comes a moment later."""
        if device is None:
            return None
        state, bad = self._states.get(device), self._bad.get(device)
        if state is None or state.flags or bad is None:
            return state
        return bad if bad.time + STALE_NS >= time else state

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
        place = record.device, text(record.type)
        keep(self._places, (record.pid, record.name), place, MAX_PLACES)

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
        "disk_more": decoder.more,
        "disk_state": decoder.state,
        "disk_overlay": decoder.overlay,
        "disk_place": decoder.place,
        "disk_file": decoder.file,
    }


@cache
def _flags() -> dict[str, int]:
    numbers = shipped("disk").numbers("disk_flags")
    return {name.removeprefix("KT_DISK_"): number for name, number in numbers.items()}


def _call_name(number: int) -> str | None:
    return syscalls.name(_machine(), number)


@cache
def _machine() -> str:
    return {"aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _path(record: Any) -> str | None:
    """As the process itself sees it."""
    names = record.path[: record.path_bytes].split(b"\0")[:-1]
    base = ("/" if record.path_whole else "…/") + "/".join(map(text, reversed(names)))
    name = text(record.name)
    if not name:
        return base if names or record.path_whole else None
    return name if record.absolute else f"{base.rstrip('/')}/{name}"


def device_name(device: int) -> str:
    """`259:1`, as in /proc/PID/mountinfo."""
    return f"{device >> 20}:{device & 0xFFFFF}"


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

    return Watched(schemas, map_of("kt_disk_failing"))


def _looks(schemas: Mapping[str, Schema], _map_of: Any) -> Companion:
    from tracer.probes.disk.companion import Watched

    return Watched(schemas, None)


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
    return bytes(table)


def _room(event: Event[Any]) -> str | None:
    """`0 B of 1 MiB, 0 of 16 inodes`: what is free."""
    system: FileSystem = event.body["file_system"]
    if system["size_bytes"] is None:
        return None
    words = f"{size(system['free_bytes'])} of {size(system['size_bytes'])}"
    if system["inodes"]:
        words += f", {system['free_inodes']} of {system['inodes']} inodes"
    return words


def _where(event: Event[Any]) -> str | None:
    system: FileSystem = event.body["file_system"]
    return system["mount"] or system["device"]


def _what(event: Event[Any]) -> str:
    body = event.body
    if event.kind == "disk_state":
        return str(body["state"]).replace("_", " ")
    if event.kind == "disk_file":
        return f"{size(body['bytes'])} {'deleted' if body['deleted'] else 'open'}"
    return f"{body['error']}" + (f" ({body['call']})" if body["call"] else "")


def _summary(event: Event[Any]) -> str:
    body, where = event.body, _where(event) or "a file system that is not known"
    if event.kind == "disk_state":
        room = f" ({_room(event)} free)" if body["state"] == FULL else ""
        return f"{where} is {_what(event)}{room}"
    who = process_name(event.about)
    if event.kind == "disk_file":
        deleted = "deleted, " if body["deleted"] else ""
        return f"{who} has {body['path']} open, {deleted}{size(body['bytes'])} on {where}"
    times = f", {body['count']} times" if body["count"] > 1 else ""
    return (
        f"{who}: {body['call'] or 'a call'} of {body['path'] or 'a file'}: {body['error']}{times}"
    )


def _grouping(event: Event[Any]) -> Alike:
    body = event.body
    device = body["file_system"]["device"]
    if event.kind == "disk_failure":
        return Alike(("disk_failure", body["error"]), device, body["count"])
    if event.kind == "disk_file":
        return Alike("disk_file", (body["process"].pid, body["descriptor"], device))
    return Alike("disk_state", (body["state"], device))


def _alarm(event: Event[Any]) -> bool:
    in_pod = event.place is not None and event.place.pod is not None
    return in_pod and event.kind == "disk_failure"


_STATES_ONLY = "who met the error, and on which file"

PROBE: Probe[Any] = Probe(
    name="disk",
    object="disk",
    help=summary(__doc__),
    examples=(
        "ktrace disk                  pods that fail on a full disk, or have large files there",
        "ktrace disk --all            also the node's processes, and how each file system is",
        "ktrace disk -o json | jq 'select(.deleted) | .process.pid'",
    ),
    attach_points=(
        AttachPoint(
            "statfs, every second; tp_btf/sys_exit while a file system is full or read-only",
            (),
            cannot_tell=(
                "failures in the first second after a file system became full",
                "file systems that ktrace does not see mounted, and those of servers",
            ),
            companion=_watched,
            nested={"on_sys_exit": "ends of system calls while another was looked at"},
            armed=("on_sys_exit",),
        ),
        AttachPoint(
            "statfs, every second",
            (),
            cannot_tell=(
                _STATES_ONLY,
                "file systems that ktrace does not see mounted, and those of servers",
            ),
            companion=_looks,
        ),
    ),
    decoder=_decoder,
    bodies={"disk_failure": FailureBody, "disk_state": StateBody, "disk_file": FileBody},
    whose={
        "disk_failure": "process_process",
        "disk_state": "cgroup",
        "disk_file": "process_process",
    },
    state={
        "disk_state": ("device",),
        "disk_overlay": ("device",),
        "disk_file": ("process_pid", "descriptor", "device"),
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
