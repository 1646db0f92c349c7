# SPDX-License-Identifier: Apache-2.0
"""Who took part: the description of each side is that of the moment, whatever the process has been
before, becomes later, or would like to be taken for."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kernel.checks import TIMES, check_complete, check_signal, signals_to
from tests.support.cgroups import memory_cgroup, move
from tests.support.ktrace import Ktrace
from tests.support.raisers import ANCESTORS, Actor, Shell, copy_of_shell, facts, text

USR1 = int(signal.SIGUSR1)

# An escape sequence, markup, a line end and bytes that are no UTF-8; as long as a comm may be.
HOSTILE = b"\x1b[2J[red]k\n\xff\xfe\x07"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory directly in /tmp, where everybody may write."""
    directory = Path(tempfile.mkdtemp(prefix="ktrace-test-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)


def send_by_shell(shell: Shell, target: Actor) -> None:
    """With the shell's own kill: the shell is the sender."""
    shell.do(f"kill -USR1 {target.pid}")
    assert target.do("take")[2] == shell.pid


def test_a_thread_sends() -> None:
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        thread = sender.do("start_thread")
        sender.do("in_thread", thread, "rename", "killer-thread")
        who, whom = facts(sender.pid, thread), facts(target.pid)
        assert who["tid"] == thread != who["pid"]
        assert who["comm"] == "killer-thread"
        for _ in range(TIMES):
            sender.do("in_thread", thread, "kill", target.pid, USR1)
            target.do("take")
        events = ktrace.stop()
        check_complete(ktrace, events)
        for event in events:
            check_signal(event, USR1, "SI_USER", who, whom)


@pytest.mark.any_kernel
def test_threads_and_their_leader_are_told_apart() -> None:
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        whom = facts(target.pid)
        senders = [sender.do("start_thread") for _ in range(3)]
        for number, thread in enumerate(senders):
            sender.do("in_thread", thread, "rename", f"thread {number}")
        expected = []
        for _ in range(TIMES):
            for thread in senders:
                sender.do("in_thread", thread, "kill", target.pid, USR1)
                target.do("take")
                expected.append(facts(sender.pid, thread))
            sender.do("kill", target.pid, USR1)
            target.do("take")
            expected.append(facts(sender.pid))
        events = ktrace.stop()
        check_complete(ktrace, events, 4 * TIMES)
        for event, who in zip(events, expected, strict=True):
            check_signal(event, USR1, "SI_USER", who, whom)


@pytest.mark.any_kernel
def test_a_process_signals_itself() -> None:
    """It is its own sender: only the kernel's answers to a call are the kernel's."""
    with Actor() as target, Ktrace("signals", "--pid", str(target.pid)) as ktrace:
        whom = facts(target.pid)
        for call in ("kill", "tkill", "sigqueue", "pidfd_send_signal"):
            target.do(call, target.pid, USR1)
            target.do("take")
        events = ktrace.stop()
        check_complete(ktrace, events, 4)
        for event, code in zip(events, ("SI_USER", "SI_TKILL", "SI_QUEUE", "SI_USER"), strict=True):
            check_signal(event, USR1, code, whom, whom)


def test_each_program_that_a_process_has_run(place: Path) -> None:
    """A process signals, executes another program, and signals again."""
    first, second = copy_of_shell(place / "first"), copy_of_shell(place / "second")
    with (
        Shell(first) as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        whom, expected = facts(target.pid), []
        for number in range(TIMES):
            program = (first, second)[number % 2]
            sender.execute(program, "run", str(number))
            who = facts(sender.pid)
            assert who["exe"] == program
            assert who["argv"] == [program, "-s", "run", str(number)]
            send_by_shell(sender, target)
            expected.append(who)
        events = ktrace.stop()
        check_complete(ktrace, events)
        for event, who in zip(events, expected, strict=True):
            check_signal(event, USR1, "SI_USER", who, whom)


@pytest.mark.any_kernel
def test_each_name_that_a_process_has_had() -> None:
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        expected = []
        for number in range(TIMES):
            sender.do("rename", f"name {number}")
            target.do("rename", f"other {number}")
            expected.append((facts(sender.pid), facts(target.pid)))
            sender.do("kill", target.pid, USR1)
            target.do("take")
        events = ktrace.stop()
        check_complete(ktrace, events)
        for event, (who, whom) in zip(events, expected, strict=True):
            check_signal(event, USR1, "SI_USER", who, whom)


@pytest.mark.any_kernel
def test_each_user_that_a_process_has_been() -> None:
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        target.do("set_uid", 65534)
        whom, expected = facts(target.pid), []
        for uid in (0, 65534):
            sender.do("set_uid", uid)
            who = facts(sender.pid)
            assert who["uid"] == uid
            expected += [who] * TIMES
            for _ in range(TIMES):
                sender.do("kill", target.pid, USR1)
                target.do("take")
        events = ktrace.stop()
        check_complete(ktrace, events, 2 * TIMES)
        for event, who in zip(events, expected, strict=True):
            check_signal(event, USR1, "SI_USER", who, whom)


@pytest.mark.parametrize(
    "levels", [pytest.param(ANCESTORS // 2, marks=pytest.mark.any_kernel), ANCESTORS + 4]
)
def test_ancestry(levels: int) -> None:
    """Sixteen of them, nearest first."""
    with (
        Actor() as family,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        youngest = family.do("fork_deep", levels, "kill", target.pid, USR1)
        who, whom = facts(youngest), facts(target.pid)
        assert len(who["ancestry"]) == ANCESTORS or levels < ANCESTORS
        assert family.pid in [a["pid"] for a in who["ancestry"]] or levels > ANCESTORS
        family.do("go")
        assert target.do("take")[2] == youngest
        family.do("reap", 1)
        (event,) = ktrace.stop()
        check_signal(event, USR1, "SI_USER", who, whom)


def test_a_program_in_memory() -> None:
    memory = os.memfd_create("ktrace-test")
    shutil.copyfile("/bin/sh", f"/proc/self/fd/{memory}")
    with (
        Shell(f"/proc/self/fd/{memory}", descriptors=[memory]) as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        who, whom = facts(sender.pid), facts(target.pid)
        assert who["exe"] == "/memfd:ktrace-test (deleted)"
        for _ in range(TIMES):
            send_by_shell(sender, target)
        events = ktrace.stop()
        check_complete(ktrace, events)
        for event in events:
            check_signal(event, USR1, "SI_USER", who, whom)
    os.close(memory)


def test_a_program_whose_file_is_gone(place: Path) -> None:
    program = copy_of_shell(place / "gone")
    with (
        Shell(program) as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        os.unlink(program)
        who, whom = facts(sender.pid), facts(target.pid)
        assert who["exe"] == f"{program} (deleted)"
        for _ in range(TIMES):
            send_by_shell(sender, target)
        events = ktrace.stop()
        check_complete(ktrace, events)
        for event in events:
            check_signal(event, USR1, "SI_USER", who, whom)


def test_a_long_path_and_long_arguments(place: Path) -> None:
    """What does not fit is cut, and what is there is right: the end of the path, the beginning of
    the arguments."""
    deep = place.joinpath(*["d" * 60] * 15)
    deep.mkdir(parents=True)
    program = copy_of_shell(deep / "program")
    words = ["w" * 50] * 10 + ["x" * 300] * 10
    with (
        Shell(program) as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        sender.execute(program, *words)
        who, whom = facts(sender.pid), facts(target.pid)
        send_by_shell(sender, target)
        (event,) = ktrace.stop()
        seen = event["sender"]["exe"]
        assert seen.startswith("…/")
        assert program.endswith(seen.removeprefix("…"))
        assert seen.count("/") > 5
        fitting = "\0".join(who["argv"])[:1024].split("\0")
        check_signal(event, USR1, "SI_USER", who | {"exe": seen, "argv": fitting}, whom)


def test_a_cgroup_that_lies_deep() -> None:
    """The outermost pod decides; nobody may hide it by making cgroups below."""
    uid, levels = "5016bc16-7c78-4389-a89c-9c971211370b", ["x" * 100] * 30
    with memory_cgroup(1 << 30) as top, ExitStack() as made:
        below = top
        for name in ("kubepods", f"pod{uid}", "a" * 64, *levels):
            below = below / name
            below.mkdir()
            made.callback(below.rmdir)
        with (
            Actor() as target,
            Ktrace("signals", "--pid", str(target.pid)) as ktrace,
        ):
            move(target.pid, below)
            os.kill(target.pid, USR1)
            target.do("take")
            (event,) = ktrace.stop()
    assert event["target"]["pod"]["uid"] == uid
    assert event["target"]["container"]["id"] == "a" * 64


@pytest.mark.any_kernel
def test_a_suspicious_program_stands_out(place: Path) -> None:
    """In the table, also without colour."""
    program = copy_of_shell(place / "implant")
    with (
        Shell(program) as suspicious,
        Shell() as plain,
        Actor() as target,
        Ktrace(
            "signals",
            *("--pid", str(target.pid)),
            output="table",
            environment={"NO_COLOR": "1"},
        ) as ktrace,
    ):
        for sender in (suspicious, plain):
            send_by_shell(sender, target)
        ktrace_output(ktrace)
        titles, first, second = ktrace.output.decode().splitlines()
        assert titles.split()[:3] == ["TIME", "SIGNAL", "SENDER"]
        assert first.split()[1:4] == ["!", "SIGUSR1", f"implant[{suspicious.pid}]"]
        assert second.split()[1:3] == ["SIGUSR1", f"sh[{plain.pid}]"]
        assert b"\x1b" not in ktrace.output


@pytest.mark.any_kernel
def test_a_hostile_process_in_json() -> None:
    hostile_words = [HOSTILE, b'{"pod": null}', b"", b"\xed\xa0\x80", "ü→".encode()]
    with (
        Actor(*hostile_words, argv0=HOSTILE) as sender,
        Actor(*hostile_words, argv0=HOSTILE) as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        for actor in (sender, target):
            actor.do("rename", HOSTILE.decode("utf-8", "surrogateescape"))
        who, whom = facts(sender.pid), facts(target.pid)
        for side in (who, whom):
            assert side["comm"] == "\x1b[2J[red]k\n\\xff\\xfe\x07" == text(HOSTILE)
            assert side["argv"][0] == side["comm"]
            assert side["argv"][-5:] == [text(word) for word in hostile_words]
        for _ in range(TIMES):
            sender.do("kill", target.pid, USR1)
            target.do("take")
        events = ktrace.stop()
        check_complete(ktrace, events)
        assert ktrace.output.count(b"\n") == TIMES
        assert b"\x1b" not in ktrace.output
        for event in events:
            check_signal(event, USR1, "SI_USER", who, whom)


@pytest.mark.any_kernel
@pytest.mark.parametrize("output", ["table", "wide"])
@pytest.mark.parametrize("colour", ["always", "never"])
def test_a_hostile_process_in_the_table(output: str, colour: str) -> None:
    with (
        Actor(HOSTILE, argv0=HOSTILE) as sender,
        Actor(HOSTILE, argv0=HOSTILE) as target,
        Ktrace("signals", "--pid", str(target.pid), "--color", colour, output=output) as ktrace,
    ):
        for actor in (sender, target):
            actor.do("rename", HOSTILE.decode("utf-8", "surrogateescape"))
        sender.do("kill", target.pid, USR1)
        ktrace_output(ktrace)
        shown = ktrace.output.decode()
        for code in ("\x1b[1m", "\x1b[0m", "\x1b[31m"):
            shown = shown.replace(code, "") if colour == "always" else shown
        titles, line = shown.splitlines()
        assert line.isprintable(), line
        assert rf"\x1b[2J[red]k\n\xff\xfe\x07[{sender.pid}]" in line
        assert rf"\x1b[2J[red]k\n\xff\xfe\x07[{target.pid}]" in line
        assert ("ARGV" in titles) == (output == "wide")


def test_a_pid_that_is_used_again() -> None:
    """Two processes that share a pid are two descriptions."""
    with Ktrace("signals", "--all", "--signal", "USR1") as ktrace, Actor() as target:
        whom, expected = facts(target.pid), []
        for sender in _two_with_one_pid():
            expected.append(facts(sender.pid))
            sender.do("kill", target.pid, USR1)
            target.do("take")
        events = signals_to(ktrace.stop(), target.pid)
        check_complete(ktrace, events, len(expected))
        for event, who in zip(events, expected, strict=True):
            check_signal(event, USR1, "SI_USER", who, whom)
        first, second = (event["sender"] for event in events[-2:])
        assert first["pid"] == second["pid"]
        assert (first["argv"][0], second["argv"][0]) == ("first", "second")


def _two_with_one_pid() -> Iterator[Actor]:
    """One after the other, the last two under the same pid. Somebody else may be faster and take
    it; then again."""
    last_pid = Path("/proc/sys/kernel/ns_last_pid")
    for _ in range(20):
        with Actor(argv0="first") as first:
            yield first
        before = last_pid.read_text()
        last_pid.write_text(str(first.pid - 1))
        with Actor(argv0="second") as second:
            last_pid.write_text(before)
            yield second
            if second.pid == first.pid:
                return
    raise AssertionError("another process always took the pid")


def ktrace_output(ktrace: Ktrace) -> None:
    """Ends a ktrace whose output is no JSON."""
    ktrace.signal(signal.SIGINT)
    assert ktrace.exit_code() == 0, ktrace.stderr
