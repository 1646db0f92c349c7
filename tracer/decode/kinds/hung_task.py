# SPDX-License-Identifier: Apache-2.0
"""Hung tasks and processors: kernel/hung_task.c, kernel/watchdog.c, RCU's stalls."""

from __future__ import annotations

import re

from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line

_HUNG = re.compile(
    r"(?:INFO: )?task (?P<comm>[^\n]{1,64}):(?P<pid>\d{1,10}) blocked (?P<io>in I/O wait )?for more"
    r" than (?P<seconds>\d{1,10}) seconds"
)
_OWNER = re.compile(
    r"task (?P<comm>[^\n]{1,64}):(?P<pid>\d{1,10}) (?:<\w{1,10}> |is )?blocked on"
    r" (?P<what>[^\n]{1,80}?)"
    r"(?:,? likely|, but the owner is not found| owned by| last held by|\.|\Z)"
    r"(?:[^\n]{0,60}?task (?P<owner>[^\n]{1,64}):(?P<owner_pid>\d{1,10}))?"
)
_SOFT = re.compile(
    r"BUG: soft lockup - CPU#(?P<cpu>\d{1,5}) stuck for (?P<seconds>\d{1,10})s!"
    r"(?: \[(?P<comm>[^\n]{1,64}):(?P<pid>\d{1,10})\])?"
)
_HARD = re.compile(r"(?:Watchdog detected hard LOCKUP|hard LOCKUP) on cpu ?(?P<cpu>\d{1,5})", re.I)
_RCU = re.compile(
    r"(?P<flavour>rcu\w{0,20}) (?:kthread starved|self-detected stall|"
    r"detected (?:expedited )?stalls)"
)


def _read(line: Line, _kernel: Kernel) -> Answer | None:
    text = line.text
    if found := _HUNG.search(text):
        what = (
            "for I/O" if found["io"] else "in the kernel, mostly for a disk, a network file system"
        )
        return [
            f"{found['comm']}, pid {found['pid']}, has waited for {found['seconds']} s {what}"
            + ("" if found["io"] else " or a lock"),
            "no signal ends it meanwhile, SIGKILL neither; the call trace behind it says for what",
        ]
    if found := _SOFT.search(text):
        who = f"{found['comm']}, pid {found['pid']}," if found["comm"] else "a task"
        return [
            f"soft lockup: {who} has kept processor {found['cpu']} in the kernel for"
            f" {found['seconds']} s, and nobody else ran there",
            "on a virtual machine, mostly because its host gave it no time; else a kernel fault",
        ]
    if found := _HARD.search(text):
        return [
            f"hard lockup: processor {found['cpu']} has not even taken interrupts",
            "a fault of the kernel or the machine; on a virtual one, perhaps a host without time",
        ]
    if found := _OWNER.search(text):
        lines = [f"{found['comm']}, pid {found['pid']}, waits for {found['what']}"]
        if found["owner"]:
            lines.append(f"  which {found['owner']}, pid {found['owner_pid']}, holds or held")
        return lines
    if found := _RCU.search(text):
        return [
            f"{found['flavour']} stall: a processor has not passed through the scheduler for long",
            "on a virtual machine, mostly because its host gave it no time; else a kernel fault",
        ]
    return None


KIND = Kind(_read, marks=(" blocked ", "lockup", "LOCKUP", "rcu"), rank=41)
