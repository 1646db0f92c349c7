# SPDX-License-Identifier: Apache-2.0
"""Files for recordings: readable only by their owner, and never opened through a symbolic link,
which another user may have planted."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tracer.kernel import limits
from tracer.model.errors import KtraceError

# Returns the first bytes of a file whose first turn is at this time. All times here are in
# nanoseconds since boot.
Beginning = Callable[[int], bytes]


class Destination(Protocol):
    """The receiver of a recording's blocks. Every call may raise OSError. `resumes` says whether it
    may begin more than one file, `idle` whether it would only discard what it gets now."""

    resumes: bool

    @property
    def idle(self) -> bool: ...

    def begin(self, beginning: Beginning, now: int) -> None: ...

    def write(self, blocks: bytes, first: int, last: int) -> None:
        """Takes whole blocks, with the times of their first and last turn."""

    def tick(self, now: int) -> None:
        """Called at least once a second."""

    def close(self, end: bytes) -> None:
        """`end` is the last block of a complete recording."""


class Full(OSError):
    """The recording has reached its maximum size."""

    def __init__(self) -> None:
        super().__init__(errno.EFBIG, "it has reached its --max-size")


class RecordingFile:
    """Creates the file, or empties one of our own. Raises `KtraceError` with a remedy."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._fd = create_output(path)

    def write(self, blocks: bytes) -> None:
        """Writes whole blocks. After an OSError the file is as before, and stays whole."""
        try:
            if not os.fstat(self._fd).st_nlink:
                raise FileNotFoundError(errno.ENOENT, "the file was deleted")
            left = memoryview(blocks)
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._fd, self.size)
            raise
        self.size += len(blocks)

    def sync(self) -> None:
        """Returns when the data is on the disk. Raises OSError."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Raises OSError if the data did not reach the disk."""
        try:
            os.fsync(self._fd)
        finally:
            os.close(self._fd)


class SingleFile:
    """A recording in one file, of at most `max_size` bytes. Only `begin` touches the file: tracing
    that cannot begin leaves an older recording as it is."""

    resumes, idle = False, False
    _file: RecordingFile

    def __init__(self, path: Path, max_size: int | None = None) -> None:
        self._path = path
        self._max_size = max_size

    def begin(self, beginning: Beginning, now: int) -> None:
        self._file = RecordingFile(self._path)
        self._file.write(beginning(now))

    def write(self, blocks: bytes, first: int, last: int) -> None:
        if self._max_size is not None and self._file.size + len(blocks) > self._max_size:
            raise Full
        self._file.write(blocks)

    def tick(self, now: int) -> None: ...

    def close(self, end: bytes) -> None:
        close_in_order(self._file, end)


class Stream:
    """A recording of at most `max_size` bytes on a descriptor such as a pipe. If it ends early, its
    reader sees a cut recording."""

    resumes, idle = False, False

    def __init__(self, fd: int, max_size: int | None = None) -> None:
        self._fd = fd
        self._size = 0
        self._max_size = max_size

    def begin(self, beginning: Beginning, now: int) -> None:
        self._write(beginning(now))

    def write(self, blocks: bytes, first: int, last: int) -> None:
        if self._max_size is not None and self._size + len(blocks) > self._max_size:
            raise Full
        self._write(blocks)

    def tick(self, now: int) -> None: ...

    def close(self, end: bytes) -> None:
        self._write(end)

    def _write(self, data: bytes) -> None:
        self._size += len(data)
        left = memoryview(data)
        while left:
            left = left[os.write(self._fd, left) :]


class RotatingFiles:
    """The last `keep` files of at most `max_size` bytes: `path` is the newest, `path.1` the one
    before it. Each can be replayed by itself. Only `begin` touches the first."""

    resumes, idle = True, False
    _file: RecordingFile

    def __init__(self, path: Path, max_size: int, keep: int) -> None:
        self._path = path
        self._max_size = max_size
        self._keep = keep
        self._begun_with = 0

    def begin(self, beginning: Beginning, now: int) -> None:
        self._beginning = beginning
        self._file = RecordingFile(self._path)
        self._file.write(beginning(now))
        self._begun_with = self._file.size

    def write(self, blocks: bytes, first: int, last: int) -> None:
        full = self._file.size + len(blocks) > self._max_size
        if full and self._file.size > self._begun_with:
            close_in_order(self._file)
            self._rotate()
            try:
                self.begin(self._beginning, first)
            except KtraceError as error:
                raise OSError(errno.EIO, error.message) from error
        self._file.write(blocks)

    def tick(self, now: int) -> None: ...

    def close(self, end: bytes) -> None:
        close_in_order(self._file, end)

    def _rotate(self) -> None:
        numbered = [self._path, *(Path(f"{self._path}.{n}") for n in range(1, self._keep))]
        for older, newer in zip(numbered[:0:-1], numbered[-2::-1], strict=True):
            with suppress(FileNotFoundError):
                newer.rename(older)
        if self._keep == 1:
            self._path.unlink(missing_ok=True)


def close_in_order(file: RecordingFile, end: bytes | None = None) -> None:
    """Ends a recording with the block by which readers know that it is complete."""
    from tracer.recording.format import Kind, json_block  # slow: imports zstandard

    try:
        file.write(json_block(Kind.END, {}) if end is None else end)
    finally:
        file.close()


def create_output(path: Path, devices: bool = False) -> int:
    """As `create_private`, for the file of -o. Raises `KtraceError` with a remedy."""
    try:
        return create_private(path, devices)
    except OSError as error:
        problem = f"{path} cannot be written"
        raise limits.reached(problem, error.errno) or KtraceError(
            f"{problem}: {error.strerror}", "give another file with -o"
        ) from error


def create_private(path: Path, devices: bool = False) -> int:
    """A descriptor of a new or emptied file that only its owner may read. `devices` also allows a
    pipe or a character device, which is not emptied."""
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with suppress(FileExistsError):
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    if path.is_symlink():
        raise FileExistsError(errno.EEXIST, "it is a symbolic link", str(path))
    fd = os.open(path, flags)
    try:
        found = os.fstat(fd)
        if devices and (stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode)):
            os.set_blocking(fd, True)
            return fd
        ours = found.st_uid == os.geteuid() and found.st_nlink == 1
        if not stat.S_ISREG(found.st_mode) or not ours:
            raise FileExistsError(errno.EEXIST, "it is not a file of your own", str(path))
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, 0)
    except OSError:
        os.close(fd)
        raise
    return fd
