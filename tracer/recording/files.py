# SPDX-License-Identifier: Apache-2.0
"""Files that recordings are written to: for their owner's eyes only, and never through a symbolic
link that somebody else may have put there."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tracer.errors import KtraceError


class Destination(Protocol):
    """Where blocks go. Every call may raise OSError."""

    def begin(self, beginning: bytes) -> None:
        """What every recording begins with."""

    def write(self, blocks: bytes) -> None: ...

    def close(self, end: bytes) -> None: ...


class RecordingFile:
    """Creates the file, or empties one that is ours. Raises `KtraceError` with a remedy."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        try:
            self._fd = _create(path)
        except OSError as error:
            raise KtraceError(
                f"{path} cannot be written: {error.strerror}", "give another file with -o"
            ) from error

    def write(self, blocks: bytes) -> None:
        """Writes whole blocks, or nothing and raises OSError: what is in the file stays whole."""
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

    def close(self) -> None:
        """Raises OSError if what was written did not reach the disk."""
        try:
            os.fsync(self._fd)
        finally:
            os.close(self._fd)


class SingleFile:
    """A recording in one file."""

    def __init__(self, path: Path) -> None:
        self._file = RecordingFile(path)

    def begin(self, beginning: bytes) -> None:
        self._file.write(beginning)

    def write(self, blocks: bytes) -> None:
        self._file.write(blocks)

    def close(self, end: bytes) -> None:
        try:
            self._file.write(end)
        finally:
            self._file.close()


def _create(path: Path) -> int:
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with suppress(FileExistsError):
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    fd = os.open(path, flags)
    try:
        found = os.fstat(fd)
        ours = found.st_uid == os.geteuid() and found.st_nlink == 1
        if not stat.S_ISREG(found.st_mode) or not ours:
            raise FileExistsError(errno.EEXIST, "it is not a file of your own")
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, 0)
    except OSError:
        os.close(fd)
        raise
    return fd
