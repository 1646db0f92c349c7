# SPDX-License-Identifier: Apache-2.0
"""Every way to raise a signal, 23 times each, compared field by field with what /proc says about
both sides and with what the target itself was told."""

from __future__ import annotations

import fcntl
import os
import platform
import pty
import signal
import struct
import termios
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kernel.checks import TIMES, TRIES, check_complete, check_signal, pid_options, signals_to
from tests.support.cgroups import memory_cgroup, move, plain_cgroup
from tests.support.ktrace import Ktrace
from tests.support.raisers import Actor, Idle, boot_ns, children_of, facts, own_child

USR1 = int(signal.SIGUSR1)
SI_USER, SI_KERNEL, SI_QUEUE, SI_TIMER = 0, 0x80, -1, -2
# what sigtimedwait(3) says for SI_TKILL, in the GNU C library
TOLD_FOR_TKILL = SI_USER
MEBIBYTE = 1 << 20
# since 5.14 (661ee6280931, "cgroup: introduce cgroup.kill")
HAS_CGROUP_KILL = b"\0cgroup_kill_write\0" in Path("/sys/kernel/btf/vmlinux").read_bytes()
ON_X86 = platform.machine() == "x86_64"


@pytest.mark.parametrize(
    ("call", "number", "name"),
    [
        ("kill", SI_USER, "SI_USER"),
        ("tkill", TOLD_FOR_TKILL, "SI_TKILL"),
        ("sigqueue", SI_QUEUE, "SI_QUEUE"),
        ("pidfd_send_signal", SI_USER, "SI_USER"),
    ],
)
def test_a_call_with_a_pid(call: str, number: int, name: str) -> None:
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        who, whom = facts(sender.pid), facts(target.pid)
        for _ in range(TIMES):
            sender.do(call, target.pid, USR1)
            assert target.do("take") == [USR1, number, sender.pid, os.getuid()]
        events = ktrace.stop()
        check_complete(ktrace, events)
        assert ktrace.summary.events == TIMES
        for event in events:
            check_signal(event, USR1, name, who, whom)


def test_tgkill_to_one_thread() -> None:
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        thread = target.do("start_thread")
        target.do("in_thread", thread, "rename", "worker")
        who, whom = facts(sender.pid), facts(target.pid, thread)
        assert (whom["tid"], whom["comm"]) == (thread, "worker")
        for _ in range(TIMES):
            sender.do("tgkill", target.pid, thread, USR1)
            told = target.do("in_thread", thread, "take")
            assert told == [USR1, TOLD_FOR_TKILL, sender.pid, os.getuid()]
        events = ktrace.stop()
        check_complete(ktrace, events)
        for event in events:
            check_signal(event, USR1, "SI_TKILL", who, whom)


@pytest.mark.any_kernel
def test_a_process_group() -> None:
    """One call, 23 targets: each is an event."""
    with Actor() as sender, Actor() as leader:
        members = [leader.pid, *leader.do("fork", TIMES - 1, "idle")]
        assert {os.getpgid(pid) for pid in members} == {leader.pid} != {os.getpgid(0)}
        who, whom = facts(sender.pid), {pid: facts(pid) for pid in members}
        with Ktrace("signals", *pid_options(members)) as ktrace:
            sender.do("kill", -leader.pid, USR1)
            events = ktrace.stop()
            check_complete(ktrace, events)
        assert sorted(event["target"]["pid"] for event in events) == sorted(members)
        for event in events:
            check_signal(event, USR1, "SI_USER", who, whom[event["target"]["pid"]])


def test_kill_minus_one_in_a_pid_namespace() -> None:
    """PID 1 signals everybody but itself."""
    with Actor(pid_namespace=True) as init:
        init.do("fork", TIMES, "idle")
        members = children_of(init.pid)
        who, whom = facts(init.pid), {pid: facts(pid) for pid in members}
        assert who["pid_in_pod"] == 1
        assert all(whom[pid]["pid_in_pod"] != pid for pid in members)
        with Ktrace("signals", *pid_options([init.pid, *members])) as ktrace:
            init.do("kill_from_init_to_all", USR1)
            events = ktrace.stop()
            check_complete(ktrace, events)
        assert sorted(event["target"]["pid"] for event in events) == members
        for event in events:
            check_signal(event, USR1, "SI_USER", who, whom[event["target"]["pid"]])


if HAS_CGROUP_KILL:

    def test_cgroup_kill() -> None:
        """The sender is the process that wrote to the file."""
        with plain_cgroup() as cgroup, ExitStack() as stack:
            switch = cgroup / "cgroup.kill"
            sender = stack.enter_context(Actor())
            targets = [stack.enter_context(Idle()) for _ in range(TIMES)]
            members = [target.pid for target in targets]
            for pid in members:
                move(pid, cgroup)
            who, whom = facts(sender.pid), {pid: facts(pid) for pid in members}
            with Ktrace("signals", *pid_options(members)) as ktrace:
                sender.do("write_file", str(switch), "1")
                assert [target.wait() for target in targets] == [-signal.SIGKILL] * TIMES
                events = ktrace.stop()
                check_complete(ktrace, events)
            assert sorted(event["target"]["pid"] for event in events) == sorted(members)
            for event in events:
                expected = whom[event["target"]["pid"]]
                # the victims began before ktrace did, and may be gone before it looks into /proc
                expected["argv"] = event["target"]["argv"] and expected["argv"]
                check_signal(event, signal.SIGKILL, "SI_USER", who, expected)


def test_the_death_of_a_parent() -> None:
    """The sender is the parent, whose memory is already gone."""
    with Ktrace("signals", "--all", "--signal", "USR1") as ktrace, Actor(executed=True) as parent:
        members = parent.do("fork_bound", TIMES, USR1)
        who = facts(parent.pid)
        parent.start("leave", 0)
        assert parent.wait() == 0
        # their parent is another one by now, and was at the moment of the signal
        whom = {pid: facts(pid) for pid in members}
        events = signals_to(ktrace.stop(), members)
        check_complete(ktrace, events)
        assert sorted(event["target"]["pid"] for event in events) == sorted(members)
        for event in events:
            check_signal(event, USR1, "SI_USER", who, whom[event["target"]["pid"]])


@pytest.mark.any_kernel
def test_a_terminal_hangs_up() -> None:
    with Actor() as target, Ktrace("signals", "--pid", str(target.pid)) as ktrace:
        whom = facts(target.pid)
        for _ in range(TIMES):
            master, slave = pty.openpty()
            target.do("control_terminal", os.ttyname(slave))
            os.close(slave)
            os.close(master)
            taken = [target.do("take"), target.do("take")]
            assert [told[:2] for told in taken] == [
                [signal.SIGHUP, SI_KERNEL],
                [signal.SIGCONT, SI_KERNEL],
            ]
        events = ktrace.stop()
        check_complete(ktrace, events, 2 * TIMES)
        for event, number in zip(events, [signal.SIGHUP, signal.SIGCONT] * TIMES, strict=True):
            check_signal(event, number, "SI_KERNEL", None, whom)


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("key", "number"),
    [
        (b"\x03", signal.SIGINT),
        pytest.param(b"\x1c", signal.SIGQUIT, marks=pytest.mark.any_kernel),
        pytest.param(b"\x1a", signal.SIGTSTP, marks=pytest.mark.any_kernel),
    ],
)
def test_a_key_on_the_terminal(key: bytes, number: int) -> None:
    master, slave = pty.openpty()
    with Actor() as target, Ktrace("signals", "--pid", str(target.pid)) as ktrace:
        whom = facts(target.pid)
        target.do("control_terminal", os.ttyname(slave))
        for _ in range(TIMES):
            os.write(master, key)
            assert target.do("take")[:2] == [number, SI_KERNEL]
        events = ktrace.stop()
        check_complete(ktrace, events)
        for event in events:
            check_signal(event, number, "SI_KERNEL", None, whom)
    os.close(slave)
    os.close(master)


@pytest.mark.any_kernel
def test_a_terminal_that_is_resized() -> None:
    """WINCH is plumbing: it shows only when asked for."""
    master, slave = pty.openpty()
    with (
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as usual,
        Ktrace("signals", "--pid", str(target.pid), "--signal", "WINCH") as ktrace,
    ):
        whom = facts(target.pid)
        target.do("control_terminal", os.ttyname(slave))
        for columns in range(100, 100 + TIMES):
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            assert target.do("take")[:2] == [signal.SIGWINCH, SI_KERNEL]
        assert usual.stop() == []
        events = ktrace.stop()
        check_complete(ktrace, events)
        for event in events:
            check_signal(event, signal.SIGWINCH, "SI_KERNEL", None, whom)
    os.close(slave)
    os.close(master)


@pytest.mark.parametrize(
    ("kind", "number", "code"),
    [
        ("unmapped", signal.SIGSEGV, "SEGV_MAPERR"),
        pytest.param("forbidden", signal.SIGSEGV, "SEGV_ACCERR", marks=pytest.mark.any_kernel),
        pytest.param("beyond the file", signal.SIGBUS, "BUS_ADRERR", marks=pytest.mark.any_kernel),
        pytest.param(
            *("undefined", signal.SIGILL, "ILL_ILLOPN" if ON_X86 else "ILL_ILLOPC"),
            marks=pytest.mark.any_kernel,
        ),
        pytest.param(
            *("breakpoint", signal.SIGTRAP, "SI_KERNEL" if ON_X86 else "TRAP_BRKPT"),
            marks=pytest.mark.any_kernel,
        ),
        *([("divide", signal.SIGFPE, "FPE_INTDIV")] if ON_X86 else []),
    ],
)
def test_a_fault(kind: str, number: int, code: str) -> None:
    with Actor() as parent:
        victims = parent.do("fork", TIMES, "fault", kind)
        whom = {pid: facts(pid) for pid in victims}
        with Ktrace("signals", *pid_options(victims)) as ktrace:
            parent.do("go", TIMES)
            for _pid, status in parent.do("reap", TIMES):
                assert os.WTERMSIG(status) == number
            events = ktrace.stop()
            check_complete(ktrace, events)
        assert sorted(event["target"]["pid"] for event in events) == sorted(victims)
        for event in events:
            check_signal(event, number, code, None, whom[event["target"]["pid"]])


@pytest.mark.any_kernel
def test_a_write_to_a_closed_pipe() -> None:
    """The kernel answers write(2), though it says SI_USER."""
    with Actor() as target, Ktrace("signals", "--pid", str(target.pid)) as ktrace:
        whom = facts(target.pid)
        for _ in range(TIMES):
            target.do("write_to_closed_pipe")
            assert target.do("take")[:2] == [signal.SIGPIPE, SI_USER]
        events = ktrace.stop()
        check_complete(ktrace, events)
        for event in events:
            check_signal(event, signal.SIGPIPE, "SI_USER", None, whom)


@pytest.mark.parametrize(
    ("order", "number", "code", "name"),
    [
        (["one_shot_timer", USR1, 1_000_000], USR1, SI_TIMER, "SI_TIMER"),
        (["alarm_in", 0.001], signal.SIGALRM, SI_KERNEL, "SI_KERNEL"),
        pytest.param(
            *(["burn_in", "ITIMER_VIRTUAL", 0.001], signal.SIGVTALRM, SI_KERNEL, "SI_KERNEL"),
            marks=pytest.mark.any_kernel,
        ),
    ],
)
def test_a_timer_while_another_process_runs(
    order: list[object], number: int, code: int, name: str
) -> None:
    """Whoever is on the CPU when a timer rings has nothing to do with it."""
    for _ in range(TRIES):
        with ExitStack() as stack:
            for _ in range(len(os.sched_getaffinity(0))):
                stack.enter_context(Actor()).start("spin")
            target = stack.enter_context(Actor())
            ktrace = stack.enter_context(Ktrace("signals", "--pid", str(target.pid)))
            whom = facts(target.pid)
            for _ in range(TIMES):
                target.do(*order)
                assert target.do("take")[:2] == [number, code]
            events = ktrace.stop()
            check_complete(ktrace, events, len(events))
            for event in events:
                check_signal(event, number, name, None, whom)
            if len(events) == TIMES:
                return
    raise AssertionError(f"never {TIMES} events in {TRIES} tries")


def test_a_child_that_exits() -> None:
    """CHLD is plumbing: it shows only when asked for."""
    with (
        Actor() as parent,
        Ktrace("signals", "--pid", str(parent.pid)) as usual,
        Ktrace("signals", "--pid", str(parent.pid), "--signal", "all") as ktrace,
    ):
        whom = facts(parent.pid)
        children = parent.do("fork", TIMES, "leave", 3)
        for _ in children:
            parent.do("go")
            number, code, pid, _uid = parent.do("take")
            assert (number, code) == (signal.SIGCHLD, os.CLD_EXITED)
            assert pid in children
        parent.do("reap", TIMES)
        assert usual.stop() == []
        events = ktrace.stop()
        check_complete(ktrace, events)
        for event in events:
            check_signal(event, signal.SIGCHLD, "CLD_EXITED", None, whom)


def test_the_oom_killer() -> None:
    """It runs in the context of whoever wanted memory, who is not the sender."""
    with Actor() as parent, memory_cgroup(16 * MEBIBYTE) as cgroup:
        victims = parent.do("fork", TIMES, "eat_memory", 64)
        for pid in victims:
            move(pid, cgroup)
        whom = {pid: facts(pid) for pid in victims}
        with Ktrace("signals", *pid_options(victims)) as ktrace:
            for _ in victims:
                parent.do("go")
                parent.do("take")  # SIGCHLD: one after the other, each takes all that is allowed
            for _pid, status in parent.do("reap", TIMES):
                assert os.WTERMSIG(status) == signal.SIGKILL
            events = ktrace.stop()
            check_complete(ktrace, events)
        assert sorted(event["target"]["pid"] for event in events) == sorted(victims)
        for event in events:
            check_signal(event, signal.SIGKILL, "SI_KERNEL", None, whom[event["target"]["pid"]])


def test_a_killer_that_is_gone_at_once() -> None:
    """Sender and target lived for a moment, both are described to the last field."""
    with Ktrace("signals", "--all", "--signal", "KILL") as ktrace:
        expected = []
        for _ in range(TIMES):
            with Idle() as target:
                whom = facts(target.pid)
                argv = ["sh", "-c", f"kill -KILL {target.pid}", "an argument", ""]
                started = boot_ns()
                killer = os.posix_spawn("/bin/sh", argv, os.environ)
                assert os.waitpid(killer, 0)[1] == 0
                assert target.wait() == -signal.SIGKILL
                expected.append((own_child(killer, "/bin/sh", argv, started), whom))
        events = signals_to(ktrace.stop(), [whom["pid"] for _, whom in expected])
        check_complete(ktrace, events)
        for event, (who, whom) in zip(events, expected, strict=True):
            check_signal(event, signal.SIGKILL, "SI_USER", who, whom)


@pytest.mark.any_kernel
def test_real_time_signals() -> None:
    """Each by its name; the first two belong to the C library, which lets nobody block them."""
    first = 34
    with Ktrace("signals", "--all", "--signal", "all") as ktrace, ExitStack() as stack:
        sender, target = stack.enter_context(Actor()), stack.enter_context(Actor())
        who, whom = facts(sender.pid), facts(target.pid)
        victims = []
        for number in range(32, first):
            victims.append(stack.enter_context(Idle()))
            expected = facts(victims[-1].pid)
            sender.do("kill", victims[-1].pid, number)
        for number in range(first, 65):
            sender.do("kill", target.pid, number)
            assert target.do("take")[:2] == [number, SI_USER]
        everything = ktrace.stop()
        events = signals_to(everything, target.pid)
        check_complete(ktrace, events, 65 - first)
        for event, number in zip(events, range(first, 65), strict=True):
            name = "SIGRTMIN" if number == 34 else f"SIGRTMIN+{number - 34}"
            check_signal(event, number, "SI_USER", who, whom, name=name)
        for victim, number in zip(victims, range(32, first), strict=True):
            (event,) = signals_to(everything, victim.pid)
            assert event["signal"]["name"] == {32: "SIG32", 33: "SIG33"}[number]
            assert event["target"]["comm"] == expected["comm"]


def test_every_standard_signal() -> None:
    numbers = [n for n in signal.Signals if n < 32 and n not in (signal.SIGKILL, signal.SIGSTOP)]
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid), "--signal", "all") as ktrace,
    ):
        who, whom = facts(sender.pid), facts(target.pid)
        for number in numbers:
            sender.do("kill", target.pid, number)
            assert target.do("take")[:2] == [number, SI_USER]
        events = ktrace.stop()
        check_complete(ktrace, events, len(numbers))
        for event, number in zip(events, numbers, strict=True):
            check_signal(event, number, "SI_USER", who, whom)


@pytest.mark.any_kernel
def test_a_signal_that_only_asks_whether_a_process_is_there() -> None:
    """kill(pid, 0) raises nothing."""
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid), "--signal", "all") as ktrace,
    ):
        sender.do("kill", target.pid, 0)
        sender.do("kill", target.pid, USR1)
        (event,) = ktrace.stop()
        assert event["signal"]["name"] == "SIGUSR1"
