# SPDX-License-Identifier: Apache-2.0
"""How much the C library keeps of what has been given back to it."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Told are whether threads have heaps, each of which begins at a multiple of 64 MiB, and whether a
# large block lies in a heap after another one has been given back.
PROGRAM = """
import ctypes, sys, threading
from tracer.kernel import heap

if sys.argv[1] == "little":
    heap.keep_little()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
together = threading.Barrier(4)

def work():
    libc.malloc(1000)
    together.wait()

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
maps = [line.split() for line in open("/proc/self/maps")]
own = [line[0] for line in maps if line[1:] == ["rw-p", "00000000", "00:00", "0"]]
starts = [int(addresses.split("-")[0], 16) for addresses in own]
libc.free(libc.malloc(8 << 20))
print(any(start % (64 << 20) == 0 for start in starts), libc.malloc(4 << 20) < libc.sbrk(0))
"""


@pytest.mark.parametrize(("how", "told"), [("little", "False False"), ("as usual", "True True")])
def test_one_heap_for_all_threads(how: str, told: str) -> None:
    """And large blocks in none."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split("\n")[0] == told
