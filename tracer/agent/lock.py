# SPDX-License-Identifier: Apache-2.0
"""One agent a directory: the lock says who holds it, and ends with its process."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from tracer.kernel.limits import reason
from tracer.model.errors import KtraceError

NAME = "lock"
MAX_HOLDER = 64


class Lock:
    """Makes the directory and takes its lock. Raises `KtraceError` if another agent has it."""

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = _opened(directory)
        except OSError as error:
            raise KtraceError(
                f"nothing can be written in {directory}: {reason(error)}",
                "give another directory with --dir",
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            held = _pid(self._fd)
            os.close(self._fd)
            if error.errno != errno.EWOULDBLOCK:
                raise KtraceError(f"{directory}: {reason(error)}") from error
            raise KtraceError(
                f"another agent, process {held or '?'}, already serves {directory}",
                "one agent a node is enough; for a second one give another directory with --dir",
            ) from error
        with suppress(OSError):  # a disk that takes nothing is no reason not to trace
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._fd)


def holder(directory: Path) -> int | None:
    """The pid of the agent that serves the directory, if one does; 0 if it could not write it."""
    try:
        fd = os.open(directory / NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        held = _pid(fd)
        return int(held) if held.isdigit() else 0
    finally:
        os.close(fd)
    return None


def _opened(directory: Path) -> int:
    """The file to lock. On a file system that is read-only it is one that another agent has made,
    or the directory itself."""
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(directory / NAME, os.O_RDWR | os.O_CREAT | flags, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
    try:
        return os.open(directory / NAME, os.O_RDONLY | flags)
    except FileNotFoundError:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | flags)


def _pid(fd: int) -> str:
    """Of the process that holds it; empty if it could not write that."""
    with suppress(OSError):
        return os.pread(fd, MAX_HOLDER, 0).decode("ascii", "replace").strip()
    return ""
