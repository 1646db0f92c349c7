# SPDX-License-Identifier: Apache-2.0
"""The container's first process ended by a fault of its own: which signal, and why."""

from __future__ import annotations

from tracer.timeline import Entry, Story

# What the kernel raises for a fault, and what abort(3) raises.
FAULTS = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGSYS", "SIGTRAP")
ABORT = "SIGABRT"
SECCOMP = "SYS_SECCOMP"

CODES = {
    "SEGV_MAPERR": "it touched an address where nothing is",
    "SEGV_ACCERR": "it touched memory in a way that is forbidden there",
    "BUS_ADRERR": "it touched a mapped file behind its end, a full tmpfs,"
    " or hugepages of which none was left",
    "BUS_ADRALN": "it touched an unaligned address",
    "BUS_MCEERR_AR": "the memory itself is broken",
    "FPE_INTDIV": "it divided an integer by zero",
    "FPE_INTOVF": "an integer overflowed",
    "ILL_ILLOPN": "an instruction that this processor does not know",
    "SI_KERNEL": "the processor refused an instruction or address",
    "SI_TKILL": "it called abort()",
}


def abort_calls(story: Story) -> list[Entry]:
    """SIGABRT of the first process to itself. As PID 1 it ignores that, and abort(3) ends it with
    an instruction that the processor refuses."""
    return [
        entry
        for entry in story.signals()
        if entry.body["signal"]["name"] == ABORT and story.is_init(entry.event.by)
    ]


def own_fault(story: Story, names: tuple[str, ...]) -> Entry | None:
    """The signal, raised by the kernel or by the process itself, that ended the first process."""
    blow = story.blow()
    if blow is None or blow.body["signal"]["name"] not in names:
        return None
    by_itself = story.is_init(blow.event.by)
    return blow if by_itself or blow.body["origin"] == "kernel" else None
