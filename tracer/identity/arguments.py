# SPDX-License-Identifier: Apache-2.0
"""Arguments of processes, taken from /proc where the kernel side could not read them.

They are written into the descriptions themselves (`struct process_event`) before anything else
reads those. So later readers, also of a recording, need not know where they came from.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

from tracer.identity.resolver import FRUGAL_IMAGES, MAX_IMAGES, exe_of, image_of
from tracer.kernel.bpf_object import shipped
from tracer.kernel.procfs import stat_of
from tracer.model.bounded import Table, keep, size_of
from tracer.model.event import text
from tracer.model.schema import Schema

MAX_RUNNING = 4096
# Bound of the reads, so that a fork bomb does not slow ktrace down.
PROC_READS_A_SECOND = 200
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Arguments:
    """`schema` is the layout of process records. With `blank`, no arguments are kept at all.
    `frugal` is as of a resolver."""

    def __init__(self, schema: Schema, blank: bool = False, *, frugal: bool = False) -> None:
        self._schema = schema
        self._ancestor_bytes = shipped("context").layout("kt_ancestor").size
        self._most = schema.room("argv")
        self._blank = blank
        # by task and exec: its program, and whether its arguments are known
        self._images: Table[tuple[int, int, int], tuple[str | None, bool]] = Table(
            FRUGAL_IMAGES if frugal else MAX_IMAGES, size_of
        )
        self._running: dict[int, tuple[int, str, bytes]] = {}
        self._proc_reads = _Allowance(PROC_READS_A_SECOND)

    def remember(self, pids: Iterable[int]) -> None:
        """Remembers the arguments of running processes: after a kill they cannot be read any
        more."""
        for pid in pids:
            image = _image_from_proc(pid, self._most)
            if image is not None:
                keep(self._running, pid, image, MAX_RUNNING)

    def complete(self, cells: bytes | memoryview) -> bytes:
        """The same cells with arguments, and without remains of earlier records behind the
        ancestors."""
        pack = self._schema.cell.pack
        return b"".join(pack(*self._completed(record)) for record in self._schema.cells(cells))

    def _completed(self, record: Any) -> Any:
        record = record._replace(
            ancestry=record.ancestry[: record.ancestors * self._ancestor_bytes]
        )
        if self._blank:
            return record._replace(argv=b"", argv_bytes=0)
        told_exe, told_argv = self._images.get(image_of(record), (None, False))
        exe = exe_of(record) or told_exe
        known = bool(record.argv_bytes) or told_argv
        if not known and not record.kernel_thread:
            argv = self._from_proc(record, exe)
            record = record._replace(argv=argv, argv_bytes=len(argv))
        self._images.keep(image_of(record), (exe, known or bool(record.argv_bytes)))
        return record

    def _from_proc(self, record: Any, exe: str | None) -> bytes:
        """The arguments read now or at the start, if it was the same process with the same
        program."""
        image = _image_from_proc(record.pid, self._most) if self._proc_reads.take() else None
        started, shown, argv = image or self._running.get(record.pid, (-1, "", b""))
        return argv if started == record.start // _TICK_NS and shown == exe else b""


def _image_from_proc(pid: int, most: int) -> tuple[int, str, bytes] | None:
    """Start time in clock ticks, executable and at most `most` bytes of arguments; None for a
    process that is gone or has none."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            argv = file.read(most)
        started = stat_of(pid)
        exe = os.fsencode(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return None
    return (started.start_ticks, text(exe), argv) if argv and started else None


class _Allowance:
    def __init__(self, a_second: int) -> None:
        self._a_second = a_second
        self._second = 0
        self._taken = 0

    def take(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._taken = second, 0
        self._taken += 1
        return self._taken <= self._a_second
