# SPDX-License-Identifier: Apache-2.0
"""The recordings of a history: how large they are, and which of them go."""

from __future__ import annotations

import calendar
import errno
import threading
import time
from contextlib import suppress
from pathlib import Path

from tracer.agent.history.segments import segments
from tracer.recording import SUFFIX

NS = 1_000_000_000


class Recordings:
    """Changed in one thread, and read in any. The oldest has the smallest number. `current` is the
    number of the recording that is being written, which never goes; None if there is none."""

    def __init__(self, directory: Path) -> None:
        self._lock = threading.Lock()
        self._found = {
            segment.number: (segment.path, segment.path.stat().st_size)
            for segment in segments(directory)
        }
        self.removed = 0
        self.oldest_ns: int | None = None

    @property
    def numbers(self) -> set[int]:
        with self._lock:
            return set(self._found)

    @property
    def bytes(self) -> int:
        with self._lock:
            return sum(size for _, size in self._found.values())

    @property
    def newest_ns(self) -> int | None:
        """When something was last written here."""
        times = []
        for path, _ in self._found.values():
            with suppress(FileNotFoundError):
                times.append(path.stat().st_mtime_ns)
        return max(times, default=None)

    def grown(self, number: int, path: Path, size: int) -> None:
        with self._lock:
            self._found[number] = path, size

    def make_room(self, needed: int, current: int | None) -> None:
        """Removes the oldest until they have `needed` bytes less. Raises OSError if that is not
        enough."""
        most = self.bytes - needed
        while self.bytes > most:
            if not self.remove_oldest(current):
                raise OSError(errno.EFBIG, "its bounds are too narrow")

    def remove_oldest(self, current: int | None) -> bool:
        """Returns whether there was one."""
        number = min(self._found, default=None)
        if number is None or number == current:
            return False
        self._found[number][0].unlink(missing_ok=True)
        with self._lock:
            del self._found[number]
            self.removed += 1
        return True

    def forget(self, before_ns: int, current: int | None) -> None:
        """Removes what is older."""
        for number, (path, _) in sorted(self._found.items()):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime_ns >= before_ns:
                    break
            if number == current:
                break
            self.remove_oldest(current)

    def note_oldest(self) -> None:
        """By its name."""
        moment = self._found[min(self._found)][0].name.split("-")[2].removesuffix(SUFFIX)
        self.oldest_ns = calendar.timegm(time.strptime(moment, "%Y%m%dT%H%M%SZ")) * NS
