# SPDX-License-Identifier: Apache-2.0
"""Ends of real programs, as ktrace recorded them: a JVM, node, npm and whatever else does more with
a signal than to die of it. Beside each the look-alikes that must not be taken for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.why.world import CRON, INIT, RUNC, SECOND, World, process
from tracer.model.event import Process
from tracer.why.engine import Explanation, explain_all
from tracer.why.verdict import Certainty

JAVA = replace(INIT, comm="java", exe="/usr/lib/jvm/java-17/bin/java")
MUSL = replace(INIT, comm="server", exe="/server")
SH = replace(INIT, comm="sh", exe="/usr/bin/dash")
NPM = replace(INIT, comm="npm start", exe="/usr/bin/node")
NODE = replace(INIT, comm="node", exe="/usr/bin/node")
NPM_SH = process(20, "sh", parents=[(INIT.pid, "npm start"), (3, "containerd-shim")])
SERVER = process(21, "node", parents=[(20, "sh"), (INIT.pid, "npm start")])
SERVER.argv = ["node", "server.js"]
# Described anew, as it has renamed itself, when it was an orphan already.
RENAMED = replace(SERVER, comm="MainThread", ancestors=NPM_SH.ancestors)
BESIDE = process(22, "node", parents=[(INIT.pid, "npm start")], start=SECOND)


def told(world: World) -> tuple[str, str]:
    verdict = world.only().verdict
    return verdict.id, verdict.certainty


def also(explanation: Explanation) -> set[str]:
    return {other.id for other in explanation.others}


# A last resort


def gave_up(who: Process, code: int = 127, *, result: str = "ignored", gap: float = 1) -> World:
    """SIGABRT to itself twice, an instruction that the processor refuses, and exit."""
    world = World()
    world.at(-50_000).signal("SIGSEGV", "kernel", target=who, code="SEGV_ACCERR")
    world.at(-20).signal("SIGSEGV", "kernel", target=who, code="SEGV_MAPERR")
    for at in (-3, -2):
        world.at(at).signal("SIGABRT", "same-container", who, who, result=result, code="SI_TKILL")
    world.at(gap).exit(code, who=who)
    return world


def test_a_jvm_that_crashes_as_pid_1() -> None:
    explanation = gave_up(JAVA).only()
    verdict = explanation.verdict
    assert (verdict.id, verdict.certainty) == ("aborted", Certainty.LIKELY)
    assert "command not found" not in verdict.sentence
    assert "called abort(): SIGABRT, which PID 1 ignores, and then exit code 127" in (
        verdict.sentence
    )
    assert "it had got SIGSEGV just before, it touched an address where nothing is" in (
        verdict.sentence
    )
    assert "hs_err_pid1.log" in verdict.remedy
    assert all("command not found" not in other.sentence for other in explanation.others)


def test_another_program_whose_abort_is_handled_to_the_end() -> None:
    verdict = gave_up(MUSL).only().verdict
    assert verdict.id == "aborted"
    assert "SIGSEGV" not in verdict.sentence and "hs_err" not in verdict.remedy


def test_a_runtime_that_takes_its_time_to_leave() -> None:
    """Of a shell the same would be the code of a command that is not there."""
    assert gave_up(JAVA, gap=1000).only().verdict.id == "aborted"
    shell = replace(JAVA, exe="/usr/bin/dash")
    assert gave_up(shell, gap=1000).only().verdict.id == "exited"


@pytest.mark.parametrize(
    "world",
    [
        gave_up(JAVA, code=1),  # a code that abort() never gives
        gave_up(JAVA, gap=5000),  # long after an abort() that it lived through
    ],
)
def test_no_last_resort(world: World) -> None:
    assert told(world) == ("exited", "certain")


def test_a_shell_does_not_find_a_command() -> None:
    sentence = gave_not_found(SH)
    assert sentence.endswith("called exit(127), command not found")


@pytest.mark.parametrize("exe", ["/bin/busybox", "/usr/bin/env", "/sbin/tini"])
def test_what_executes_others_does_not_find_a_command(exe: str) -> None:
    assert gave_not_found(replace(INIT, exe=exe)).endswith("command not found")


def test_a_program_that_ran_was_found() -> None:
    assert "command not found" not in gave_not_found(JAVA)
    assert "a library that is missing" in gave_not_found(JAVA)


def gave_not_found(who: Process) -> str:
    world = World()
    world.exit(127, who=who)
    return world.only().verdict.sentence


# A core dump takes its time


def dumps(state: str | None, *, fault: str = "SIGSEGV", by: int = 9, name: str = "kernel") -> World:
    """A crash; SIGTERM and SIGKILL of the runtime come while the core dump is written."""
    sender = {"kernel": None, "host": CRON, "same-container": INIT}[name]
    code = "SEGV_MAPERR" if sender is None else "SI_USER"
    world = World()
    world.at(-5000).signal(fault, name, sender, code=code, state="running" if state else None)
    world.at(-2000).signal("SIGTERM", "runtime", RUNC, result="ignored", state=state)
    world.at(0).signal("SIGKILL", "runtime", RUNC, state=state)
    world.at(1).exit(by=by)
    return world


def test_a_crash_whose_core_dump_is_cut_off() -> None:
    explanation = dumps("dumping_core").only()
    verdict = explanation.verdict
    assert (verdict.id, verdict.certainty) == ("crashed", Certainty.CERTAIN)
    assert "got SIGSEGV, it touched an address where nothing is" in verdict.sentence
    assert "its core dump was still being written 5 s later" in verdict.sentence
    assert "stop_ignored" not in also(explanation)


@pytest.mark.parametrize(
    ("fault", "name", "verdict"),
    [
        ("SIGABRT", "same-container", "aborted"),
        ("SIGABRT", "host", "killed_from_host"),
        ("SIGQUIT", "host", "killed_from_host"),
    ],
)
def test_whose_fault_the_core_dump_is(fault: str, name: str, verdict: str) -> None:
    assert told(dumps("dumping_core", fault=fault, name=name)) == (verdict, "certain")


def test_a_dump_that_was_finished() -> None:
    assert dumps("dumping_core", by=11).only().verdict.sentence.startswith("crashed by its own")


def test_a_fault_that_was_handled_long_ago() -> None:
    """Twin: a runtime that handles SIGSEGV as routine, as PID 1 without a handler of SIGTERM."""
    assert told(dumps("running")) == ("stop_ignored", "certain")


def test_where_nobody_tells_what_the_target_was_in() -> None:
    verdict = dumps(None).only().verdict
    assert (verdict.id, verdict.certainty) == ("stop_ignored", Certainty.LIKELY)
    assert verdict.doubts == ("SIGSEGV had reached it before: it may have been dying",)


# Forgotten in SIGSTOP


def stopped_while(state: str | None, *before: str, result: str = "delivered") -> World:
    world = World()
    for number, name in enumerate(before):
        world.at(-9000 + 1000 * number).signal(name, "host", CRON)
    world.at(-2000).signal("SIGTERM", "runtime", RUNC, result=result, state=state)
    world.at(0).signal("SIGKILL", "runtime", RUNC)
    world.at(1).exit(by=9)
    return world


def test_a_process_that_somebody_stopped_and_forgot() -> None:
    verdict = stopped_while("stopped", "SIGSTOP").only().verdict
    assert (verdict.id, verdict.certainty) == ("stop_suspended", Certainty.CERTAIN)
    assert "could not take SIGTERM: SIGSTOP from cron[901] (/usr/sbin/cron) on the host" in (
        verdict.sentence
    )
    assert "had stopped it 7 s before, and nobody had continued it" in verdict.sentence
    assert "terminationGracePeriodSeconds" not in verdict.remedy


def test_one_that_was_stopped_before_anybody_looked() -> None:
    verdict = stopped_while("stopped").only().verdict
    assert verdict.id == "stop_suspended"
    assert "who did that was not seen" in verdict.sentence


def test_one_of_which_only_the_order_of_events_is_known() -> None:
    assert told(stopped_while(None, "SIGSTOP")) == ("stop_suspended", "likely")


@pytest.mark.parametrize(
    "world",
    [
        stopped_while("running", "SIGSTOP", "SIGCONT"),
        stopped_while(None, "SIGSTOP", "SIGCONT"),
        stopped_while("running"),
    ],
)
def test_one_that_was_continued(world: World) -> None:
    explanation = world.only()
    assert explanation.verdict.id == "stop_unfinished"
    assert not also(explanation) & {"stop_suspended", "suspended"}


def test_without_a_handler_it_would_have_ignored_it_anyhow() -> None:
    explanation = stopped_while("stopped", "SIGSTOP", result="ignored").only()
    assert explanation.verdict.id == "stop_ignored"
    assert "suspended" in also(explanation)


def test_sigstop_alone() -> None:
    world = World()
    world.signal("SIGSTOP", "host", CRON)
    verdict = world.only().verdict
    assert (verdict.id, verdict.certainty) == ("suspended", Certainty.CERTAIN)
    assert "does not run: SIGSTOP from cron[901] (/usr/sbin/cron) on the host" in verdict.sentence


def test_a_pause_that_is_over() -> None:
    world = World()
    for name in ("SIGSTOP", "SIGCONT", "SIGSTOP", "SIGCONT"):
        world.signal(name, "host", CRON)
    assert world.explained() == []


def test_a_program_that_stops_its_own_child_and_a_debugger() -> None:
    child = process(8, parents=[(INIT.pid, "app")])
    world = World()
    world.signal("SIGSTOP", "same-container", INIT, child)
    world.signal("SIGSTOP", "kernel", target=child, code="SI_KERNEL")
    world.signal("SIGSTOP", "same-container", child, INIT, result="ignored")
    assert world.explained() == []


def test_one_that_has_ended_since() -> None:
    child = process(8, parents=[(INIT.pid, "app")])
    world = World()
    world.signal("SIGSTOP", "host", CRON, child)
    world.exit(0, who=child, ends_container=False)
    assert world.explained() == []


# The default action, raised again


def raised_again(who: Process, result: str = "delivered", number: str = "SIGTERM") -> World:
    world = World()
    world.at(-10_000).signal("SIGTERM", "runtime", RUNC, who)
    world.at(-9_999).signal(number, "same-container", who, who, result=result)
    world.at(0).signal("SIGKILL", "runtime", RUNC, who)
    world.at(1).exit(by=9, who=who)
    return world


@pytest.mark.parametrize(("result", "certainty"), [("delivered", "likely"), ("ignored", "certain")])
def test_node_as_pid_1_without_a_handler(result: str, certainty: str) -> None:
    verdict = raised_again(NODE, result).only().verdict
    assert (verdict.id, verdict.certainty) == ("stop_ignored", certainty)
    assert "raised it once more for itself" in verdict.sentence
    assert "process.on('SIGTERM', …)" in verdict.remedy
    assert "raise terminationGracePeriodSeconds" not in verdict.remedy


def test_one_that_is_not_pid_1_would_end_by_it() -> None:
    assert told(raised_again(replace(NODE, pid_in_pod=7))) == ("stop_unfinished", "certain")


def test_another_signal_to_itself_is_its_own_affair() -> None:
    assert told(raised_again(NODE, number="SIGUSR1")) == ("stop_unfinished", "certain")


def passed_on(
    survivor: Process = SERVER, *, target: Process = NPM_SH, code: int | None = 1
) -> World:
    world = World()
    world.at(-522).signal("SIGTERM", "runtime", RUNC, NPM)
    world.at(-521).signal("SIGTERM", "same-container", NPM, target)
    world.at(-520).exit(by=15, who=NPM_SH, ends_container=False)
    world.at(0).exit(code, by=None if code is not None else 9, who=NPM)
    world.at(2).signal("SIGKILL", "kernel", target=survivor, code="SI_KERNEL")
    return world


def test_npm_start() -> None:
    verdict = passed_on().only().verdict
    assert (verdict.id, verdict.certainty) == ("stop_not_passed_on", Certainty.LIKELY)
    assert "passed it on to sh[20] (/bin/sh); that ended by it, and node[21]" in verdict.sentence
    assert "never got one" in verdict.sentence
    assert "(node server.js)" in verdict.remedy


def test_npm_start_whose_server_is_an_orphan_by_then() -> None:
    verdict = passed_on(RENAMED, code=None).only().verdict
    assert verdict.id == "stop_not_passed_on"
    assert "which it most likely had started" in verdict.sentence


def test_what_another_started_need_not_have_been_asked() -> None:
    assert passed_on(BESIDE).only().verdict.id == "stopped_in_time"


def test_a_server_that_was_asked_as_well() -> None:
    world = World()
    world.at(-521).signal("SIGTERM", "runtime", RUNC, NPM)
    world.at(-520.5).signal("SIGTERM", "same-container", NPM, SERVER)
    world.at(-520).signal("SIGTERM", "same-container", NPM, NPM_SH)
    world.at(-519).exit(by=15, who=NPM_SH, ends_container=False)
    world.at(0).exit(1, who=NPM)
    world.at(2).signal("SIGKILL", "kernel", target=SERVER, code="SI_KERNEL")
    assert world.only().verdict.id == "stopped_in_time"


# Memory of which nobody knows the limit


@pytest.mark.parametrize(
    ("scope", "limit_of", "certainty", "raises"),
    [
        ("cgroup", "container", "certain", True),
        ("cgroup", "pod", "certain", True),
        ("cgroup", "other", "certain", False),
        ("system", None, "certain", False),
        ("cgroup", None, "likely", False),
        (None, None, "likely", False),
    ],
)
def test_a_limit_is_to_be_raised_only_if_it_was_that(
    scope: str | None, limit_of: str | None, certainty: str, raises: bool
) -> None:
    world = World()
    world.oom(process(8, "worker"), scope=scope, limit_of=limit_of)
    verdict = world.only().verdict
    assert (verdict.id, verdict.certainty) == ("oom_of_child", certainty)
    assert verdict.remedy.startswith("raise resources.limits.memory") is raises


# What Kubernetes shows of a child that was out of memory


def test_oomkilled_of_a_container_that_another_thing_ended() -> None:
    world = World()
    world.at(-9000).oom(process(8, "worker"))
    world.at(-1).signal("SIGKILL", "host", CRON)
    world.at(0).exit(by=9)
    verdict = world.only().verdict
    assert verdict.id == "killed_from_host"
    (hint,) = verdict.hints
    assert "mostly shows OOMKilled for this end, because a child was killed for memory 9 s" in hint


def test_oomkilled_of_a_container_that_goes_on() -> None:
    world = World()
    world.oom(process(8, "worker"))
    verdict = world.only().verdict
    assert "and mostly OOMKilled, whatever ends it" in verdict.sentence
    assert verdict.hints == ()


def test_oomkilled_by_right_needs_no_word() -> None:
    world = World()
    world.at(-9000).oom(process(8, "worker"))
    world.at(-1).oom()
    world.at(0).exit(by=9)
    verdict = world.only().verdict
    assert (verdict.id, verdict.hints) == ("oom_container_limit", ())


# A forbidden system call, and limits of the process


GETPPID = {"number": 110, "name": "getppid", "machine": "x86_64"}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (GETPPID, "made the system call getppid (110 on x86_64) that it forbids"),
        ({**GETPPID, "name": None}, "made system call 110 on x86_64 that it forbids"),
        (None, "made a system call that it forbids"),
    ],
)
def test_the_call_that_seccomp_forbids(call: dict[str, object] | None, words: str) -> None:
    world = World()
    world.signal("SIGSYS", "kernel", code="SYS_SECCOMP", call=call)
    world.exit(by=31)
    verdict = world.only().verdict
    assert verdict.id == "seccomp"
    assert words in verdict.sentence
    assert ("audit log" in verdict.remedy) is (call is None)


def test_the_call_that_seccomp_forbids_below_a_shell() -> None:
    child = process(8, "app", parents=[(INIT.pid, "sh")])
    for after, verdict_id in ((1, "exited_after_child"), (None, "child_crashed")):
        world = World()
        world.at(-2).signal("SIGSYS", "kernel", target=child, code="SYS_SECCOMP", call=GETPPID)
        world.at(-1).exit(by=31, who=child, ends_container=False)
        if after is not None:
            world.at(after).exit(159)
        verdict = world.only().verdict
        assert verdict.id == verdict_id
        assert "the system call getppid (110 on x86_64), which its seccomp profile forbids" in (
            verdict.sentence
        )


def test_a_limit_of_the_process() -> None:
    world = World()
    world.signal("SIGXCPU", "kernel", code="SI_KERNEL")
    world.exit(by=24)
    verdict = world.only().verdict
    assert verdict.id == "crashed"
    assert "more processor time than its limit RLIMIT_CPU allows" in verdict.sentence


def test_where_a_worker_crashed() -> None:
    child = process(8, "worker", parents=[(INIT.pid, "app")])
    world = World()
    world.signal("SIGSEGV", "kernel", target=child, code="SEGV_MAPERR")
    world.exit(by=11, who=child, ends_container=False)
    (story,) = world.timelines.stories()
    story.locate = lambda who: f"in libx.so, function f{who.pid}()" if who else None
    (explanation,) = explain_all([story])
    assert explanation.verdict.sentence.endswith("where nothing is; in libx.so, function f8()")


def test_a_shell_and_a_program_that_leave_with_2() -> None:
    for who, words in ((SH, "exit(2), wrong usage"), (MUSL, "exit(2)")):
        world = World()
        world.exit(2, who=who)
        sentence = world.only().verdict.sentence
        assert words in sentence and ("wrong usage" in sentence) is (who is SH)


# A handler that reports a crash sends the signal once more

PYTHON = replace(INIT, comm="python3", exe="/usr/bin/python3.11")
TINI = replace(INIT, comm="tini", exe="/usr/bin/tini")


def reported(child: Process, *, fault: bool = True) -> World:
    """As Python's faulthandler does it, and redis."""
    world = World()
    if fault:
        world.at(-30).signal("SIGSEGV", "kernel", target=child, code="SEGV_MAPERR")
    world.at(-10).signal("SIGSEGV", "same-container", child, child, code="SI_TKILL")
    world.at(-9).exit(by=11, who=child, ends_container=False)
    return world


CHILD = process(30, "python3", parents=[(INIT.pid, "tini"), (3, "containerd-shim")])
TWICE = (
    "which it sent to itself when it had handled the kernel's: it touched an address where nothing"
    " is"
)


def test_a_child_whose_handler_reports_its_crash() -> None:
    verdict = reported(CHILD).only().verdict
    assert (verdict.id, verdict.certainty) == ("child_crashed", Certainty.CERTAIN)
    assert TWICE in verdict.sentence
    own = reported(CHILD, fault=False).only().verdict
    assert own.sentence.endswith("SIGSEGV, which it sent to itself")


def test_an_init_passes_on_the_end_of_such_a_child() -> None:
    world = reported(CHILD)
    world.at(0).exit(139, who=TINI)
    verdict = world.only().verdict
    assert verdict.id == "exited_after_child"
    assert f"was ended by SIGSEGV, {TWICE}, and tini[7]" in verdict.sentence
    assert "which is not known" not in verdict.sentence and "got it from" not in verdict.sentence


def test_a_first_process_whose_handler_reports_its_crash() -> None:
    world = World()
    first = replace(PYTHON, pid_in_pod=8)  # not PID 1, which would drop the signal
    world.at(-30).signal("SIGBUS", "kernel", target=first, code="BUS_ADRERR")
    world.at(-10).signal("SIGBUS", "same-container", first, first, code="SI_TKILL")
    world.at(0).exit(by=7, who=first)
    verdict = world.only().verdict
    assert verdict.id == "crashed"
    assert "when it had handled the kernel's: it touched a mapped file" in verdict.sentence
    assert any("/dev/shm" in hint for hint in verdict.hints)


@pytest.mark.parametrize(("first", "shell"), [(SH, True), (TINI, False), (PYTHON, False)])
def test_a_shell_in_between_is_spoken_of_only_if_there_is_one(first: Process, shell: bool) -> None:
    world = World()
    world.at(-2).exit(3, who=CHILD, ends_container=False)
    world.at(0).exit(3, who=first)
    verdict = world.only().verdict
    assert verdict.id == "exited_after_child"
    assert ("shell" in verdict.remedy) is shell
