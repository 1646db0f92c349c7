# SPDX-License-Identifier: Apache-2.0
"""The command line against a real kernel: which events are chosen, how a run ends, and that nothing
of it stays in the kernel."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from functools import partial

import pytest

from tests.kernel.checks import (
    TIMES,
    check_complete,
    check_signal,
    is_loaded,
    programs_of,
    signals_to,
)
from tests.support.ktrace import BACKEND, HAS_KPROBES, ROOT, Ktrace, run
from tests.support.raisers import Actor, facts
from tests.support.wait import wait_for

USR1, TERM, KILL = int(signal.SIGUSR1), int(signal.SIGTERM), int(signal.SIGKILL)
CLOSING_LINE = re.compile(r"ktrace: \d+ events, \d+ lost, \d+\.\d s\n")


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        pytest.param("USR1", ["SIGUSR1"], marks=pytest.mark.any_kernel),
        pytest.param("TERM,USR1", ["SIGUSR1", "SIGTERM"], marks=pytest.mark.any_kernel),
        pytest.param("sigterm, 10", ["SIGUSR1", "SIGTERM"], marks=pytest.mark.any_kernel),
        pytest.param("RTMIN+3", ["SIGRTMIN+3"], marks=pytest.mark.any_kernel),
        pytest.param("RTMIN+30,USR2", ["SIGUSR2", "SIGRTMIN+30"], marks=pytest.mark.any_kernel),
        pytest.param(
            "WINCH,URG,PROF,CHLD",
            ["SIGCHLD", "SIGURG", "SIGPROF", "SIGWINCH"],
            marks=pytest.mark.any_kernel,
        ),
        pytest.param(
            None,
            ["SIGUSR1", "SIGUSR2", "SIGTERM", "SIGRTMIN+3", "SIGRTMIN+30"],
            marks=pytest.mark.any_kernel,
        ),
        (
            "all",
            [
                *("SIGUSR1", "SIGUSR2", "SIGTERM", "SIGCHLD", "SIGURG", "SIGPROF", "SIGWINCH"),
                *("SIGRTMIN+3", "SIGRTMIN+30"),
            ],
        ),
    ],
)
def test_signals_by_name(option: str | None, expected: list[str]) -> None:
    options = ["--signal", option] if option else []
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid), *options) as ktrace,
    ):
        for number in (10, 12, 15, 17, 23, 27, 28, 37, 64):
            sender.do("repeat", TIMES, "kill", target.pid, number)
        seen = [event["signal"]["name"] for event in ktrace.stop()]
        assert seen == [name for name in expected for _ in range(TIMES)]


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    "option", ["NOPE", "KILL,NOPE", "0", "65", "RTMIN+31", "-1", "RTMIN+x", "", ",", " "]
)
def test_a_signal_that_there_is_not(option: str) -> None:
    ended = run("signals", f"--signal={option}", "--duration=1ms")
    assert ended.returncode == 2, ended
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) <= 2
    for name in ("KILL", "TERM", "HUP", "RTMIN", "all"):
        assert name in ended.stderr


def test_targets_by_pid() -> None:
    """Chosen in the kernel: what was not chosen is not even counted."""
    with (
        Actor() as sender,
        Actor() as one,
        Actor() as two,
        Actor() as three,
        Ktrace("signals", "--pid", str(one.pid), "--pid", str(three.pid)) as ktrace,
    ):
        who = facts(sender.pid)
        whom = {target.pid: facts(target.pid) for target in (one, two, three)}
        for _ in range(TIMES):
            for target in (one, two, three):
                sender.do("kill", target.pid, USR1)
                target.do("take")
                target.do("kill", sender.pid, USR1)
        events = ktrace.stop()
        check_complete(ktrace, events, 2 * TIMES)
        assert ktrace.summary.events == 2 * TIMES
        assert [event["target"]["pid"] for event in events] == [one.pid, three.pid] * TIMES
        for event in events:
            check_signal(event, USR1, "SI_USER", who, whom[event["target"]["pid"]])


def test_the_default_shows_only_what_concerns_pods() -> None:
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals") as usual,
        Ktrace("signals", "--all") as everything,
    ):
        for _ in range(TIMES):
            sender.do("kill", target.pid, USR1)
            target.do("take")
        assert signals_to(usual.stop(), target.pid) == []
        check_complete(everything, signals_to(everything.stop(), target.pid))


@pytest.mark.any_kernel
def test_several_at_the_same_time() -> None:
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as one,
        Ktrace("signals", "--pid", str(target.pid)) as two,
        Ktrace("trace", "signals,exits", "--pid", str(target.pid)) as three,
    ):
        who, whom = facts(sender.pid), facts(target.pid)
        for _ in range(TIMES):
            sender.do("kill", target.pid, USR1)
            target.do("take")
        for ktrace in (one, two, three):
            events = ktrace.stop()
            check_complete(ktrace, events)
            for event in events:
                check_signal(event, USR1, "SI_USER", who, whom)


def test_two_probes_in_one_stream() -> None:
    """In the order in which it happened."""
    with (
        Ktrace("trace", "signals,exits", "--all", "--signal", "KILL,USR1") as ktrace,
        Actor() as sender,
        Actor(executed=True) as target,
    ):
        sender.do("kill", target.pid, USR1)
        sender.do("kill", target.pid, KILL)
        assert target.wait() == -KILL
        events = ktrace.stop()
        about = {"signal": "target", "exit": "process"}
        seen = [event for event in events if event[about[event["kind"]]]["pid"] == target.pid]
        if BACKEND == "stap":  # its modules have a buffer each, which is emptied now and then
            seen.sort(key=lambda event: int(event["boot_ns"]))
        assert [(event["kind"], event["signal"]["name"]) for event in seen] == [
            ("signal", "SIGUSR1"),
            ("signal", "SIGKILL"),
            ("exit", "SIGKILL"),
        ]
        assert seen[2]["process"] == seen[1]["target"] == seen[0]["target"]


if not HAS_KPROBES:

    def test_a_probe_that_the_kernel_refuses() -> None:
        """The others are traced, and it is said; alone it is an error."""
        refused = ("backlog", 1)
        with (
            Actor() as sender,
            Actor() as target,
            Ktrace(
                *("trace", "signals,backlog,exits", "--pid", str(target.pid)), only=refused
            ) as ktrace,
        ):
            sender.do("repeat", TIMES, "kill", target.pid, USR1)
            seen = [(event["kind"], event["signal"]["name"]) for event in ktrace.stop()]
            assert seen == [("signal", "SIGUSR1")] * TIMES
            assert ktrace.stderr.startswith("ktrace: without backlog: this kernel accepts none of")
        alone = [sys.executable, "-m", "tests.support.only", *map(str, refused), "backlog"]
        ended = subprocess.run(alone, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ended.returncode == 4
        assert ended.stderr.startswith("ktrace: backlog: this kernel accepts none of")
        assert ended.stderr.count("\n") == 2


@pytest.mark.any_kernel
def test_count_ends_by_itself() -> None:
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid), "--count", "5") as ktrace,
    ):
        who, whom = facts(sender.pid), facts(target.pid)
        sender.do("repeat", TIMES, "sigqueue", target.pid, 40)
        events = ktrace.wait()
        check_complete(ktrace, events, 5)
        assert ktrace.summary.events == 5
        for event in events:
            check_signal(event, 40, "SI_QUEUE", who, whom, name="SIGRTMIN+6")


@pytest.mark.any_kernel
def test_duration_ends_by_itself() -> None:
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid), "--duration", "3s") as ktrace,
    ):
        sender.do("kill", target.pid, USR1)
        events = ktrace.wait()
        check_complete(ktrace, events, 1)
        assert 3 <= ktrace.summary.seconds < 60


@pytest.mark.any_kernel
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_order(number: int) -> None:
    """What was traced until then is shown, also what had not been read yet."""
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        programs = programs_of(ktrace.pid)
        assert programs
        ktrace.signal(signal.SIGSTOP)
        sender.do("repeat", TIMES, "sigqueue", target.pid, 40)
        ktrace.signal(number)
        ktrace.signal(signal.SIGCONT)
        events = ktrace.wait()
        check_complete(ktrace, events)
        assert CLOSING_LINE.fullmatch(ktrace.stderr)
        wait_for("the programs to go", lambda: not any(map(is_loaded, programs)))


def one_more_than(seen: int, ktrace: Ktrace) -> bool:
    assert not ktrace.ended
    return len(ktrace.events) == seen + 1


def test_under_nohup_it_outlives_the_terminal() -> None:
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid), inside=["nohup"]) as ktrace,
    ):
        for seen in range(TIMES):
            ktrace.signal(signal.SIGHUP)
            sender.do("sigqueue", target.pid, 40)
            wait_for("the event", partial(one_more_than, seen, ktrace))
        check_complete(ktrace, ktrace.stop())


@pytest.mark.any_kernel
@pytest.mark.parametrize("output", ["json", "table"])
def test_a_pipe_that_is_closed_early(output: str) -> None:
    """`ktrace … | head -1` ends quietly."""
    reader, writer = os.pipe()
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid), output=output, stdout=writer) as ktrace,
    ):
        os.close(writer)
        head = subprocess.Popen(["head", "-1"], stdin=reader, stdout=subprocess.PIPE)
        os.close(reader)

        def ended_after_another() -> bool:
            sender.do("kill", target.pid, USR1)
            target.do("take", 0)
            return ktrace.ended

        wait_for("ktrace to notice that head is gone", ended_after_another)
        line, _ = head.communicate()
        if output == "json":
            assert json.loads(line)["target"]["pid"] == target.pid
        assert ktrace.exit_code() == 0, ktrace.stderr
        assert ktrace.stderr == "" or CLOSING_LINE.fullmatch(ktrace.stderr)


@pytest.mark.any_kernel
@pytest.mark.parametrize("output", ["json", "table"])
def test_a_reader_that_stalls_gets_whole_lines(output: str) -> None:
    """Ctrl-C, and again because nobody reads: what is in the pipe ends with a line."""
    reader, writer = os.pipe()
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid), output=output, stdout=writer) as ktrace,
    ):

        def is_full() -> bool:
            sender.do("repeat", TIMES, "sigqueue", target.pid, 40)
            return not select.select([], [writer], [], 0)[1]

        def has_ended() -> bool:
            ktrace.signal(signal.SIGINT)
            return ktrace.ended

        wait_for("a full pipe", is_full)
        wait_for("the end", has_ended, interval=0.2)
        # a third one may come after Python has given SIGINT its default action back
        assert ktrace.exit_code() in (130, -signal.SIGINT)
        os.close(writer)
        with os.fdopen(reader, "rb") as rest:
            *lines, last = rest.read().split(b"\n")
        assert last == b""
        if output == "json":
            assert {json.loads(line)["target"]["pid"] for line in lines} == {target.pid}
        else:
            assert len({len(line.split()) for line in lines[1:]}) == 1


def test_killed_with_kill_9() -> None:
    """Nothing stays in the kernel, and the next run works."""
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        programs = programs_of(ktrace.pid)
        assert len(programs) >= 4
        assert all(map(is_loaded, programs))
        ktrace.signal(KILL)
        assert ktrace.exit_code() == -KILL
        wait_for("the programs to go", lambda: not any(map(is_loaded, programs)))
        with Ktrace("signals", "--pid", str(target.pid)) as again:
            who, whom = facts(sender.pid), facts(target.pid)
            for _ in range(TIMES):
                sender.do("kill", target.pid, USR1)
                target.do("take")
            events = again.stop()
            check_complete(again, events)
            for event in events:
                check_signal(event, USR1, "SI_USER", who, whom)


@pytest.mark.any_kernel
def test_without_titles() -> None:
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace(
            "signals",
            *("--pid", str(target.pid), "--no-headers", "--count", "1"),
            output="table",
        ) as ktrace,
    ):
        sender.do("kill", target.pid, USR1)
        assert ktrace.exit_code() == 0
        (line,) = ktrace.output.decode().splitlines()
        assert line.split()[1] == "SIGUSR1"
