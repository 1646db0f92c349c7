# SPDX-License-Identifier: Apache-2.0
"""What the tests of this folder compare events with: every field, and nothing more than that."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tests.support.ktrace import Ktrace
from tests.support.raisers import check_process
from tracer.kernel import node

# A prime, so that nothing that works in pairs or in tens passes by chance.
TIMES = 23

# Some virtual machines' kernels run no BPF program while a task of the machine's own agent is
# current, though ftrace sees the tracepoint pass. A signal that an interrupt raises at such a
# moment is not seen, whoever it is for. What is raised in interrupts is tried so often; one try
# must be complete.
TRIES = 6

Event = dict[str, Any]
Facts = dict[str, Any]

SIGNAL_KEYS = ["kind", "time", "boot_ns", "node", "pod", "container"]
SIGNAL_KEYS += ["signal", "origin", "sender", "target"]  # and target_state, where it is told
EXIT_KEYS = [*SIGNAL_KEYS[:6], "process", "exit_code", "signal", "core_dumped", "container_exit"]
EXIT_KEYS += ["meaning"]


def check_signal(
    event: Event,
    number: int,
    code: str,
    sender: Facts | None,
    target: Facts,
    *,
    name: str | None = None,
    result: str = "delivered",
    state: str | None = None,
) -> None:
    """A signal between processes that are in no pod; without a sender it came from the kernel. A
    target that is not to be in a certain state may run, or die of it."""
    assert [key for key in event if key != "target_state"] == SIGNAL_KEYS
    assert event["kind"] == "signal"
    check_circumstances(event)
    assert event["signal"] == {
        "number": number,
        "name": name or signal.Signals(number).name,
        "code": code,
        "result": result,
    }
    check_process(event["target"], target)
    assert event.get("target_state") in ([state] if state else ["running", "dying", None])
    if sender is None:
        assert event["origin"] == "kernel"
        assert event["sender"] is None
    else:
        check_process(event["sender"], sender)
        # where both sides have a PID namespace of their own, in one cgroup, nobody can tell
        contained = sender["pid_in_pod"] != sender["pid"]
        assert event["origin"] == (None if contained else "host")


def check_circumstances(event: Event) -> None:
    """When and where: now, on this node, in no pod."""
    assert event["node"] == (node.name(os.environ.get("NODE_NAME")) or None)
    assert event["pod"] is None
    assert event["container"] is None
    clock_offset = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    seconds, nanoseconds = divmod(event["boot_ns"] + clock_offset, 1_000_000_000)
    written, dot, fraction = event["time"].partition(".")
    assert dot and len(fraction) == len("123456789Z") and fraction.endswith("Z")
    told = datetime.fromisoformat(written).replace(tzinfo=timezone.utc).timestamp()
    told += int(fraction.removesuffix("Z")) / 1e9
    assert abs(told - seconds - nanoseconds / 1e9) < 0.1
    assert time.time() - 600 < told <= time.time()


def check_complete(
    ktrace: Ktrace, events: Sequence[Event], times: int = TIMES, in_order: bool = True
) -> None:
    """So many events, each later than the one before, none lost."""
    assert (len(events), ktrace.summary.lost) == (times, 0), ktrace.stderr
    assert not [event for event in ktrace.events if event["kind"] == "lost"]
    times_seen = [event["boot_ns"] for event in events]
    if in_order:
        assert times_seen == sorted(set(times_seen))


def signals_to(events: Iterable[Event], pids: int | Iterable[int]) -> list[Event]:
    wanted = {pids} if isinstance(pids, int) else set(pids)
    return [e for e in events if e["kind"] == "signal" and e["target"]["pid"] in wanted]


def exits_of(events: Iterable[Event], pids: int | Iterable[int]) -> list[Event]:
    wanted = {pids} if isinstance(pids, int) else set(pids)
    return [e for e in events if e["kind"] == "exit" and e["process"]["pid"] in wanted]


def pid_options(pids: Iterable[int]) -> list[str]:
    return [word for pid in pids for word in ("--pid", str(pid))]


def programs_of(pid: int) -> list[int]:
    """The ids of the BPF programs that a process holds."""
    found = set()
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed while we look: some thread asks for names
            found |= set(re.findall(r"^prog_id:\s*(\d+)$", info.read_text(), re.MULTILINE))
    return sorted(map(int, found))


def is_loaded(program: int) -> bool:
    """bpf(BPF_PROG_GET_FD_BY_ID)."""
    number = {"x86_64": 321, "aarch64": 280}[platform.machine()]
    attributes = (ctypes.c_uint32 * 32)(program)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(number, 13, ctypes.byref(attributes), ctypes.sizeof(attributes))
    if fd >= 0:
        os.close(fd)
    return bool(fd >= 0)
