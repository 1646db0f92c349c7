# SPDX-License-Identifier: Apache-2.0
"""Writes lines so that none is cut, whoever stalls and whatever interrupts ktrace.

A pipe takes up to PIPE_BUF bytes at once or not at all (pipe(7)). Whole lines therefore go into a
pipe in pieces of that size, and a signal, also SIGKILL, falls between two of them. Only a longer
line can be cut.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Iterator, Sequence
from typing import BinaryIO, TextIO

# Bytes that every pipe takes at once, whatever the size of its pages (linux/limits.h).
PIPE_BUF = 4096


def write_lines(out: BinaryIO, lines: Sequence[bytes]) -> None:
    """Writes the lines, each with its newline, and flushes."""
    try:
        descriptor = out.fileno()
    except OSError:  # it is in memory
        out.write(b"".join(lines))
        return
    out.flush()
    at_once = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    for piece in _pieces(lines) if at_once else [b"".join(lines)]:
        _write(descriptor, piece)


def write_text(out: TextIO, lines: Sequence[str]) -> None:
    """Writes the lines, which have no newline yet, and flushes."""
    binary: BinaryIO | None = getattr(out, "buffer", None)
    if binary is None:  # it is in memory
        out.write("".join(f"{line}\n" for line in lines))
        return
    out.flush()
    encoding, errors = out.encoding, out.errors or "strict"
    write_lines(binary, [f"{line}\n".encode(encoding, errors) for line in lines])


def _pieces(lines: Sequence[bytes]) -> Iterator[bytes]:
    """Whole lines, as many together as a pipe takes at once, or a longer line by itself."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > PIPE_BUF:
            yield b"".join(piece)
            piece.clear()
            size = 0
        piece.append(line)
        size += len(line)
    if piece:
        yield b"".join(piece)


def _write(descriptor: int, data: bytes) -> None:
    """All of it, also where a write takes a part of it, or where the stream does not wait: a pipe
    whose other holder set O_NONBLOCK."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
