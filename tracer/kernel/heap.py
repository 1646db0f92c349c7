# SPDX-License-Identifier: Apache-2.0
"""Limits the freed memory that the C library keeps.

glibc gives each thread a heap of its own, and serves ever larger blocks from the heaps as larger
blocks are freed. With many threads that mostly wait, the kept memory equals the memory in use.
Python runs one thread at a time, so one heap is enough.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

# Parameters of mallopt(3), from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
# Larger blocks always come from the kernel and go back to it.
BLOCK_BYTES = 128 << 10


def keep_little() -> None:
    """Sets the limits. Call it before any thread starts."""
    with suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_THRESHOLD, BLOCK_BYTES)
        mallopt(_TRIM_THRESHOLD, BLOCK_BYTES)


def give_back() -> None:
    """Returns freed memory to the kernel, in about a millisecond. To load programs takes megabytes
    for a moment, and so does a storm of records. glibc by itself returns only the heap's end, and
    what came later may lie there for ever."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
