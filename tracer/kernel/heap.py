# SPDX-License-Identifier: Apache-2.0
"""What the C library keeps of memory that has been given back to it.

glibc gives each thread a heap of its own, and takes larger blocks from them the larger the blocks
are that come back. In a process with many threads, most of which wait, that keeps as much again as
is in use. Python runs one thread at a time: one heap is enough.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

# Parameters of mallopt(3), from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
# Larger blocks come from the kernel and go back to it, whatever came back before.
BLOCK_BYTES = 128 << 10


def keep_little() -> None:
    """From here on; best before there are threads."""
    with suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_THRESHOLD, BLOCK_BYTES)
        mallopt(_TRIM_THRESHOLD, BLOCK_BYTES)


def give_back() -> None:
    """Loading programs takes megabytes for a moment, which glibc would keep for ever."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
