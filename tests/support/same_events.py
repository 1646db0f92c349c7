# SPDX-License-Identifier: Apache-2.0
"""Compares the backends' events about the same incidents.

All trace while `stage` makes some events of each kind, on a kernel with the features that each
backend needs. `differences` compares two backends' events key by key.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from subprocess import PIPE
from typing import Any

from tests.kernel.checks import TIMES
from tests.kernel.test_oom import LIMIT, MIB, Eater
from tests.support import fragmentation
from tests.support.cgroups import memory_cgroup
from tests.support.queues import LOOPBACK, Queues
from tests.support.raisers import Actor

Event = dict[str, Any]
BACKLOG_PORTS = range(8080, 8080 + TIMES)

# By backend: keys of a kind of event that may be null there but not for core. docs/compatibility.md
# has the same table with reasons. CONCLUDED are the keys that the kernel gives to core and another
# backend infers, and marks as such.
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
CONCLUDED: dict[str, frozenset[str]] = {
    "bcc": frozenset({"tcp_reset.reason_inferred"}),
    "stap": frozenset(),
}
# When two programs run at one place, one of them is later.
_OF_THE_MOMENT = ("time", "boot_ns")


def _form(zones: Any) -> Any:
    return [(zone["node"], zone["zone"], len(zone["free"])) for zone in zones]


def _beginning(reading: str) -> str:
    """The part before the colon. The rest is inferred from the free lists."""
    return reading.partition(":")[0]


# Each ktrace reads the free lists itself, so their contents at that moment are not compared, nor
# the reason why a reading was too late. Each also takes the time that a connect has lasted.
_OF_THE_MOMENT_IN_PART: dict[str, Callable[[Any], Any]] = {
    "page_alloc_failure.buddyinfo": _form,
    "page_alloc_failure.reading": _beginning,
    "connect_failure.duration_ns": bool,
}


@dataclass
class Staged:
    """The processes and ports of the staged events."""

    pids: set[int] = field(default_factory=set)
    ports: set[int] = field(default_factory=set)

    def concerns(self, event: Event) -> bool:
        about = event.get("target") or event.get("process") or event.get("victim") or {}
        ends = [event[end]["port"] for end in ("local", "remote") if event.get(end)]
        return about.get("pid") in self.pids or bool(self.ports & set(ends))


@contextmanager
def stage() -> Iterator[Staged]:
    """Stages signals of a known sender and of a timer, exits, OOM kills in a cgroup, refused
    connections, full accept queues, and failing page allocations: 23 of each, or of each kind of
    it. Each ktrace looks up a queue's owner when an event arrives, so that process lives as long as
    the block."""
    staged = Staged()
    _send_signals(staged)
    _exit(staged)
    _run_out_of_memory(staged)
    _meet_closed_port(staged)
    _fail_to_allocate(staged)
    with _full_queues(staged):
        yield staged


def differences(
    one: Iterable[Event], other: Iterable[Event], staged: Staged, kinds: Collection[str]
) -> list[str]:
    """Differences between the staged events of these kinds.
    Each is `kind.key: this here, that there`. Missing or misplaced events count too."""
    pairs = [_by_kind(events, staged) for events in (one, other)]
    found = []
    for kind in sorted(kinds):
        here, there = (events.get(kind, []) for events in pairs)
        if len(here) != len(there):
            found.append(f"{kind}: {len(here)} here, {len(there)} there")
            continue
        found += [d for pair in zip(here, there, strict=True) for d in _of_one(kind, *pair)]
    return found


def undocumented(found: Iterable[str], backend: str) -> list[str]:
    """The differences of a backend from core (`here`) that are not documented."""
    nulls = tuple(f"{key}: " for key in DOCUMENTED_NULLS[backend])
    concluded = [f"{key}: False here, True there" for key in CONCLUDED[backend]]
    return [
        difference
        for difference in found
        if not (difference.startswith(nulls) and difference.endswith(" here, None there"))
        and difference not in concluded
    ]


def counts(events: Iterable[Event], staged: Staged) -> dict[str, int]:
    """The number of events by kind."""
    return {kind: len(those) for kind, those in _by_kind(events, staged).items()}


def _by_kind(events: Iterable[Event], staged: Staged) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = {}
    for event in filter(staged.concerns, events):
        found.setdefault(event["kind"], []).append(event)
    found["backlog_drop"] = _folded(found.get("backlog_drop", []))
    return found


def _folded(drops: Iterable[Event]) -> list[Event]:
    """Each ktrace sums up the drops after a queue's first one, in seconds of its own. Here a
    queue's drops become one event: the first, with the total count."""
    first: dict[Any, Event] = {}
    for drop in drops:
        queue = (drop["local"]["port"], drop["queue"], drop["stage"])
        if queue in first:
            first[queue]["count"] += drop["count"]
        else:
            first[queue] = dict(drop)
    return list(first.values())


# Keys that are present only if they have a value (docs/events.md).
OPTIONAL = frozenset(("memory", "unknown_because", "target_state", "call"))


def _of_one(kind: str, here: Event, there: Event) -> list[str]:
    found = []
    here = {key: value for key, value in here.items() if key not in OPTIONAL}
    there = {key: value for key, value in there.items() if key not in OPTIONAL}
    if list(here) != list(there):
        found.append(f"{kind}: the keys {list(here)} here, {list(there)} there")
    for key in here:
        one, other = here[key], there.get(key)
        if (part := _OF_THE_MOMENT_IN_PART.get(f"{kind}.{key}")) and one and other:
            one, other = part(one), part(other)
        elif part or key in _OF_THE_MOMENT:
            continue
        if one != other:
            found.append(f"{kind}.{key}: {one!r} here, {other!r} there")
    return found


def _send_signals(staged: Staged) -> None:
    usr1, term = int(signal.SIGUSR1), int(signal.SIGTERM)
    with Actor(executed=True) as sender, Actor(executed=True) as target:
        staged.pids |= {sender.pid, target.pid}
        for call in ("kill", "tkill", "sigqueue"):
            for _ in range(TIMES):
                sender.do(call, target.pid, usr1)
                target.do("take")
        for _ in range(2):  # first blocked, then pending
            sender.do("kill", target.pid, term)
        target.do("alarm_in", 0.01)
        assert {target.do("take")[0] for _ in range(2)} == {term, signal.SIGALRM}
        target.do("ignore", int(signal.SIGUSR2))
        os.kill(target.pid, signal.SIGUSR2)
        os.kill(target.pid, signal.SIGKILL)
        target.wait()


def _exit(staged: Staged) -> None:
    for number in range(TIMES):
        process = subprocess.Popen(["sh", "-c", f"exit {number}", "a word"])
        assert process.wait(60) == number
        staged.pids.add(process.pid)
        with subprocess.Popen(["cat"], bufsize=0, stdin=PIPE, stdout=PIPE) as victim:
            staged.pids.add(victim.pid)
            assert victim.stdin and victim.stdout
            victim.stdin.write(b"!")
            assert victim.stdout.read(1) == b"!"  # so that every tracer knows its arguments
            victim.kill()


def _run_out_of_memory(staged: Staged) -> None:
    with memory_cgroup(LIMIT) as cgroup:
        for _ in range(TIMES):
            with Eater(cgroup) as eater:
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


@contextmanager
def _full_queues(staged: Staged) -> Iterator[None]:
    """Causes two drops at each queue."""
    staged.ports |= set(BACKLOG_PORTS)
    with Queues() as queues:
        queues.do("sysctl", "ipv4/tcp_syncookies", 0)
        for port in BACKLOG_PORTS:
            queues.do("listen", port, 1, LOOPBACK["ipv4"])
            queues.do("connect", port, 2, LOOPBACK["ipv4"])
            queues.do("knock", port, 2, LOOPBACK["ipv4"])
        yield


def _fail_to_allocate(staged: Staged) -> None:
    program = [os.path.realpath(sys.executable), "-I", "-S", fragmentation.__file__, str(TIMES)]
    process = subprocess.Popen(program)
    staged.pids.add(process.pid)
    assert process.wait(120) == 0
