# SPDX-License-Identifier: Apache-2.0
"""What stands in the kernel on behalf of tracing programs, whoever holds it."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import Self

KPROBES = Path("/sys/kernel/debug/kprobes/list")
KPROBE_EVENTS = Path("/sys/kernel/tracing/kprobe_events")
_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
_PROG_GET_NEXT_ID, _MAP_GET_NEXT_ID = 11, 12


@dataclass(frozen=True)
class InKernel:
    """Ids of BPF programs and maps, and where functions are probed. `events` outlive whoever made
    them."""

    programs: frozenset[int]
    maps: frozenset[int]
    probed: frozenset[str]
    events: str

    @classmethod
    def now(cls) -> Self:
        return cls(
            frozenset(_ids(_PROG_GET_NEXT_ID)),
            frozenset(_ids(_MAP_GET_NEXT_ID)),
            frozenset(KPROBES.read_text().splitlines()),
            KPROBE_EVENTS.read_text(),
        )


def _ids(command: int) -> Iterator[int]:
    """bpf(2) tells the next one after an id, until there is none."""
    attributes = (ctypes.c_uint32 * 32)()
    libc = ctypes.CDLL(None, use_errno=True)
    while libc.syscall(_BPF, command, ctypes.byref(attributes), ctypes.sizeof(attributes)) == 0:
        yield attributes[1]
        attributes[0] = attributes[1]
    assert ctypes.get_errno() == 2, os.strerror(ctypes.get_errno())
