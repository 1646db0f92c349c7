# SPDX-License-Identifier: Apache-2.0
"""What two backends say of the same incidents, event by event.

Both trace while `stage` makes one of each thing that ktrace can tell, on a kernel that has what
either needs; `differences` compares what they have seen of that, key by key.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.kernel.checks import TIMES
from tests.kernel.test_oom import LIMIT, MIB, Eater
from tests.support.cgroups import memory_cgroup
from tests.support.queues import LOOPBACK, Queues
from tests.support.raisers import Actor

Event = dict[str, Any]
BACKLOG_PORT = 8080

# By backend: keys that are null there and not for core, of an event's kind. docs/compatibility.md
# has the same as a table with the reasons.
DOCUMENTED_NULLS: dict[str, frozenset[str]] = {
    "bcc": frozenset({"tcp_reset.reason"}),
    "stap": frozenset(
        f"oom.{key}"
        for key in (
            *("scope", "cgroup_path", "limit_of", "limit_bytes", "usage_bytes"),
            *("order", "gfp_flags"),
        )
    ),
}
# When two programs at one place run, one of them is later.
_OF_THE_MOMENT = ("time", "boot_ns")


@dataclass
class Staged:
    """Whom and what the events are about that were made on purpose."""

    pids: set[int] = field(default_factory=set)
    ports: set[int] = field(default_factory=set)

    def concerns(self, event: Event) -> bool:
        about = event.get("target") or event.get("process") or event.get("victim") or {}
        ends = [event[end]["port"] for end in ("local", "remote") if event.get(end)]
        return about.get("pid") in self.pids or bool(self.ports & set(ends))


def stage() -> Staged:
    """Signals of a known sender, exits, an OOM kill in a cgroup, refused connections, and a full
    accept queue: 23 of each that can be made so often in a moment."""
    staged = Staged()
    _send_signals(staged)
    _exit(staged)
    _run_out_of_memory(staged)
    _meet_closed_port(staged)
    _meet_full_queue(staged)
    return staged


def differences(one: Iterable[Event], other: Iterable[Event], staged: Staged) -> list[str]:
    """Of the staged events; `kind.key: this here, that there` for each. One that is missing, or
    stands elsewhere, is a difference too."""
    pairs = [_by_kind(filter(staged.concerns, events)) for events in (one, other)]
    found = []
    for kind in sorted(pairs[0].keys() | pairs[1].keys()):
        here, there = (events.get(kind, []) for events in pairs)
        if len(here) != len(there):
            found.append(f"{kind}: {len(here)} here, {len(there)} there")
            continue
        found += [d for pair in zip(here, there, strict=True) for d in _of_one(kind, *pair)]
    return found


def undocumented(one: Sequence[Event], other: Sequence[Event], staged: Staged, name: str) -> Any:
    """The differences of a backend from core (`one`) that are no documented nulls."""
    excuses = tuple(f"{key}: " for key in DOCUMENTED_NULLS[name])
    return [
        found
        for found in differences(one, other, staged)
        if not (found.startswith(excuses) and found.endswith(" here, None there"))
    ]


def kinds(events: Iterable[Event], staged: Staged) -> dict[str, int]:
    return {kind: len(those) for kind, those in _by_kind(filter(staged.concerns, events)).items()}


def _by_kind(events: Iterable[Event]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = {}
    for event in events:
        found.setdefault(event["kind"], []).append(event)
    return found


def _of_one(kind: str, here: Event, there: Event) -> list[str]:
    return [
        f"{kind}.{key}: {here.get(key)!r} here, {there.get(key)!r} there"
        for key in here.keys() | there.keys()
        if key not in _OF_THE_MOMENT and here.get(key) != there.get(key)
    ]


def _send_signals(staged: Staged) -> None:
    with Actor(executed=True) as target:
        staged.pids.add(target.pid)
        target.do("ignore", int(signal.SIGUSR1))
        for _ in range(TIMES):
            os.kill(target.pid, signal.SIGUSR1)
        os.kill(target.pid, signal.SIGKILL)
        target.wait()


def _exit(staged: Staged) -> None:
    for code in range(TIMES):
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"exit {code}"], os.environ)
        staged.pids.add(pid)
        os.waitpid(pid, 0)


def _run_out_of_memory(staged: Staged) -> None:
    with memory_cgroup(LIMIT) as cgroup, Eater(cgroup) as eater:
        staged.pids.add(eater.pid)
        assert not eater.eat(2 * LIMIT // MIB)
        eater.wait()


def _meet_closed_port(staged: Staged) -> None:
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        where = hole.getsockname()
    staged.ports.add(where[1])
    for _ in range(TIMES):
        with socket.socket() as client:
            assert client.connect_ex(where)


def _meet_full_queue(staged: Staged) -> None:
    staged.ports.add(BACKLOG_PORT)
    with Queues() as queues:
        queues.do("sysctl", "ipv4/tcp_syncookies", 0)
        queues.do("listen", BACKLOG_PORT, 1, LOOPBACK["ipv4"])
        queues.do("connect", BACKLOG_PORT, 2, LOOPBACK["ipv4"])
        queues.do("knock", BACKLOG_PORT, TIMES, LOOPBACK["ipv4"])
