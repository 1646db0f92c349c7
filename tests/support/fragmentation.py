# SPDX-License-Identifier: Apache-2.0
"""Fragments memory so that large allocations fail; for test guests only.

Started as a program, on Python's standard library alone, it fails as often as its argument says.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

MIB = 1 << 20
LARGE = 4 * MIB
PIPE_BYTES = 64 << 10
DESCRIPTORS = 1 << 16
# the largest sizes of a pipe and of a socket's options
PIPE_SIZE = Path("/proc/sys/fs/pipe-max-size")
OPTMEM = Path("/proc/sys/net/core/optmem_max")
# the kernel compacts memory above this fragmentation index, in thousandths
COMPACTION, NEVER = Path("/proc/sys/vm/extfrag_threshold"), 1000
# the last large pieces are among the kernel's reserves
KEPT, KILOBYTES = Path("/proc/sys/vm/min_free_kbytes"), 1024


def main(times: int) -> None:
    with setting(PIPE_SIZE, 256 * MIB), sending() as send, fragmented() as stack:
        fail_so_often(times, stack, send)


def buddyinfo() -> list[tuple[int, str, list[int]]]:
    """Rows of node, zone, and free pieces by order."""
    rows = []
    for line in Path("/proc/buddyinfo").read_text().splitlines():
        words = line.replace(",", "").split()
        rows.append((int(words[1]), words[3], [int(word) for word in words[4:]]))
    return rows


def order_of(size: int) -> int:
    return (size // mmap.PAGESIZE - 1).bit_length()


@contextmanager
def setting(path: Path, value: int) -> Iterator[None]:
    before = path.read_text()
    try:
        path.write_text(str(value))
        yield
    finally:
        path.write_text(before)


@contextmanager
def fragmented() -> Iterator[ExitStack]:
    """Leaves most memory free but hardly any large piece: pipes use up all large pieces, then all
    but every 16th are emptied. The kernel cannot move the rest."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    # page cache allocated now would later be reclaimed in large pieces
    Path("/proc/sys/vm/drop_caches").write_text("3")
    with setting(COMPACTION, NEVER), setting(KEPT, KILOBYTES), ExitStack() as stack:
        pipes: list[int] = []
        while _has_large_block():
            pipes += [_full_pipe(stack) for _ in range(16)]
        for number, reader in enumerate(pipes):
            if number % 16:
                assert len(os.read(reader, PIPE_BYTES)) == PIPE_BYTES
        yield stack


@contextmanager
def sending() -> Iterator[Callable[[], object]]:
    """Yields a function that asks for a large piece: for a control message of 3 MiB. The kernel has
    no fallback for it, and does not suppress the failure's report."""
    message = [(socket.SOL_SOCKET, 1, b"x" * (3 * MIB))]
    with setting(OPTMEM, 8 * MIB), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        yield lambda: sender.sendmsg([b"x"], message, 0, ("127.0.0.1", 9))


def take_large_block(stack: ExitStack) -> None:
    """Takes a large piece for a pipe's table; fails without a report."""
    pipe = _full_pipe(stack)
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 256 * MIB)


def fail_so_often(times: int, stack: ExitStack, act: Callable[[], object]) -> None:
    """Repeats `act` until that many calls have failed. A remaining large piece is taken after each
    success."""
    failures = 0
    for _ in range(20 * times):
        try:
            act()
        except (MemoryError, OSError):
            failures += 1
        else:
            with suppress(MemoryError, OSError):
                take_large_block(stack)
        if failures == times:
            return
    raise AssertionError(f"only {failures} allocations failed")


def _full_pipe(stack: ExitStack) -> int:
    """The reading end of a full pipe."""
    reader, writer = os.pipe()
    stack.callback(os.close, reader)
    stack.callback(os.close, writer)
    assert os.write(writer, bytes(PIPE_BYTES)) == PIPE_BYTES
    return reader


def _has_large_block() -> bool:
    """Whether a large piece is free. Zone DMA does not count, because it is reserved for callers
    that ask for it, except on machines that have no other: small ones of arm64."""
    zones = buddyinfo()
    usable = [free for _, zone, free in zones if zone != "DMA" or len(zones) == 1]
    return any(sum(free[order_of(LARGE) :]) for free in usable)


if __name__ == "__main__":
    main(int(sys.argv[1]))
