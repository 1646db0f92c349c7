# SPDX-License-Identifier: Apache-2.0
"""Names of GFP flags on the running kernel.

The best source is tracefs's format of `kmem:mm_page_alloc`. It needs a mounted tracefs. Since 6.10
(772dd0342727, "mm: enumerate all gfp flags") an enum in the kernel's BTF names the bits. Without
either, flags stay numbers.
"""

from __future__ import annotations

from pathlib import Path

from tracer.decode.gfp import Table, from_bits, from_format
from tracer.kernel.btf import VMLINUX, kernel_enum

TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")


def names_here() -> Table:
    """The running kernel's table; empty if there is no source."""
    for place in TRACEFS:
        try:
            text = Path(place, "events/kmem/mm_page_alloc/format").read_text()
        except (OSError, UnicodeDecodeError):
            continue
        if table := from_format(text):
            return table
    return from_bits(kernel_enum(begins="___GFP_DMA_BIT", path=VMLINUX))
