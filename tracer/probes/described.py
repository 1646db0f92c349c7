# SPDX-License-Identifier: Apache-2.0
"""Processes that a companion finds in /proc, described by records like those of the kernel side."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from tracer.kernel.bpf_object import shipped
from tracer.kernel.cgroupfs import cgroup_of
from tracer.kernel.procfs import stat_of
from tracer.model.path import reversed_names
from tracer.model.schema import Schema


class Described(NamedTuple):
    """A process's number, by which events refer to it, and the records that describe it."""

    process: int
    records: list[bytes]


class Processes:
    """Describes processes of /proc. `schemas` are by event name."""

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._process = schemas["process"]
        self._cgroup = schemas["cgroup"]
        self._serial = 0
        self._limits = shipped("context").numbers("kt_limits")

    def describe(self, pid: int) -> Described | None:
        """None if it has ended, or cannot be read."""
        now = boot_ns()
        self._serial += 1
        # the kernel side's ids end with the number of a CPU
        process = (now + self._serial) << 10 | 1023
        try:
            id_, path = cgroup_of(pid)
            values = process_values(pid, self._process)
        except (OSError, ValueError, IndexError, KeyError):
            return None
        raw = reversed_path(path)
        return Described(
            process,
            [
                self._cgroup.pack(
                    time=now,
                    cgroup=id_,
                    path=raw,
                    path_bytes=len(raw),
                    path_whole=len(raw) < self._limits["KT_CGROUP_PATH_BYTES"],
                ),
                self._process.pack(time=now, process=process, cgroup=id_, **values),
            ],
        )


def process_values(pid: int, schema: Schema) -> dict[str, Any]:
    """The members of a `struct process_event`, as far as /proc has them."""
    limits = shipped("context").numbers("kt_limits")
    found = stat_of(pid)
    if found is None:
        raise ProcessLookupError(pid)
    status = dict(
        line.split(":\t", 1) for line in _read(pid, "status").decode(errors="replace").splitlines()
    )
    argv = _read(pid, "cmdline")
    numbers = status.get("NSpid", str(pid)).split()
    exe = os.fsencode(os.readlink(f"/proc/{pid}/exe"))
    deleted = exe.endswith(b" (deleted)")
    raw = reversed_path(exe.removesuffix(b" (deleted)"))
    whole = len(raw) <= limits["KT_PATH_BYTES"]
    if not whole:
        raw = raw[: raw.rindex(b"\0", 0, limits["KT_PATH_BYTES"]) + 1]
    start = found.start_ticks * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))
    return {
        "start": start,
        "thread_start": start,
        "pid": pid,
        "tid": pid,
        "pid_in_pod": int(numbers[-1]),
        "pid_level": len(numbers) - 1,
        "uid": int(status["Uid"].split()[1]),
        "comm": found.comm,
        "argv": argv[: schema.room("argv")],
        "argv_bytes": len(argv),
        "exe": raw,
        "exe_bytes": len(raw),
        "exe_whole": whole,
        "exe_deleted": deleted,
        **_ancestry(found.parent, limits["KT_ANCESTORS"]),
    }


def _ancestry(parent: int, most: int) -> dict[str, Any]:
    """Nearest first: `struct kt_ancestor`, a pid and a comm."""
    pack = shipped("context").layout("kt_ancestor").struct.pack
    raw, count = b"", 0
    while parent and count < most:
        found = stat_of(parent)
        if found is None:
            break
        raw += pack(parent, found.comm)
        count += 1
        parent = found.parent
    return {"ancestry": raw, "ancestors": count}


def _read(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read(1 << 16)


def reversed_path(path: str | bytes) -> bytes:
    raw = os.fsencode(path) if isinstance(path, str) else path
    return reversed_names([name for name in raw.split(b"/") if name])


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
