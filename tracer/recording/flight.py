# SPDX-License-Identifier: Apache-2.0
"""The flight recorder: keeps the last minutes. When a trigger fires, it writes a recording that
begins with them."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, cast

from tracer.kernel import limits
from tracer.model.errors import KtraceError
from tracer.model.event import Clock, Event
from tracer.recording import SUFFIX
from tracer.recording.files import Beginning, RecordingFile, close_in_order

NS = 1_000_000_000
# The window's space on the disk. When that is full, the window becomes shorter.
MAX_WINDOW = 256 << 20
# The window consists of so many pieces, and is forgotten piece by piece.
PIECES = 8
# An event's block arrives at most this much later.
LAG = 2 * NS
PREFIX = "flight-"
# The trigger of a user's signal, who always gets an answer.
BY_HAND = "SIGUSR1"


@dataclass(slots=True)
class _Piece:
    """Some of the last blocks: first and last time and length of each, and a file with them all."""

    file: BinaryIO
    blocks: list[tuple[int, int, int]] = field(default_factory=list)
    size: int = 0


class Window:
    """The last `span` nanoseconds, in unnamed files that vanish with the process. Disk is cheaper
    than memory."""

    def __init__(self, directory: Path, span: int, max_size: int) -> None:
        self._directory = directory
        self._span = span
        self._max_size = max_size
        self._pieces: deque[_Piece] = deque()

    def add(self, blocks: bytes, first: int, last: int) -> None:
        piece = self._pieces[-1] if self._pieces else None
        old = piece is not None and last - piece.blocks[0][0] > self._span // PIECES
        if piece is None or old or piece.size > self._max_size // PIECES:
            file = TemporaryFile(dir=self._directory)  # noqa: SIM115
            piece = _Piece(cast(BinaryIO, file))
            self._pieces.append(piece)
        piece.file.seek(piece.size)  # `since` may have moved the position
        piece.file.write(blocks)
        piece.file.flush()
        piece.blocks.append((first, last, len(blocks)))
        piece.size += len(blocks)
        while self._is_over(self._pieces[0], last):
            self._pieces.popleft().file.close()

    def since(self, begin: int) -> Iterator[tuple[int, bytes]]:
        """The blocks that end after `begin`, each with its first time."""
        for piece in self._pieces:
            piece.file.seek(0)
            for first, last, length in piece.blocks:
                blocks = piece.file.read(length)
                if last >= begin:
                    yield first, blocks

    def clear(self) -> None:
        while self._pieces:
            self._pieces.pop().file.close()

    def _is_over(self, oldest: _Piece, now: int) -> bool:
        size = sum(piece.size for piece in self._pieces)
        too_many = size > self._max_size and len(self._pieces) > 1
        return too_many or oldest.blocks[-1][1] < now - self._span


class FlightRecorder:
    """A `Destination`. The window is `seconds` long. A recording continues for `after` seconds, and
    no other begins for `cool_down` seconds after it. All recordings in `directory` together take at
    most `max_size` bytes; the oldest make room for a new one. `say` informs the user."""

    resumes, idle = True, False

    def __init__(
        self,
        directory: Path,
        clock: Clock,
        say: Callable[[str], None],
        *,
        seconds: float,
        after: float,
        cool_down: float,
        max_size: int,
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._say = say
        self._span = int(seconds * NS)
        self._window = Window(directory, self._span, min(MAX_WINDOW, max_size // 2))
        self._after = int(after * NS)
        self._cool_down = int(cool_down * NS)
        self._max_size = max_size
        self._fired: str | None = None
        self._quiet_until = 0
        self._file: RecordingFile | None = None
        self._until = 0
        self._forgetting = False
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            TemporaryFile(dir=directory).close()
        except OSError as error:
            problem = f"nothing can be written in {directory}"
            raise limits.reached(problem, error.errno) or KtraceError(
                f"{problem}: {error.strerror}",
                "give another directory with -o",
            ) from error

    def fire(self, why: str) -> None:
        """Asks for a recording. May be called from a signal handler."""
        self._fired = self._fired or why

    def begin(self, beginning: Beginning, now: int) -> None:
        self._beginning = beginning

    def write(self, blocks: bytes, first: int, last: int) -> None:
        try:
            self._window.add(blocks, first, last)
            self._forgetting = False
        except OSError as error:
            if not self._forgetting:
                self._say(f"the last minutes cannot be kept: {limits.reason(error)}")
            self._forgetting = True
            self._window.clear()
        if self._file and first <= self._until:
            self._try(lambda: self._go_on(blocks), last)

    def tick(self, now: int) -> None:
        why, self._fired = self._fired, None
        if self._file and now >= self._until + LAG:
            self._try(self._end, now)
        elif why and not self._file and now >= self._quiet_until:
            self._try(lambda: self._open(why, now), now)
        elif why == BY_HAND and not self._file:
            left = -(-(self._quiet_until - now) // NS)
            self._say(f"{why}: no recording now, the cool-down lasts another {left} s")

    def close(self, end: bytes) -> None:
        if self._file:
            close_in_order(self._file, end)

    def _try(self, write: Callable[[], None], now: int) -> None:
        """A failed recording does not prevent the next."""
        self._quiet_until = now + self._cool_down
        try:
            write()
        except (OSError, KtraceError) as error:
            reason = error.message if isinstance(error, KtraceError) else limits.reason(error)
            self._say(f"a flight recording could not be written: {reason}")
            with suppress(OSError):
                self._end()

    def _open(self, why: str, now: int) -> None:
        begin = now - self._span
        moment = re.sub(r"[-:]|\.\d+", "", self._clock.iso(now))
        word = re.sub(r"\W+", "-", why).strip("-")[:40]
        path = self._directory / f"{PREFIX}{moment}-{word}{SUFFIX}"
        first = next((first for first, _ in self._window.since(begin)), now)
        beginning = self._beginning(first)
        size = len(beginning) + sum(len(blocks) for _, blocks in self._window.since(begin))
        self._make_room(size)
        self._file = RecordingFile(path)
        self._until = now + self._after
        self._file.write(beginning)
        for _, blocks in self._window.since(begin):
            self._file.write(blocks)
        self._say(f"{why}: recording to {path}")

    def _go_on(self, blocks: bytes) -> None:
        assert self._file
        self._make_room(len(blocks))
        if self._file.size + len(blocks) <= self._max_size:
            self._file.write(blocks)
        else:
            self._say(f"{self._file.path} ends early: it has reached its --max-size")
            self._end()

    def _end(self) -> None:
        file, self._file = self._file, None
        if file:
            close_in_order(file)

    def _make_room(self, needed: int) -> None:
        """Removes the oldest recordings: the first ones, since file names begin with the time."""
        files = sorted(self._directory.glob(f"{PREFIX}*{SUFFIX}"))
        sizes = [file.lstat().st_size for file in files]
        while files and sum(sizes) + needed > self._max_size:
            if self._file and files[0] == self._file.path:
                return
            files.pop(0).unlink(missing_ok=True)
            sizes.pop(0)


class Trigger:
    """A sink that fires at events that meet a condition. `conditions` are by the user's text."""

    def __init__(
        self, conditions: dict[str, Callable[[Event], bool]], fire: Callable[[str], None]
    ) -> None:
        self._conditions = conditions
        self._fire = fire

    def event(self, event: Event) -> None:
        for words, holds in self._conditions.items():
            if holds(event):
                self._fire(words)
                return

    def flush(self) -> None: ...
