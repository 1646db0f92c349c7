# SPDX-License-Identifier: Apache-2.0
"""How processes end: one event for each, with what their parent's wait(2) says."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.checks import (
    EXIT_KEYS,
    TIMES,
    Event,
    check_circumstances,
    check_complete,
    exits_of,
)
from tests.support.ktrace import Ktrace
from tests.support.raisers import Actor, Idle, boot_ns, check_process, facts, own_child

SCHED_PROCESS_EXIT = Path("/sys/kernel/tracing/events/sched/sched_process_exit/format")
KILL, ABRT = int(signal.SIGKILL), int(signal.SIGABRT)


def check_exit(
    event: Event,
    process: dict[str, Any],
    *,
    code: int | None = None,
    killed_by: int | None = None,
    core: bool = False,
    meaning: str,
) -> None:
    assert list(event) == EXIT_KEYS
    assert event["kind"] == "exit"
    check_circumstances(event)
    check_process(event["process"], process)
    assert event["exit_code"] == code
    name = killed_by and signal.Signals(killed_by).name
    assert event["signal"] == (killed_by and {"number": killed_by, "name": name})
    assert event["core_dumped"] is core
    assert event["container_exit"] is None
    assert event["meaning"] == meaning


def test_exit_with_a_code() -> None:
    """Processes that live for a moment, described to the last field."""
    with Ktrace("exits", "--all") as ktrace:
        expected = {}
        for _ in range(TIMES):
            argv, started = ["sh", "-c", "exit 3", "a word"], boot_ns()
            pid = os.posix_spawn("/bin/sh", argv, os.environ)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
            expected[pid] = own_child(pid, "/bin/sh", argv, started)
        events = exits_of(ktrace.stop(), expected)
        check_complete(ktrace, events)
        assert [event["process"]["pid"] for event in events] == list(expected)
        for event, process in zip(events, expected.values(), strict=True):
            check_exit(event, process, code=3, meaning="3: the program's own code")


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (0, "0: success"),
        (1, "1: general error"),
        (126, "126: command found but not executable"),
        (127, "127: command not found"),
        (
            137,
            "137 = 128 + 9: exited by itself with the code that a shell gives for a child killed"
            " by SIGKILL",
        ),
        (255, "255: exit(-1), or out of range"),
    ],
)
def test_a_code_in_words(code: int, meaning: str) -> None:
    """128 + 9 that a process chose by itself is a code, not a signal."""
    with Ktrace("exits", "--all") as ktrace, Actor() as process:
        expected = facts(process.pid)
        process.start("leave", code)
        assert process.wait() == code
        (event,) = exits_of(ktrace.stop(), process.pid)
        check_exit(event, expected, code=code, meaning=meaning)


def test_killed() -> None:
    with Ktrace("exits", "--all") as ktrace:
        expected = []
        for _ in range(TIMES):
            with Idle() as victim:
                expected.append(facts(victim.pid))
                os.kill(victim.pid, KILL)
                assert victim.wait() == -KILL
        events = exits_of(ktrace.stop(), [process["pid"] for process in expected])
        check_complete(ktrace, events)
        for event, process in zip(events, expected, strict=True):
            meaning = "137 = 128 + 9: killed by SIGKILL"
            check_exit(event, process, killed_by=KILL, meaning=meaning)


def test_a_dumped_core() -> None:
    with (
        tempfile.TemporaryDirectory() as directory,
        Ktrace("exits", "--all") as ktrace,
        Actor() as parent,
    ):
        parent.do("change_directory", directory)
        victims = parent.do("fork", TIMES, "abort_with_core")
        known = {pid: facts(pid) for pid in victims}
        statuses = {}
        for _ in victims:  # one after the other: each core takes the place of the last
            parent.do("go")
            parent.do("take")
            pid, status = parent.do("reap_any")
            statuses[pid] = status
        events = exits_of(ktrace.stop(), victims)
        check_complete(ktrace, events)
        assert [event["process"]["pid"] for event in events] == list(statuses)
        for event in events:
            pid = event["process"]["pid"]
            assert os.WTERMSIG(statuses[pid]) == ABRT
            core = os.WCOREDUMP(statuses[pid])
            assert core or not _cores_are_files(), "no core was dumped"
            meaning = "134 = 128 + 6: killed by SIGABRT" + ", core dumped" * core
            expected = only_forked(known[pid], event["process"])
            check_exit(event, expected, killed_by=ABRT, core=core, meaning=meaning)


def test_children_that_never_executed_a_program() -> None:
    """Their memory may be gone when they are first seen; then the program is not known, and that
    is said. What is said is right."""
    with Ktrace("exits", "--all") as ktrace, Actor() as parent:
        children = parent.do("fork", TIMES, "leave", 3)
        expected = {pid: facts(pid) for pid in children}
        parent.do("go", TIMES)
        parent.do("reap", TIMES)
        events = exits_of(ktrace.stop(), children)
        check_complete(ktrace, events)
        assert sorted(event["process"]["pid"] for event in events) == sorted(children)
        for event in events:
            process = only_forked(expected[event["process"]["pid"]], event["process"])
            check_exit(event, process, code=3, meaning="3: the program's own code")


@pytest.mark.any_kernel
def test_a_process_of_many_threads() -> None:
    """The end of a thread is no event, the end of the process is one."""
    with Ktrace("exits", "--all") as ktrace, Actor() as process:
        for _ in range(TIMES):
            process.do("start_thread")
        process.do("start_and_end_threads", TIMES)
        expected = facts(process.pid)
        process.start("leave", 3)
        assert process.wait() == 3
        (event,) = exits_of(ktrace.stop(), process.pid)
        check_exit(event, expected, code=3, meaning="3: the program's own code")


@pytest.mark.parametrize("whole", [True, pytest.param(False, marks=pytest.mark.any_kernel)])
def test_a_leader_that_leaves_first(whole: bool) -> None:
    """exit_group(2) by the last thread decides on the code. If that only exits as a thread, older
    kernels report the leader's code and newer ones the last thread's: what wait(2) says counts."""
    with Ktrace("exits", "--all") as ktrace, Actor() as parent:
        children = parent.do("fork", TIMES, "leader_leaves_first", 5, 7, whole)
        known = {pid: facts(pid) for pid in children}
        codes = end_in_turn(parent)
        assert all(code == 7 or (code == 5 and not whole) for code in codes.values())
        check_own_codes(ktrace, known, codes)


@pytest.mark.any_kernel
def test_a_leader_that_left_and_a_signal_later() -> None:
    """A process without its leader is killed: the signal counts, not the leader's code."""
    with Ktrace("exits", "--all") as ktrace, Actor() as process:
        expected = facts(process.pid)
        process.start("leader_leaves_and_a_thread_stays", 5)
        os.kill(process.pid, KILL)
        assert process.wait() == -KILL
        (event,) = exits_of(ktrace.stop(), process.pid)
        meaning = "137 = 128 + 9: killed by SIGKILL"
        check_exit(event, expected, killed_by=KILL, meaning=meaning)


def test_threads_that_leave_together() -> None:
    """Two last threads may both see that nobody is left."""
    with Ktrace("exits", "--all") as ktrace, Actor() as parent:
        children = parent.do("fork", TIMES, "threads_leave_together", 20, 4, 3)
        known = {pid: facts(pid) for pid in children}
        codes = end_in_turn(parent)
        assert set(codes.values()) <= {3, 4}
        check_own_codes(ktrace, known, codes)


def test_a_thread_that_executes_a_program() -> None:
    """It takes the leader's place: nothing has ended but threads."""
    with Ktrace("exits", "--all") as ktrace, Actor() as process:
        known = facts(process.pid)
        thread = process.do("start_thread")
        argv = ["sh", "-c", "exit 7"]
        process.start("in_thread", thread, "execute", "/bin/sh", *argv)
        assert process.wait() == 7
        (event,) = exits_of(ktrace.stop(), process.pid)
        after = {"comm": "sh", "exe": os.path.realpath("/bin/sh"), "argv": argv}
        # the process began with its first thread, but the kernel gives a new leader the old time
        check_exit(event, known | after, code=7, meaning="7: the program's own code")


def test_pid_1_of_a_namespace_outside_containers() -> None:
    """There is no container whose end it could be."""
    with Ktrace("exits", "--all") as ktrace, Actor(pid_namespace=True) as init:
        expected = facts(init.pid)
        init.start("leave", 9)
        init.wait()
        (event,) = exits_of(ktrace.stop(), init.pid)
        assert event["process"]["pid_in_pod"] == 1
        check_exit(event, expected, code=9, meaning="9: the program's own code")


def test_processes_by_pid() -> None:
    with (
        Actor() as one,
        Actor() as two,
        Ktrace("exits", "--pid", str(one.pid), "--count", "1") as ktrace,
    ):
        for process in (two, one):
            process.start("leave", 3)
            assert process.wait() == 3
        (event,) = ktrace.wait()
        assert event["process"]["pid"] == one.pid


def end_in_turn(parent: Actor) -> dict[int, int]:
    """Lets the children go one by one: their codes by pid, in the order of their ends."""
    codes = {}
    for _ in range(TIMES):
        parent.do("go")
        pid, status = parent.do("reap_any")
        codes[pid] = os.waitstatus_to_exitcode(status)
    return codes


def check_own_codes(
    ktrace: Ktrace, known: dict[int, dict[str, Any]], codes: dict[int, int]
) -> None:
    events = exits_of(ktrace.stop(), codes)
    check_complete(ktrace, events)
    for event, (pid, code) in zip(events, codes.items(), strict=True):
        process = only_forked(known[pid], event["process"])
        check_exit(event, process, code=code, meaning=f"{code}: the program's own code")


def only_forked(expected: dict[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
    """Before 6.16 (0f4a8dd64dc4, "exit: move and extend sched_process_exit() tracepoint") the
    memory of a process is gone when it is seen, and with it its program and arguments."""
    if seen["exe"] is None:
        assert "group_dead" not in SCHED_PROCESS_EXIT.read_text()
        return {**expected, "exe": None, "argv": None}
    return expected


def _cores_are_files() -> bool:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    return not pattern.startswith(("|", "@"))
