# SPDX-License-Identifier: Apache-2.0
"""The growth of Python's memory."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def growth() -> Iterator[Callable[[], int]]:
    """Yields a function that returns the bytes allocated in the block and still held at its end."""
    gc.collect()
    tracemalloc.start()
    grown = 0
    try:
        yield lambda: grown
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
