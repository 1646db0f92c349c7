# SPDX-License-Identifier: Apache-2.0
"""`page allocation failure`, and the failure lines of vmalloc and the slab allocators."""

from __future__ import annotations

from tracer.decode import allocation
from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line


def _read(line: Line, kernel: Kernel) -> Answer | None:
    one = allocation.failure(line.text)
    if one is not None:
        return allocation.sentences(one, kernel)
    return (
        allocation.vmalloc(line.text, kernel)
        or allocation.slab(line.text, kernel)
        or allocation.asked(line.text, kernel)
    )


KIND = Kind(
    _read,
    marks=(
        *("page allocation ", "vmalloc", "Unable to allocate memory on ", "mode:0x"),
        *("object size: ", ": slabs: "),
    ),
    rank=31,
)
