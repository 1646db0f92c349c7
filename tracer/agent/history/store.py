# SPDX-License-Identifier: Apache-2.0
"""Writes the history: recordings one after the other, within bounds, and the index.

The session's thread only makes blocks and puts them into a bounded queue. A thread writes them and
keeps the index; another forces them to the disk, so that a slow disk leaves nothing in memory that
a kill would take. A disk that is slow, full or dying holds nothing up. What could not be written is
counted; later a new recording begins, with the context that its records refer to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tracer.agent.health import HistoryState
from tracer.agent.history.bounds import Bounds
from tracer.agent.history.disk import Begin, Blocks, Disk, End
from tracer.agent.history.entry import Entries, Told
from tracer.agent.item import Life
from tracer.model.event import Clock
from tracer.recording.files import Beginning
from tracer.recording.format import Kind, json_block

NS = 1_000_000_000
# A history consists of so many recordings or more; none lasts longer than an hour.
PARTS = 16
MIN_PART, MAX_PART = 256 << 10, 64 << 20
HOUR_NS = 3600 * NS
# Lives and verdicts wait at most so long for the next block. With it the disk still has half of the
# second that a kill may cost.
LOOK_NS = NS // 2
# A wall clock that is further off than this was set.
CLOCK_SET_NS = NS
# Blocks of which the place is remembered, until a verdict on their events is told.
MAX_PLACES = 4096
# Lives and verdicts in one block.
MAX_ENTRIES = 256


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
        self._disk = Disk(directory, bounds, clock, say)
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
            self._clock.set(offset)
            self._renew = True
        self._flush()

    def close(self, end: bytes) -> None:
        self._flush()
        self._disk.put(End(end), len(end))

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
        self._clock.set(Clock().offset_ns)  # the clock is also slewed, a little every day
        data = self._beginning(now)
        self._size = self._begun_with = len(data)
        self._began, self._renew = now, False
        self._disk.put(Begin(self._number, data), len(data))

    def _put(self, data: bytes, entries: Entries | None = None) -> None:
        self._size += len(data)
        self._disk.put(Blocks(data, self._size, entries), len(data))
