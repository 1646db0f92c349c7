# SPDX-License-Identifier: Apache-2.0
"""Who holds a lock since before the start. The kernel keeps only the number of the process that
took it, so /proc has to tell the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from tracer.kernel.devices import device_number
from tracer.model.schema import Schema
from tracer.probes.described import Processes

MAX_HOLDERS = 64  # in one read of the ring
MAX_DESCRIPTORS = 4096


class Holders:
    interval: float | None = None
    hears = "file_lock"

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._processes = Processes(schemas)
        self._holder = schemas["lock_holder"]
        self._heard: dict[int, tuple[int, int]] = {}  # the file's device and inode, by holder

    def hear(self, records: Iterator[Any]) -> None:
        for record in records:
            if record.holder_pid and not record.holder_process and len(self._heard) < MAX_HOLDERS:
                self._heard[record.holder_pid] = record.device, record.inode

    def records(self, fresh: frozenset[str]) -> list[bytes]:
        heard, self._heard = self._heard, {}
        out: list[bytes] = []
        for pid, file in heard.items():
            described = self._processes.describe(pid) if _has_open(pid, file) else None
            if described is not None:
                record = self._holder.pack(pid=pid, process=described.process)
                out += [*described.records, record]
        return out

    def close(self) -> None:
        """Nothing is kept open."""


def _has_open(pid: int, file: tuple[int, int]) -> bool:
    """Else the number is another process's by now: a child of the first one may hold the lock."""
    try:
        for count, name in enumerate(os.listdir(f"/proc/{pid}/fd")):
            if count >= MAX_DESCRIPTORS:
                break
            found = os.stat(f"/proc/{pid}/fd/{name}")
            device = device_number(found.st_dev)
            if (device, found.st_ino) == file:
                return True
    except OSError:
        pass
    return False


def holders_here(schemas: Mapping[str, Schema], _map_of: Any) -> Holders:
    return Holders(schemas)
