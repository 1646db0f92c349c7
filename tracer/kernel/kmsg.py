# SPDX-License-Identifier: Apache-2.0
"""The kernel's own lines in the kernel log.

`/dev/kmsg` returns one record per read: `priority,sequence,microseconds,flags;text`, followed by
detail lines that begin with a space (Documentation/ABI/testing/dev-kmsg). A process that may open
the device can write there, too, but not with facility 0, which is the kernel's alone.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass

MAX_RECORD = 8192
# More than the largest log holds. A log that grows during the read must not hold up its reader.
MAX_RECORDS = 200_000


@dataclass(frozen=True, slots=True)
class Line:
    """`boot_ns` is in CLOCK_BOOTTIME, as exact as the log's own clock. `after_gap` says that lines
    before this one were lost."""

    boot_ns: int
    text: str
    after_gap: bool = False


class KernelLog:
    """Reads new lines from now on. Raises OSError if the log cannot be opened."""

    def __init__(self, path: str = "/dev/kmsg") -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._gap = False
        try:
            os.lseek(self._fd, 0, os.SEEK_END)
        except OSError:
            os.close(self._fd)
            raise

    def read(self) -> list[Line]:
        """The lines since the last call; never waits."""
        lines: list[Line] = []
        suspended = _suspended_ns()
        for _ in range(MAX_RECORDS):
            try:
                raw = os.read(self._fd, MAX_RECORD)
            except BrokenPipeError:  # overwritten before it was read
                self._gap = True
                continue
            except OSError:  # nothing more, or no longer allowed
                break
            if not raw:
                break
            line = parse(raw, suspended, self._gap)
            if line:
                lines.append(line)
                self._gap = False
        return lines

    def close(self) -> None:
        os.close(self._fd)


def parse(raw: bytes, suspended_ns: int = 0, after_gap: bool = False) -> Line | None:
    """One record; None if it is not the kernel's, or not a record."""
    found = _RECORD.match(raw)
    if not found or int(found["priority"]) >> 3:
        return None
    text = _ESCAPE.sub(lambda m: bytes([int(m[1], 16)]), found["text"])
    boot_ns = int(found["microseconds"]) * 1000 + suspended_ns
    return Line(boot_ns, text.decode("utf-8", "backslashreplace"), after_gap)


_RECORD = re.compile(rb"(?P<priority>\d+),\d+,(?P<microseconds>\d+),[^;]*;(?P<text>[^\n]*)")
# escapes of unprintable bytes and of the backslash itself
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


def _suspended_ns() -> int:
    """How long the machine has slept since boot; the log's clock stands still then."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
