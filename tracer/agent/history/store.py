# SPDX-License-Identifier: Apache-2.0
"""Writes the history: recordings one after the other, within bounds, and the index.

The session's thread only makes blocks and puts them into a bounded queue. A thread writes them and
keeps the index; another forces them to the disk, so that a slow disk leaves nothing in memory that
a kill would take. A disk that is slow, full or dying holds nothing up. What could not be written is
counted; later a new recording begins, with the context that its records refer to.
"""

from __future__ import annotations

import calendar
import errno
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tracer.agent.health import HistoryState
from tracer.agent.history import INDEX
from tracer.agent.history.bounds import Bounds
from tracer.agent.history.entry import Entries, Told
from tracer.agent.history.index import Damaged, Index, remove
from tracer.agent.history.intake import take_in
from tracer.agent.history.segments import name_of, segments
from tracer.agent.item import Life
from tracer.kernel.limits import reason
from tracer.model.errors import KtraceError
from tracer.model.event import Clock
from tracer.recording import SUFFIX
from tracer.recording.files import Beginning, RecordingFile, close_in_order
from tracer.recording.format import BLOCK_HEADER_BYTES, Kind, block_lengths, json_block

NS = 1_000_000_000
# Bytes that wait for the disk.
MAX_PENDING = 16 << 20
# A history consists of so many recordings or more; none lasts longer than an hour.
PARTS = 16
MIN_PART, MAX_PART = 256 << 10, 64 << 20
HOUR_NS = 3600 * NS
# The index takes at most this part of the space.
INDEX_PART = 8
# Lives and verdicts wait at most so long for the next block. With it the disk still has half of the
# second that a kill may cost.
LOOK_NS = NS // 2
FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0
# A wall clock that is further off than this was set.
CLOCK_SET_NS = NS
# Blocks of which the place is remembered, until a verdict on their events is told.
MAX_PLACES = 4096
MAX_TOLD = 8
# Lives and verdicts in one block.
MAX_ENTRIES = 256
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class _Begin:
    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class _Blocks:
    """`entries` are those of a HISTORY block. `until` is the place behind the blocks."""

    data: bytes
    until: int
    entries: Entries | None = None


@dataclass(frozen=True, slots=True)
class _End:
    data: bytes


class Store:
    """A `tracer.recording.files.Destination` that never fails. `clock` is the session's: if the
    wall clock is set, it gets a new offset, and a new recording begins."""

    resumes, idle = True, False

    def __init__(
        self, directory: Path, clock: Clock, bounds: Bounds, say: Callable[[str], None]
    ) -> None:
        self._clock = clock
        self._bounds = bounds
        self._most = bounds.bytes(directory)
        part = max(MIN_PART, min(MAX_PART, self._most // PARTS))
        self._part = min(part, self._most // 4)  # of a history that is very small
        self._disk = _Disk(directory, bounds, clock, say)
        self._say = say
        self._session = self._number = self._disk.last_number + 1
        self._size = self._begun_with = self._began = 0
        self._renew = False
        self._next_look = 0
        self._places: deque[tuple[int, int, int, int]] = deque(maxlen=MAX_PLACES)
        self._lives: list[Life] = []
        self._told: list[tuple[Told, int]] = []

    @property
    def state(self) -> HistoryState:
        return self._disk.state

    @property
    def waiting(self) -> bool:
        """Whether lives or verdicts are still to be written."""
        return bool(self._lives or self._told)

    def begin(self, beginning: Beginning, now: int) -> None:
        self._beginning = beginning
        self._disk.start(self._session)
        self._start(now)

    def write(self, blocks: bytes, first: int, last: int) -> None:
        if self._disk.broken:
            if not self._disk.may_begin():
                self._disk.leave_out(blocks)
                return
            self._start(first)
        elif self._is_over(last):
            self._start(first)
        self._places.append((first, last, self._number, self._size))
        self._put(blocks)
        self._flush()

    def tick(self, now: int) -> None:
        if now < self._next_look:
            return
        self._next_look = now + LOOK_NS
        offset = Clock().offset_ns
        off = offset - self._clock.offset_ns
        if abs(off) >= CLOCK_SET_NS:
            self._say(f"ktrace: the clock was set by {off / NS:+.0f} s; times are by the new one")
            self._clock.offset_ns = offset
            self._renew = True
        self._flush()

    def close(self, end: bytes) -> None:
        self._flush()
        self._disk.put(_End(end), len(end))

    def finish(self, seconds: float) -> None:
        """Waits until everything is written, for at most so long. Call it after `close`."""
        self._disk.stop(seconds)

    def live(self, life: Life) -> None:
        """A container that began or ended, or of which more is known now."""
        self._lives.append(life)
        self._flush_many()

    def tell(self, told: Told, boot_ns: int) -> None:
        """A verdict, and the time of its first evidence."""
        self._told.append((told, boot_ns))
        self._flush_many()

    def _flush_many(self) -> None:
        """A block has a bound of its own."""
        if len(self._lives) + len(self._told) >= MAX_ENTRIES:
            self._flush()

    def _flush(self) -> None:
        """Writes lives and verdicts, of which the evidence has been written by now."""
        if not (self._lives or self._told):
            return
        verdicts = []
        for told, boot_ns in self._told:
            segment, offset = self._place(boot_ns)
            verdicts.append(replace(told, segment=segment, offset=offset))
        entries = Entries(tuple(self._lives), tuple(verdicts))
        self._lives, self._told = [], []
        self._put(json_block(Kind.HISTORY, entries.json()), entries)

    def _place(self, boot_ns: int) -> tuple[int, int]:
        """The recording and the offset of the block with this moment, or of the first behind it."""
        for _first, last, number, offset in self._places:
            if last >= boot_ns:
                return number, offset
        return self._number, self._size

    def _is_over(self, now: int) -> bool:
        full = self._size - self._begun_with >= self._part
        return full or self._renew or now - self._began >= HOUR_NS

    def _start(self, now: int) -> None:
        self._number = self._disk.next_number()
        self._clock.offset_ns = Clock().offset_ns  # the clock is also slewed, a little every day
        data = self._beginning(now)
        self._size = self._begun_with = len(data)
        self._began, self._renew = now, False
        self._disk.put(_Begin(self._number, data), len(data))

    def _put(self, data: bytes, entries: Entries | None = None) -> None:
        self._size += len(data)
        self._disk.put(_Blocks(data, self._size, entries), len(data))


class _Forcing:
    """Forces files to the disk, in a thread of its own. `done` gets the failure of each attempt, or
    None."""

    def __init__(self, done: Callable[[OSError | None], None]) -> None:
        self._done = done
        self._changed = threading.Condition()
        self._file: RecordingFile | None = None
        self._busy = False
        self._thread = threading.Thread(target=self._run, name="history sync", daemon=True)

    def force(self, file: RecordingFile) -> None:
        """Never blocks."""
        if not self._thread.is_alive():
            self._thread.start()
        with self._changed:
            self._file = file
            self._changed.notify_all()

    def settle(self) -> None:
        """Waits for the present attempt, and makes no other: the file is about to be closed."""
        with self._changed:
            self._file = None
            while self._busy:
                self._changed.wait()

    @property
    def idle(self) -> bool:
        with self._changed:
            return self._file is None and not self._busy

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._file is None:
                    self._changed.wait()
                file, self._file, self._busy = self._file, None, True
            failure = None
            try:
                file.sync()
            except OSError as error:
                failure = error
            self._done(failure)
            with self._changed:
                self._busy = False
                self._changed.notify_all()


class _Disk:
    """What happens in the thread, and the queue in front of it. Only it and `_Forcing` touch the
    disk."""

    def __init__(
        self, directory: Path, bounds: Bounds, clock: Clock, say: Callable[[str], None]
    ) -> None:
        self._directory = directory
        self._bounds = bounds
        self._clock = clock
        self._say = say
        self._changed = threading.Condition()
        self._jobs: deque[_Begin | _Blocks | _End] = deque()
        self._pending = 0
        self._stopping = self._busy = False
        self._session = 0
        # Set in the thread, read in both.
        self.broken = False
        self._pause = FIRST_PAUSE
        self._retry_at = self._failed_at = 0.0
        self._failures = self._unrecorded = self._removed = 0
        # Of the thread alone.
        self._file: RecordingFile | None = None
        self._number = 0
        self._dirty = False
        self._forcing = _Forcing(self._forced)
        self._not_forced: OSError | None = None
        self._sizes: dict[int, tuple[Path, int]] = {}
        self._index: Index | None = None
        self._index_at = 0.0
        self._index_bytes = 0
        self._index_told = False
        self._told: list[str] = []
        self._oldest: int | None = None
        for segment in segments(directory):
            self._sizes[segment.number] = segment.path, segment.path.stat().st_size
        self.last_number = max(self._sizes, default=0)
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

    def put(self, job: _Begin | _Blocks | _End, size: int) -> None:
        with self._changed:
            if self._pending + size > MAX_PENDING and not isinstance(job, _End):
                self._break("the disk is too slow")
            else:
                self._jobs.append(job)
                self._pending += size
                self._changed.notify()
                return
        if isinstance(job, _Blocks):
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
            sizes = [size for _, size in self._sizes.values()]
            return HistoryState(
                bytes=sum(sizes) + self._index_bytes,
                most_bytes=self._most,
                files=len(sizes),
                oldest_ns=self._oldest,
                failures=self._failures,
                unrecorded=self._unrecorded,
                removed=self._removed,
            )

    # The thread

    def _run(self) -> None:
        self._mend_index()
        while (jobs := self._take()) is not None:
            for job in jobs:
                self._do(job)
            if self._file and self._dirty:
                self._dirty = False
                self._forcing.force(self._file)
            if self._index is None and time.monotonic() >= self._index_at:
                self._mend_index()
        if self._index:
            self._index.close()

    def _take(self) -> list[_Begin | _Blocks | _End] | None:
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

    def _do(self, job: _Begin | _Blocks | _End) -> None:
        try:
            if isinstance(job, _Begin):
                self._begin(job)
            elif self._file is None:
                if isinstance(job, _Blocks):
                    self.leave_out(job.data)
                    self._enter(job.entries)
            elif isinstance(job, _Blocks):
                self._append(job.data)
                self._enter(job.entries, job.until)
            else:
                self._close(self._file, job.data)
        except (OSError, KtraceError) as error:
            if isinstance(job, _Blocks):
                self.leave_out(job.data)
            self._fail(error)

    def _begin(self, job: _Begin) -> None:
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
        self._grown(0)
        self._append(job.data)
        _sync_directory(self._directory)
        with self._changed:
            self._oldest = _began_ns(self._sizes[min(self._sizes)][0])

    def _close(self, file: RecordingFile, end: bytes | None = None) -> None:
        """In order. The index is told that it lacks nothing of it."""
        self._file = None
        self._forcing.settle()
        self._grown(file.size)
        close_in_order(file, end)
        self._grown(file.size)
        self._enter(Entries(), file.size)

    def _append(self, data: bytes) -> None:
        assert self._file
        self._make_room(len(data))
        while True:
            try:
                self._file.write(data)
            except OSError as error:
                if error.errno in _FULL and self._remove_oldest():
                    continue
                raise
            self._dirty = True
            self._grown(self._file.size)
            return

    def _forced(self, failure: OSError | None) -> None:
        """What was written survives a loss of power from now on, unless there is a failure. Called
        by `_Forcing`."""
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

    # Bounds

    def _grown(self, size: int) -> None:
        assert self._file or self._number
        with self._changed:
            path = self._sizes[self._number][0] if self._number in self._sizes else None
            if path is None:
                assert self._file
                path = self._file.path
            self._sizes[self._number] = path, size

    def _make_room(self, needed: int) -> None:
        """Removes the oldest recordings. Raises OSError if that is not enough."""
        while True:
            total = sum(size for _, size in self._sizes.values()) + self._index_bytes
            if total + needed <= self._most:
                return
            if not self._remove_oldest():
                raise OSError(errno.EFBIG, "its bounds are too narrow")

    def _remove_oldest(self) -> bool:
        """Removes the oldest recording but the current one; returns whether there was one."""
        number = min(self._sizes, default=self._number)
        if number == self._number and self._file:
            return False
        if number not in self._sizes:
            return False
        self._sizes[number][0].unlink(missing_ok=True)
        with self._changed:
            del self._sizes[number]
            self._removed += 1
        return True

    def _forget(self) -> None:
        """Removes what is older than wanted. Age is by the wall clock: one that was set back
        removes nothing."""
        before_ns = time.time_ns() - int(self._bounds.seconds * NS)
        for number, (path, _) in sorted(self._sizes.items()):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime_ns >= before_ns:
                    break
            if number == self._number and self._file:
                break
            self._remove_oldest()
        if self._index:
            with _IndexMayFail(self):
                self._index.forget(before_ns, set(self._sizes), self._most // INDEX_PART)
                self._index_bytes = self._index.bytes

    # The index

    def _enter(self, entries: Entries | None, until: int | None = None) -> None:
        """`until` is None if they stand in no recording."""
        if self._index is None or entries is None:
            return
        now_ns = self._clock.now() + self._clock.offset_ns
        with _IndexMayFail(self):
            self._index.take(self._number, self._session, until, entries, now_ns)
            self._index_bytes = self._index.bytes

    def _mend_index(self) -> None:
        """Opens the index, makes it again if it cannot be used, and takes in what it lacks."""
        path = self._directory / INDEX
        with _IndexMayFail(self):
            try:
                self._index = Index(path, whole=True)
            except Damaged as error:
                self._say(f"ktrace: the index of the history is made again: {error}")
                remove(path)
                self._index = Index(path)
            take_in(self._index, self._directory)
            self._index_bytes = self._index.bytes
            self._index_told = False

    def index_failed(self, error: Exception) -> None:
        """It is opened again later, and what it lacks then is still in the recordings."""
        if self._index:
            with suppress(sqlite3.Error):
                self._index.close()
        self._index = None
        self._index_at = time.monotonic() + LAST_PAUSE
        with self._changed:
            self._failures += 1
        if not self._index_told:
            self._index_told = True
            later = "it is made from the recordings later"
            self._say(f"ktrace: the index cannot be written: {error}; {later}")


class _IndexMayFail:
    """What fails in it is the index's failure, not the history's."""

    def __init__(self, disk: _Disk) -> None:
        self._disk = disk

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, sqlite3.Error | OSError | Damaged):
            self._disk.index_failed(error)
            return True
        return False


def _why(error: OSError | KtraceError) -> str:
    """Without the recording's name, which another attempt changes."""
    if isinstance(error, OSError):
        return reason(error)
    return reason(error.__cause__) if isinstance(error.__cause__, OSError) else error.message


def _began_ns(path: Path) -> int:
    """By its name."""
    moment = path.name.split("-")[2].removesuffix(SUFFIX)
    return calendar.timegm(time.strptime(moment, "%Y%m%dT%H%M%SZ")) * NS


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
