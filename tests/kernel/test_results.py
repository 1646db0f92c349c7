# SPDX-License-Identifier: Apache-2.0
"""What became of a signal: taken, ignored, merged with one that waits, or refused."""

from __future__ import annotations

import errno
import signal

import psutil
import pytest

from tests.kernel.checks import TIMES, check_complete, check_signal, pid_options, signals_to
from tests.support.ktrace import Ktrace
from tests.support.raisers import Actor, children_of, facts
from tests.support.wait import wait_for

TERM, USR1, KILL = int(signal.SIGTERM), int(signal.SIGUSR1), int(signal.SIGKILL)
REAL_TIME = 40


def test_ignored_by_a_handler() -> None:
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        who, whom = facts(sender.pid), facts(target.pid)
        target.do("ignore", USR1)
        sender.do("repeat", TIMES, "kill", target.pid, USR1)
        events = ktrace.stop()
        check_complete(ktrace, events)
        for event in events:
            check_signal(event, USR1, "SI_USER", who, whom, result="ignored")


@pytest.mark.parametrize("number", [pytest.param(TERM, marks=pytest.mark.any_kernel), KILL])
def test_pid_1_ignores_what_its_namespace_sends(number: int) -> None:
    """Without a handler it is immune, even to SIGKILL: the container that will not stop."""
    with Actor(pid_namespace=True) as init:
        init.do("default", TERM)
        init.do("fork", 1, "repeat", TIMES, "kill", 1, number)
        (killer,) = children_of(init.pid)
        who, whom = facts(killer), facts(init.pid)
        assert whom["pid_in_pod"] == 1
        with Ktrace("signals", "--pid", str(init.pid)) as ktrace:
            init.do("go")
            assert init.do("reap", 1)[0][1] == 0
            events = ktrace.stop()
            check_complete(ktrace, events)
        for event in events:
            check_signal(event, number, "SI_USER", who, whom, result="ignored")


@pytest.mark.any_kernel
def test_pid_1_ignores_from_outside_only_what_can_be_handled() -> None:
    """`kubectl delete` seems to do nothing: SIGTERM is ignored, until SIGKILL comes."""
    with (
        Ktrace("signals", "--all", "--signal", "TERM,KILL") as ktrace,
        Actor() as sender,
        Actor(pid_namespace=True) as init,
    ):
        init.do("default", TERM)
        who, whom = facts(sender.pid), facts(init.pid)
        sender.do("repeat", TIMES, "kill", init.pid, TERM)
        sender.do("kill", init.pid, KILL)
        assert init.wait() == 0
        *events, last = signals_to(ktrace.stop(), init.pid)
        check_complete(ktrace, events)
        for event in events:
            check_signal(event, TERM, "SI_USER", who, whom, result="ignored")
        check_signal(last, KILL, "SI_USER", who, whom)


def test_already_pending() -> None:
    """A standard signal waits only once."""
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        who, whom = facts(sender.pid), facts(target.pid)
        sender.do("repeat", TIMES + 1, "kill", target.pid, USR1)
        first, *events = ktrace.stop()
        check_complete(ktrace, events)
        check_signal(first, USR1, "SI_USER", who, whom)
        for event in events:
            check_signal(event, USR1, "SI_USER", who, whom, result="already_pending")


def test_lost_info() -> None:
    """The signal comes, but there is no room for who sent it: only ktrace still knows."""
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        who, whom = facts(sender.pid), facts(target.pid)
        target.do("limit_pending_signals", 0)
        for _ in range(TIMES):
            sender.do("kill", target.pid, REAL_TIME)
            assert target.do("take") == [REAL_TIME, 0, 0, 0]
        events = ktrace.stop()
        check_complete(ktrace, events)
        for event in events:
            check_signal(
                event, REAL_TIME, "SI_USER", who, whom, name="SIGRTMIN+6", result="lost_info"
            )


def test_overflow() -> None:
    """sigqueue(3) fails with EAGAIN, and the signal does not come."""
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        who, whom = facts(sender.pid), facts(target.pid)
        target.do("limit_pending_signals", 0)
        sender.do("repeat", TIMES, "sigqueue_refused", target.pid, REAL_TIME)
        assert target.do("take", 0) is None
        events = ktrace.stop()
        check_complete(ktrace, events)
        for event in events:
            check_signal(
                event, REAL_TIME, "SI_QUEUE", who, whom, name="SIGRTMIN+6", result="overflow"
            )


@pytest.mark.any_kernel
def test_a_target_that_is_stopped() -> None:
    """Its handler cannot run, and the result alone does not tell."""
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        who, whom = facts(sender.pid), facts(target.pid)
        sender.do("kill", target.pid, int(signal.SIGSTOP))
        wait_for("it to be stopped", lambda: psutil.Process(target.pid).status() == "stopped")
        sender.do("repeat", TIMES, "kill", target.pid, REAL_TIME)
        sender.do("kill", target.pid, int(signal.SIGCONT))
        stop, *events, go_on = ktrace.stop()
        check_complete(ktrace, events)
        check_signal(stop, int(signal.SIGSTOP), "SI_USER", who, whom, state="running")
        for event in events:
            check_signal(event, REAL_TIME, "SI_USER", who, whom, name="SIGRTMIN+6", state="stopped")
        check_signal(go_on, int(signal.SIGCONT), "SI_USER", who, whom, state="running")


@pytest.mark.any_kernel
def test_a_target_that_dies() -> None:
    """SIGKILL itself says so, as nothing can come between it and the end."""
    with (
        Ktrace("signals", "--all", "--signal", "KILL") as ktrace,
        Actor() as sender,
        Actor() as target,
    ):
        who, whom = facts(sender.pid), facts(target.pid)
        sender.do("kill", target.pid, KILL)
        assert target.wait() == -KILL
        (event,) = signals_to(ktrace.stop(), target.pid)
        check_signal(event, KILL, "SI_USER", who, whom, state="dying")


@pytest.mark.any_kernel
def test_a_signal_that_was_not_permitted_is_no_event() -> None:
    """kill(2) fails before a signal is generated."""
    with Actor() as sender, Actor() as target, Actor() as friend:
        sender.do("set_uid", 65534)
        friend.do("set_uid", 65534)
        with Ktrace("signals", *pid_options([target.pid, friend.pid])) as ktrace:
            who, whom = facts(sender.pid), facts(friend.pid)
            assert who["uid"] == 65534
            with pytest.raises(AssertionError, match=errno.errorcode[errno.EPERM][1:].title()):
                sender.do("kill", target.pid, USR1)
            sender.do("kill", friend.pid, USR1)
            events = ktrace.stop()
            assert signals_to(events, target.pid) == []
            (event,) = events
        check_signal(event, USR1, "SI_USER", who, whom)
