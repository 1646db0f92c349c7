# SPDX-License-Identifier: Apache-2.0
"""Memory in which no large piece is left, so that asking for one fails: for guests made for tests.

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
# the most that a pipe may take, and a socket's options
PIPE_SIZE = Path("/proc/sys/fs/pipe-max-size")
OPTMEM = Path("/proc/sys/net/core/optmem_max")
# above this share of fragmentation, in thousandths, the kernel puts memory together
COMPACTION, NEVER = Path("/proc/sys/vm/extfrag_threshold"), 1000
# the last of the large pieces are among what the kernel keeps for itself
KEPT, KILOBYTES = Path("/proc/sys/vm/min_free_kbytes"), 1024


def main(times: int) -> None:
    with setting(PIPE_SIZE, 256 * MIB), sending() as send, fragmented() as stack:
        fail_so_often(times, stack, send)


def buddyinfo() -> list[tuple[int, str, list[int]]]:
    """Node, zone, and free pieces by order."""
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
    """Most memory is free, and hardly a piece of it large: pipes take it until none is, and
    then all but every 16th of them are emptied. The kernel cannot move what is left."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    # what files take now would be given up later, in large pieces
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
    """Asks for a large piece: for a control message of 3 MiB. The kernel has no other way then, and
    asks for no silence."""
    message = [(socket.SOL_SOCKET, 1, b"x" * (3 * MIB))]
    with setting(OPTMEM, 8 * MIB), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        yield lambda: sender.sendmsg([b"x"], message, 0, ("127.0.0.1", 9))


def take_large_block(stack: ExitStack) -> None:
    """For the table of a pipe; fails in silence."""
    pipe = _full_pipe(stack)
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 256 * MIB)


def fail_so_often(times: int, stack: ExitStack, act: Callable[[], object]) -> None:
    """In all. Whatever large piece is left is taken."""
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
    """Its reading end."""
    reader, writer = os.pipe()
    stack.callback(os.close, reader)
    stack.callback(os.close, writer)
    assert os.write(writer, bytes(PIPE_BYTES)) == PIPE_BYTES
    return reader


def _has_large_block() -> bool:
    """Zone DMA is kept from all who do not ask for it."""
    zones = [free for _, zone, free in buddyinfo() if zone != "DMA"]
    return any(sum(free[order_of(LARGE) :]) for free in zones)


if __name__ == "__main__":
    main(int(sys.argv[1]))
