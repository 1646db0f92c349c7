# SPDX-License-Identifier: Apache-2.0
"""The half of the history that touches the disk: a bounded queue, and behind it a thread that
writes recordings within their bounds and keeps the index.

A disk that is slow, full or dying holds nothing up. What could not be written is counted, and each
failure is told once.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tracer.agent.health import HistoryState
from tracer.agent.history.bounds import Bounds
from tracer.agent.history.entry import Entries
from tracer.agent.history.forcing import Forcing
from tracer.agent.history.indexing import Indexing
from tracer.agent.history.recordings import Recordings
from tracer.agent.history.retention import Retention
from tracer.agent.history.segments import name_of
from tracer.kernel.limits import reason
from tracer.model.errors import KtraceError
from tracer.model.event import Clock
from tracer.recording.files import RecordingFile, close_in_order
from tracer.recording.format import BLOCK_HEADER_BYTES, block_lengths

# Bytes that wait for the disk.
MAX_PENDING = 16 << 20
# The index takes at most this part of the space.
INDEX_PART = 8
FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0
MAX_TOLD = 8
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Begin:
    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Blocks:
    """`entries` are those of a HISTORY block. `until` is the place behind the blocks."""

    data: bytes
    until: int
    entries: Entries | None = None


@dataclass(frozen=True, slots=True)
class End:
    data: bytes


class Disk:
    """What happens in the thread, and the queue in front of it. Only it and `Forcing` touch the
    disk."""

    def __init__(
        self, directory: Path, bounds: Bounds, clock: Clock, say: Callable[[str], None]
    ) -> None:
        self._directory = directory
        self._bounds = bounds
        self._clock = clock
        self._say = say
        self._changed = threading.Condition()
        self._jobs: deque[Begin | Blocks | End] = deque()
        self._pending = 0
        self._stopping = self._busy = False
        self._session = 0
        # Set in the thread, read in both.
        self.broken = False
        self._pause = FIRST_PAUSE
        self._retry_at = self._failed_at = 0.0
        self._failures = self._unrecorded = 0
        # Of the thread alone.
        self._file: RecordingFile | None = None
        self._number = 0
        self._dirty = False
        self._forcing = Forcing(self._forced)
        self._not_forced: OSError | None = None
        self._recordings = Recordings(directory)
        self._retention = Retention(bounds.seconds, clock.offset_ns, self._recordings.newest_ns)
        self._indexing = Indexing(directory, say)
        self._told: list[str] = []
        self.last_number = max(self._recordings.numbers, default=0)
        self._most = bounds.bytes(directory)
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    # The session's thread

    def start(self, session: int) -> None:
        self._session = session
        self._thread.start()

    def next_number(self) -> int:
        self.last_number += 1
        return self.last_number

    def may_begin(self) -> bool:
        """Whether another attempt is due. Then the failure counts as mended until the next."""
        if time.monotonic() < self._retry_at:
            return False
        self.broken = False
        return True

    def put(self, job: Begin | Blocks | End, size: int) -> None:
        with self._changed:
            if self._pending + size > MAX_PENDING and not isinstance(job, End):
                self._break("the disk is too slow")
            else:
                self._jobs.append(job)
                self._pending += size
                self._changed.notify()
                return
        if isinstance(job, Blocks):
            self.leave_out(job.data)

    @property
    def idle(self) -> bool:
        """Whether everything has been written, or left out."""
        with self._changed:
            waits = self._jobs or self._busy or self._not_forced
        return not waits and self._forcing.idle

    def leave_out(self, blocks: bytes) -> None:
        with self._changed:
            self._unrecorded += _events_in(blocks)

    def stop(self, seconds: float) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def state(self) -> HistoryState:
        with self._changed:
            return HistoryState(
                bytes=self._recordings.bytes + self._indexing.bytes,
                most_bytes=self._most,
                files=len(self._recordings.numbers),
                oldest_ns=self._recordings.oldest_ns,
                failures=self._failures + self._indexing.failures,
                unrecorded=self._unrecorded,
                removed=self._recordings.removed,
            )

    # The thread

    def _run(self) -> None:
        self._indexing.mend()
        while (jobs := self._take()) is not None:
            for job in jobs:
                self._do(job)
            if self._file and self._dirty:
                self._dirty = False
                self._forcing.force(self._file)
            if self._indexing.due:
                self._indexing.mend()
        self._indexing.close()

    def _take(self) -> list[Begin | Blocks | End] | None:
        """None at the end."""
        with self._changed:
            self._busy = False
            while not (self._jobs or self._stopping or self._not_forced):
                self._changed.wait()
            self._busy = True
            failure, self._not_forced = self._not_forced, None
            jobs = list(self._jobs)
            self._jobs.clear()
            self._pending = 0
        if failure:
            self._fail(failure)
        return None if self._stopping and not jobs else jobs

    def _do(self, job: Begin | Blocks | End) -> None:
        try:
            if isinstance(job, Begin):
                self._begin(job)
            elif self._file is None:
                if isinstance(job, Blocks):
                    self.leave_out(job.data)
                    self._enter(job.entries)
            elif isinstance(job, Blocks):
                self._append(job.data)
                self._enter(job.entries, job.until)
            else:
                self._close(self._file, job.data)
        except (OSError, KtraceError) as error:
            if isinstance(job, Blocks):
                self.leave_out(job.data)
            self._fail(error)

    def _begin(self, job: Begin) -> None:
        if self._file:
            self._close(self._file)
        with self._changed:
            self._most = self._bounds.bytes(self._directory)
        self._forget()
        now_ns = self._clock.now() + self._clock.offset_ns
        path = self._directory / name_of(job.number, self._session, now_ns)
        self._make_room(len(job.data))
        file = RecordingFile(path)
        self._number = job.number
        self._file = file
        self._grown(file)
        self._append(job.data)
        _sync_directory(self._directory)
        self._recordings.note_oldest()

    def _close(self, file: RecordingFile, end: bytes | None = None) -> None:
        """In order. The index is told that it lacks nothing of it."""
        self._file = None
        self._forcing.settle()
        self._grown(file)
        close_in_order(file, end)
        self._grown(file)
        self._enter(Entries(), file.size)

    def _append(self, data: bytes) -> None:
        assert self._file
        self._make_room(len(data))
        while True:
            try:
                self._file.write(data)
            except OSError as error:
                if error.errno in _FULL and self._recordings.remove_oldest(self._current):
                    continue
                raise
            self._dirty = True
            self._grown(self._file)
            return

    def _forced(self, failure: OSError | None) -> None:
        """What was written survives a loss of power from now on, unless there is a failure. Called
        by `Forcing`."""
        with self._changed:
            if failure:
                self._not_forced = failure
                self._changed.notify()
            elif self._told and time.monotonic() >= self._failed_at + LAST_PAUSE:
                self._told.clear()
                self._pause = FIRST_PAUSE
                self._say("ktrace: the history goes on")

    def _fail(self, error: OSError | KtraceError) -> None:
        file, self._file = self._file, None
        if file:
            self._forcing.settle()
            with suppress(OSError):
                file.close()
        with self._changed:
            self._break(_why(error))

    def _break(self, why: str) -> None:
        self._failures += 1
        self._failed_at = time.monotonic()
        if not self.broken:
            self.broken = True
            self._retry_at = time.monotonic() + self._pause
            self._pause = min(self._pause * 2, LAST_PAUSE)
        self._tell(f"the history has a gap: {why}")

    def _tell(self, words: str) -> None:
        """Each failure once, until writing has gone well for a while."""
        if words not in self._told and len(self._told) < MAX_TOLD:
            self._told.append(words)
            self._say(f"ktrace: {words}; tracing goes on")

    @property
    def _current(self) -> int | None:
        return self._number if self._file else None

    def _grown(self, file: RecordingFile) -> None:
        self._recordings.grown(self._number, file.path, file.size)

    def _make_room(self, needed: int) -> None:
        """Raises OSError if there is none."""
        lacking = self._recordings.bytes + self._indexing.bytes + needed - self._most
        if lacking > 0:
            self._recordings.make_room(lacking, self._current)

    def _forget(self) -> None:
        """What is older than wanted."""
        before_ns = self._retention.before_ns(self._clock.now(), self._clock.offset_ns)
        self._recordings.forget(before_ns, self._current)
        self._indexing.forget(before_ns, self._recordings.numbers, self._most // INDEX_PART)

    def _enter(self, entries: Entries | None, until: int | None = None) -> None:
        """`until` is None if they stand in no recording."""
        if entries is not None:
            now_ns = self._clock.now() + self._clock.offset_ns
            self._indexing.enter(self._number, self._session, until, entries, now_ns)


def _why(error: OSError | KtraceError) -> str:
    """Without the recording's name, which another attempt changes."""
    if isinstance(error, OSError):
        return reason(error)
    return reason(error.__cause__) if isinstance(error.__cause__, OSError) else error.message


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _events_in(blocks: bytes) -> int:
    """The events in whole blocks of our own."""
    at = count = 0
    while at < len(blocks):
        length, _, _, about = block_lengths(blocks[at : at + BLOCK_HEADER_BYTES])
        count += about[2]
        at += BLOCK_HEADER_BYTES + length
    return count
