# SPDX-License-Identifier: Apache-2.0
"""Failures of the whole machine: panics, faults of the kernel, broken memory."""

from __future__ import annotations

import re

from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line

_PANIC = re.compile(r"Kernel panic - not syncing: (?P<why>[^\n]{1,200})")
_MEMORY = re.compile(
    r"(?:MCE|Memory failure)[^\n]{0,40}?: (?:Killing|Sending SIGBUS to) (?P<comm>[^\n]{1,64}):"
    r"(?P<pid>\d{1,10}) "
)
_MCE = re.compile(r"(?:mce: )?\[Hardware Error\]: (?P<what>[^\n]{1,120})")
_EDAC = re.compile(r"EDAC MC\d{1,3}: (?P<count>\d{1,9}) (?P<kind>CE|UE)\b")
_OOPS = re.compile(
    r"BUG: kernel NULL pointer dereference|BUG: unable to handle|BUG: scheduling while atomic|"
    r"Unable to handle kernel |general protection fault[^\n]{0,60}: 0000 \[#\d"
)
_BAD = re.compile(r"BUG: Bad (?P<what>page (?:state|map)|rss-counter state)")
_KERNEL_BUG = re.compile(r"kernel BUG at (?P<where>[^\s!]{1,200})")
# fs/drop_caches.c; arch/x86/kernel/cpu
_DROPPED = re.compile(
    r"(?P<comm>[^\n:]{1,64}) ?\((?P<pid>\d{1,10})\): drop_caches: (?P<what>\d{1,4})"
)
_SPLIT_LOCK = re.compile(
    r"#AC: (?P<comm>[^\n]{1,64})/(?P<pid>\d{1,10}) took a (?P<what>split_lock|bus_lock) trap"
)
_WARNING = re.compile(
    r"WARNING: CPU: (?P<cpu>\d{1,5}) PID: (?P<pid>\d{1,10}) at (?P<where>\S{1,200})"
)


def _read(line: Line, _kernel: Kernel) -> Answer | None:
    text = line.text
    if found := _PANIC.search(text):
        return [
            f"the kernel panicked: {found['why'].strip()}",
            "the whole machine stopped here; every pod on it ended with it",
        ]
    if found := _MEMORY.search(text):
        return [
            f"{found['comm']}, pid {found['pid']}, was killed because a page of its memory is"
            " broken (hardware): SIGBUS",
        ]
    if found := _MCE.search(text):
        return [f"the hardware reports an error: {found['what']}"]
    if found := _EDAC.search(text):
        what = "corrected" if found["kind"] == "CE" else "could not correct"
        return [f"the memory {what} {found['count']} errors: a module may be failing"]
    if found := _KERNEL_BUG.search(text):
        return [f"a fault of the kernel itself, at {found['where']}: the running task was ended"]
    if found := _BAD.search(text):
        return [
            f"the kernel found a bad {found['what']}: a fault of the kernel, or of the memory's"
            " hardware; it goes on, and the process that is named need not be at fault"
        ]
    if found := _OOPS.search(text):
        return [
            "a fault of the kernel itself (oops): the running task was ended, locks may be held"
        ]
    if found := _DROPPED.search(text):
        return [
            f"{found['comm'].strip()}, pid {found['pid']}, had the kernel drop its caches: files"
            " are read from the disk again, which is slow for a while"
        ]
    if found := _SPLIT_LOCK.search(text):
        return [
            f"{found['comm']}, pid {found['pid']}, locks data across two cache lines, which stops"
            " all processors for a moment: the kernel slows it down (split_lock_detect)"
        ]
    if found := _WARNING.search(text):
        return [f"the kernel warns of itself, at {found['where']}; pid {found['pid']} was running"]
    return None


KIND = Kind(
    _read,
    marks=(
        *("panic", "Killing ", "Sending SIGBUS", "Hardware Error", "EDAC", "BUG: ", "kernel BUG"),
        *(
            "WARNING: CPU",
            "Unable to handle kernel",
            "general protection fault",
            "drop_caches",
            "#AC: ",
        ),
    ),
    rank=33,
)
