# SPDX-License-Identifier: Apache-2.0
"""More signals than can be read: each is either shown or counted as lost, and nothing else."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from tests.kernel.checks import TRIES
from tests.support.ktrace import IN_GUEST, Ktrace
from tests.support.raisers import Actor
from tests.support.wait import wait_for

USR1 = int(signal.SIGUSR1)
# In an emulated machine only so many that they still do not fit into the ring.
STORM = 150_000 if IN_GUEST else 300_000
AMONG_ALARMS = 1_000 if IN_GUEST else 10_000
STORM_SECONDS = 100.0


@pytest.mark.any_kernel
def test_at_full_speed() -> None:
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        target.do("ignore", USR1)
        sender.do("repeat", STORM, "kill", target.pid, USR1)
        seen, lost = balance(ktrace)
        assert seen == {("SIGUSR1", sender.pid, target.pid): STORM - lost}


@pytest.mark.any_kernel
def test_while_nobody_reads() -> None:
    """ktrace gets no CPU during the storm. The ring overflows, and the account is still exact."""
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        target.do("ignore", USR1)
        ktrace.signal(signal.SIGSTOP)
        sender.do("repeat", STORM, "kill", target.pid, USR1)
        ktrace.signal(signal.SIGCONT)
        seen, lost = balance(ktrace)
        assert lost > 0
        assert seen == {("SIGUSR1", sender.pid, target.pid): STORM - lost}


@pytest.mark.any_kernel
def test_from_several_processors() -> None:
    with (
        Actor() as one,
        Actor() as two,
        Actor() as three,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        target.do("ignore", USR1)
        senders, each = (one, two, three), STORM // 10
        for sender in senders:
            sender.start("repeat", each, "kill", target.pid, USR1)
        for sender in senders:
            sender.answer("the end of the storm")
        seen, lost = balance(ktrace)
        assert sum(seen.values()) + lost == len(senders) * each
        if not lost:
            assert seen == {("SIGUSR1", s.pid, target.pid): each for s in senders}


def test_a_timer_in_the_middle() -> None:
    """Signals that an interrupt raises, on the processor that is busy tracing others."""
    for _ in range(TRIES):
        with Actor() as target, Ktrace("signals", "--pid", str(target.pid)) as ktrace:
            sent, rung = target.do(
                "send_among_alarms", STORM // 150 if IN_GUEST else STORM // 30, USR1
            )
            seen, lost = balance(ktrace)
            assert set(seen) <= {("SIGUSR1", target.pid, target.pid), ("SIGALRM", None, target.pid)}
            assert sent + rung - 100 <= sum(seen.values()) + lost <= sent + rung
            assert lost or seen["SIGUSR1", target.pid, target.pid] == sent
            if sum(seen.values()) + lost == sent + rung:
                return
    raise AssertionError(f"the account was never exact in {TRIES} tries")


@pytest.mark.any_kernel
def test_a_reader_that_pauses() -> None:
    """Standard output is a file; what ktrace holds back meanwhile is bounded, so it loses, and goes
    on afterwards as before."""
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        target.do("ignore", USR1)
        for _ in range(2):
            ktrace.signal(signal.SIGSTOP)
            sender.do("repeat", STORM // 2, "kill", target.pid, USR1)
            ktrace.signal(signal.SIGCONT)
            wait_for("the loss to be told", lambda: b'"lost"' in ktrace.output, STORM_SECONDS)
        sender.do("sigqueue", target.pid, 40)
        seen, lost = balance(ktrace)
        assert sum(seen.values()) + lost == STORM // 2 * 2 + 1
        assert lost > 0


def balance(ktrace: Ktrace) -> tuple[dict[tuple[str, int | None, int], int], int]:
    """Ends it. The events by signal, sender and target, and how many were lost; the `lost` events
    and the closing line agree."""
    ktrace.signal(signal.SIGINT)
    assert ktrace.exit_code() == 0, ktrace.stderr
    seen: Counter[tuple[str, int | None, int]] = Counter()
    lost = 0
    for event in read_lines(ktrace.output.splitlines()):
        if event["kind"] == "lost":
            assert event["probe"] == "signals"
            assert event["count"] > 0
            lost += event["count"]
        else:
            sender = event["sender"] and event["sender"]["pid"]
            seen[event["signal"]["name"], sender, event["target"]["pid"]] += 1
    assert ktrace.summary.lost == lost
    assert ktrace.summary.events == sum(seen.values())
    return dict(seen), lost


def read_lines(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    for line in lines:
        yield json.loads(line)
