# SPDX-License-Identifier: Apache-2.0
"""The same incidents, seen by the core backend and by SystemTap at the same time: event by event,
and each difference that remains is one that docs/compatibility.md names."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable
from contextlib import ExitStack

import pytest

from tests.kernel.checks import TIMES, Event, exits_of, signals_to
from tests.kernel.test_oom import LIMIT, Eater, oom_of
from tests.support.cgroups import memory_cgroup
from tests.support.ktrace import Ktrace
from tests.support.raisers import Actor, Idle
from tests.support.same_events import DOCUMENTED_NULLS

USR1, KILL, TERM = int(signal.SIGUSR1), int(signal.SIGKILL), int(signal.SIGTERM)
MIB = 1 << 20
# Both tell when their own handler ran, one after the other.
OWN_TIMES = ("time", "boot_ns")
FROM_LOG = {key.removeprefix("oom.") for key in DOCUMENTED_NULLS["stap"]}


@pytest.fixture(params=["signals", "exits", "oom"])
def both(request: pytest.FixtureRequest) -> Iterable[tuple[str, Ktrace, Ktrace]]:
    probe = request.param
    with Ktrace(probe, "--all", backend="core") as core, Ktrace(probe, "--all") as stap:
        yield probe, core, stap


def test_the_same_of_each_incident(both: tuple[str, Ktrace, Ktrace]) -> None:
    probe, core, stap = both
    pids = STAGES[probe]()
    one, other = (OF[probe](ktrace.stop(), pids) for ktrace in (core, stap))
    assert len(one) >= TIMES
    assert len(one) == len(other)
    for event, same in zip(one, other, strict=True):
        check_same(event, same)
    assert core.summary.lost == stap.summary.lost == 0


def raise_signals() -> list[int]:
    with Actor(executed=True) as sender, Actor(executed=True) as target:
        for call in ("kill", "tkill", "sigqueue"):
            for _ in range(TIMES):
                sender.do(call, target.pid, USR1)
                target.do("take")
        sender.do("kill", target.pid, TERM)  # blocked, and then pending
        sender.do("kill", target.pid, TERM)
        target.do("alarm_in", 0.01)
        return [sender.pid, target.pid]


def end_processes() -> list[int]:
    pids = []
    for number in range(TIMES):
        argv = ["sh", "-c", f"exit {number}", "a word"]
        process = subprocess.Popen(argv)
        assert process.wait(60) == number
        pids.append(process.pid)
        with Idle() as victim:
            os.kill(victim.pid, KILL)
            pids.append(victim.pid)
    return pids


def exceed_limits() -> list[int]:
    pids = []
    with memory_cgroup(LIMIT) as cgroup:
        for _ in range(TIMES):
            with ExitStack() as stack:
                eater = stack.enter_context(Eater(cgroup))
                assert not eater.eat(64)
                pids.append(eater.pid)
    return pids


STAGES = {"signals": raise_signals, "exits": end_processes, "oom": exceed_limits}
OF = {"signals": signals_to, "exits": exits_of, "oom": oom_of}


def check_same(one: Event, other: Event) -> None:
    """`one` is the core backend's. What stands for SystemTap in the kernel log alone is unknown
    where the kernel kept that back."""
    for key, value in one.items():
        if key in OWN_TIMES:
            assert value is not None and other[key] is not None
        elif key == "usage_bytes" and other[key] is not None:
            assert abs(other[key] - value) <= MIB
        elif key in FROM_LOG:
            assert other[key] in (None, value), key
        else:
            assert other[key] == value, key
    assert list(one) == list(other)
