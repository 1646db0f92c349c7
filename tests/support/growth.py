# SPDX-License-Identifier: Apache-2.0
"""By how much what Python holds has grown."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def growth() -> Iterator[Callable[[], int]]:
    """What is given tells the bytes that were made in the block and are still there."""
    gc.collect()
    tracemalloc.start()
    grown = 0
    try:
        yield lambda: grown
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
