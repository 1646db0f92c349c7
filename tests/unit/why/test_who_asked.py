# SPDX-License-Identifier: Apache-2.0
"""Ends that somebody else than the runtime asked for, and ends that follow from what a child met:
which of the causes that hold at the same time is the one that is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.why.world import CRON, INIT, MIB, MS, RUNC, World, process
from tracer.decode.signals import NUMBERS
from tracer.model.event import Process
from tracer.why.verdict import Certainty

SHIM = (3, "containerd-shim")
KILL = process(60, "kill", parents=[(59, "sh"), SHIM])
QUIT = process(61, "nginx", parents=[(40, "runc"), SHIM])
SERVER = process(7, "nginx", init=True, parents=[SHIM])
WORKER = process(8, "worker", parents=[(INIT.pid, "app"), SHIM])
PIPE = process(9, "tee", parents=[(INIT.pid, "app"), SHIM])


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGQUIT"])
def test_who_asked_and_when(name: str) -> None:
    world = World()
    world.at(-12).signal(name, "host", CRON)
    world.at(0).exit(0)
    verdict = world.only().verdict
    assert (verdict.id, verdict.certainty) == ("ended_on_request", Certainty.LIKELY)
    assert verdict.sentence == (
        f"asked to end: {name} from cron[901] (/usr/sbin/cron) on the host, started by sh[33];"
        " app[7] (/bin/app) ended 12 ms later, with exit code 0, success"
    )
    assert "foreground" not in verdict.remedy


@pytest.mark.parametrize("sender", [KILL, QUIT])
def test_a_command_that_the_runtime_executed(sender: object) -> None:
    """`kubectl exec … kill 1`, `nginx -s quit`."""
    world = World()
    world.at(-5).signal("SIGQUIT", "same-container", sender, SERVER)  # type: ignore[arg-type]
    world.at(0).exit(0, who=SERVER)
    verdict = world.only().verdict
    assert verdict.id == "ended_on_request"
    assert "a command that the runtime executed there: kubectl exec" in verdict.sentence
    assert "that the runtime executed the sender is told by its descent" in verdict.doubts


def test_a_terminal() -> None:
    world = World()
    world.at(-5).signal("SIGINT", "kernel", code="SI_KERNEL")
    world.at(0).exit(130)
    verdict = world.only().verdict
    assert verdict.id == "ended_on_request"
    assert "Ctrl-C" in verdict.sentence


def test_one_that_ends_by_the_signal_itself_once_it_has_cleaned_up() -> None:
    world = World()
    world.at(-900).signal("SIGTERM", "host", CRON)
    world.at(-1).signal("SIGTERM", "same-container", INIT)
    world.at(0).exit(by=15)
    assert world.only().verdict.id == "ended_on_request"


JVM = process(7, "java", init=True, exe="/usr/lib/jvm/java-17/bin/java", parents=[SHIM])

LOOK_ALIKES: dict[str, tuple[Callable[[World], object], str]] = {
    "the runtime": (
        lambda w: (w.at(-9).signal("SIGTERM", "runtime", RUNC), w.at(0).exit(0)),
        "stopped_in_time",
    ),
    "both": (
        lambda w: (
            w.at(-20).signal("SIGTERM", "host", CRON),
            w.at(-9).signal("SIGTERM", "runtime", RUNC),
            w.at(0).exit(0),
        ),
        "stopped_in_time",
    ),
    "ignored": (
        lambda w: (w.at(-9).signal("SIGTERM", "host", CRON, result="ignored"), w.at(0).exit(0)),
        "exited",
    ),
    "long before": (
        lambda w: (w.at(-70_000).signal("SIGINT", "host", CRON), w.at(0).exit(1)),
        "exited",
    ),
    "a reload": (
        lambda w: (w.at(-9).signal("SIGHUP", "host", CRON), w.at(0).exit(1)),
        "exited",
    ),
    "itself": (
        lambda w: (w.at(-9).signal("SIGTERM", "same-container", INIT), w.at(0).exit(1)),
        "exited",
    ),
    "stacks that a JVM writes": (
        lambda w: (w.at(-9).signal("SIGQUIT", "host", CRON, JVM), w.at(0).exit(1, who=JVM)),
        "exited",
    ),
    "another signal ends it": (
        lambda w: (
            w.at(-9).signal("SIGTERM", "host", CRON),
            w.at(-1).signal("SIGSEGV", "kernel", code="SEGV_MAPERR"),
            w.at(0).exit(by=11),
        ),
        "crashed",
    ),
    "killed by the signal": (
        lambda w: (w.at(-9).signal("SIGTERM", "host", CRON), w.at(0).exit(by=15)),
        "killed_from_host",
    ),
}


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_look_alikes(name: str) -> None:
    tell, verdict = LOOK_ALIKES[name]
    world = World()
    tell(world)
    assert world.only().verdict.id == verdict


# A child that was lost just before


def loses(how: str, code: int = 1, gap: float = 12, world: World | None = None) -> World:
    world = world or World()
    if how == "oom":
        world.at(-gap - 5).oom(WORKER)
        world.signal("SIGKILL", "kernel", target=WORKER, code="SI_KERNEL")
    elif how == "crash":
        world.at(-gap - 5).signal("SIGSEGV", "kernel", target=WORKER, code="SEGV_MAPERR")
    elif how == "host":
        world.at(-gap - 5).signal("SIGKILL", "host", CRON, WORKER)
    elif how == "kernel":
        world.at(-gap - 5).signal("SIGKILL", "kernel", target=WORKER, code="SI_KERNEL")
    else:
        world.at(-gap - 5).signal("SIGKILL", "same-container", INIT, WORKER)
    world.at(-gap).exit(by=11 if how == "crash" else 9, who=WORKER, ends_container=False)
    world.at(0).exit(code)
    return world


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("oom", "was killed because the container's memory limit of 32 MiB was used up"),
        ("crash", "was ended by SIGSEGV"),
        ("host", "was ended by SIGKILL from cron[901] (/usr/sbin/cron) on the host"),
        ("kernel", "was ended by SIGKILL, which the kernel itself sent, as for a hard limit"),
    ],
)
@pytest.mark.parametrize("code", [0, 1, 70])
def test_a_pool_that_loses_a_worker(how: str, words: str, code: int) -> None:
    verdict = loses(how, code).only().verdict
    assert (verdict.id, verdict.certainty) == ("exited_after_child", Certainty.LIKELY)
    assert words in verdict.sentence
    assert f"ended 12 ms later with exit code {code}" in verdict.sentence
    assert ("pipefail" in verdict.remedy) is (code == 0)
    assert "foreground" not in verdict.remedy


def test_one_that_was_asked_to_end_because_of_it() -> None:
    world = World()
    world.at(-9000).signal("SIGTERM", "host", CRON)
    assert loses("oom", world=world).only().verdict.id == "exited_after_child"


def test_a_worker_that_was_lost_long_before() -> None:
    assert loses("oom", gap=3000).only().verdict.id == "exited"


@pytest.mark.parametrize(
    ("parents", "parent_ends", "verdict"),
    [
        ([(INIT.pid, "app")], False, "exited_after_child"),
        ([(20, "node"), (INIT.pid, "app")], True, "exited_after_child"),
        ([(20, "node"), (INIT.pid, "app")], False, "exited"),
        ([(3, "containerd-shim")], False, "exited"),  # kubectl exec, or a probe
    ],
    ids=["its own", "of one that ended for it", "of one that lived on", "executed"],
)
def test_whose_child_was_lost(
    parents: list[tuple[int, str]], parent_ends: bool, verdict: str
) -> None:
    """The first process can only end for what it, or who ended before it, has noticed."""
    lost, between = process(8, parents=parents), process(20, "node", parents=[(INIT.pid, "app")])
    init = process(7, init=True, parents=[(3, "containerd-shim")])
    world = World()
    world.at(-17).oom(lost)
    world.signal("SIGKILL", "kernel", target=lost, code="SI_KERNEL")
    world.at(-12).exit(by=9, who=lost, ends_container=False)
    if parent_ends:
        world.at(-6).exit(1, who=between, ends_container=False)
    world.at(0).exit(70, who=init)
    assert world.only().verdict.id == verdict


@pytest.mark.parametrize(
    ("died_in", "gap", "verdict"),
    [
        (2, 90, "exited_after_child"),
        (2, 400, "exited"),
        (60, 540, "exited_after_child"),  # on a busy node
        (20, 600, "exited"),
        (1000, 2100, "exited"),
    ],
)
def test_at_once_is_measured_by_how_long_dying_took(died_in: int, gap: int, verdict: str) -> None:
    """While the container does other things, too."""
    world = World()
    world.at(-gap - died_in).oom(WORKER)
    world.at(-gap).exit(by=9, who=WORKER, ends_container=False)
    world.at(-gap / 2).exit(0, who=started(-gap + 1), ends_container=False)
    world.at(0).exit(70)
    assert world.only().verdict.id == verdict


def started(at_ms: float, pid: int = 9, comm: str = "sleep") -> Process:
    parents = [(INIT.pid, "app")]
    return process(pid, comm, start=int((10_000 + at_ms) * MS), parents=parents)


EARLIER = -100_000
# In milliseconds before the end, what happens besides after a child was lost 240 ms before it.
BETWEEN: dict[str, tuple[Callable[[World], object], str]] = {
    "nothing": (lambda w: None, "exited_after_child"),
    "the reader of its pipe ends": (
        lambda w: w.at(-130).exit(0, who=started(EARLIER, comm="tee"), ends_container=False),
        "exited_after_child",
    ),
    "the reader of its pipe ends late, as all does": (
        lambda w: w.at(-45).exit(0, who=started(EARLIER, comm="tee"), ends_container=False),
        "exited_after_child",
    ),
    "what was waited for ends": (
        lambda w: w.at(-1).exit(0, who=started(EARLIER), ends_container=False),
        "exited",
    ),
    "another child is started, and ends": (
        lambda w: w.at(-100).exit(0, who=started(-200), ends_container=False),
        "exited",
    ),
    "a probe of the kubelet's": (
        lambda w: w.at(-1).exit(
            0,
            who=process(60, "sh", start=9_900 * MS, parents=[(59, "runc"), (3, "containerd-shim")]),
            ends_container=False,
        ),
        "exited_after_child",
    ),
    "it gets a signal": (
        lambda w: w.at(-20).signal("SIGALRM", "kernel", code="SI_KERNEL"),
        "exited",
    ),
    "it is told that a child has ended": (
        lambda w: w.at(-239).signal("SIGCHLD", "same-container", WORKER, code="CLD_KILLED"),
        "exited_after_child",
    ),
    "something may have been lost": (lambda w: w.at(-20).lost("exits"), "exited"),
}


@pytest.mark.parametrize("what", BETWEEN)
@pytest.mark.parametrize("how", ["oom", "crash"])
def test_the_end_comes_next_however_slow_the_node_is(how: str, what: str) -> None:
    world = World()
    happens, verdict = BETWEEN[what]
    init = process(7, init=True, parents=[(3, "containerd-shim")])
    if how == "oom":
        world.at(-242).oom(WORKER)
    else:
        world.at(-242).signal("SIGSEGV", "kernel", target=WORKER, code="SEGV_MAPERR")
    world.at(-240).exit(by=9 if how == "oom" else 11, who=WORKER, ends_container=False)
    happens(world)
    world.at(0).exit(70, who=init)
    assert world.only().verdict.id == verdict


@pytest.mark.parametrize(("since", "verdict"), [(-1, "exited_after_child"), (1, "exited")])
def test_a_replacement_that_the_end_took_with_it(since: float, verdict: str) -> None:
    """The kernel kills it, so it is known when it was started."""
    world = loses("oom", gap=240)
    world.signal("SIGKILL", "kernel", target=started(-240 + since), code="SI_KERNEL")
    assert world.only().verdict.id == verdict


def test_one_that_waited_before_it_gave_up() -> None:
    """Programs wait for whole seconds."""
    assert loses("oom", gap=990).only().verdict.id == "exited_after_child"
    assert loses("oom", gap=1000).only().verdict.id == "exited"


def test_what_was_not_traced_may_have_happened() -> None:
    world = World(traced=frozenset(("exits", "oom")))
    assert loses("oom", gap=240, world=world).only().verdict.id == "exited"


def test_a_worker_that_its_own_parent_killed() -> None:
    assert loses("parent").only().verdict.id == "exited"


def test_a_stray_child_with_the_same_code() -> None:
    """Seconds before, and the code is that of most failures."""
    for gap, verdict in ((1000, "exited"), (2, "exited_after_child")):
        world = World()
        world.at(-gap).exit(1, who=WORKER, ends_container=False)
        world.at(0).exit(1)
        assert world.only().verdict.id == verdict


@pytest.mark.parametrize(
    ("comm", "between", "verdict"),
    [
        ("dumb-init", False, "exited_after_child"),
        ("sh", False, "exited_after_child"),
        ("server", False, "exited"),
        ("sh", True, "exited"),  # sh -c 'fails; sleep 0.2; exit 1'
    ],
)
def test_a_plain_code_that_is_handed_on_late(comm: str, between: bool, verdict: str) -> None:
    world = World()
    world.at(-240).exit(2, who=WORKER, ends_container=False)
    if between:
        world.at(-1).exit(0, who=started(-239), ends_container=False)
    world.at(0).exit(2, who=process(7, comm, init=True))
    assert world.only().verdict.id == verdict


TINI = process(7, "tini", init=True)
SLEEP = process(8, "sleep", parents=[(7, "tini")])


def handed_on(asked: bool = True) -> str:
    world = World()
    if asked:
        world.at(-8).signal("SIGUSR1", "host", CRON, TINI)
    world.at(-6).signal("SIGUSR1", "same-container", TINI, SLEEP)
    world.at(-4).exit(by=10, who=SLEEP, ends_container=False)
    world.at(0).exit(138, who=TINI)
    verdict = world.only().verdict
    assert verdict.id == "exited_after_child"
    assert ("look at who sent that" in verdict.remedy) is asked
    assert ("look at the child" in verdict.remedy) is not asked
    return verdict.sentence


def test_a_signal_that_a_program_ends_by_when_it_has_cleaned_up() -> None:
    world = World()
    world.at(-8).signal("SIGINT", "host", CRON, WORKER)
    world.at(-6).signal("SIGINT", "same-container", WORKER, WORKER, code="SI_TKILL")
    world.at(-4).exit(by=2, who=WORKER, ends_container=False)
    world.at(0).exit(130)
    verdict = world.only().verdict
    assert "SIGINT, which it sent to itself, as it had got it from cron[901]" in verdict.sentence
    assert "look at who sent that" in verdict.remedy


def test_a_signal_that_an_init_hands_on_is_its_senders() -> None:
    assert "in the same container, which had got it from cron[901]" in handed_on()
    assert "had got it" not in handed_on(asked=False)


@pytest.mark.parametrize(
    ("name", "origin", "sender", "words"),
    [
        ("SIGKILL", "same-container", WORKER, "SIGKILL, which it sent to itself"),
        ("SIGALRM", "kernel", None, "SIGALRM, a timer ran out that it had set itself"),
        ("SIGTRAP", "kernel", None, "SIGTRAP, it ran into a breakpoint"),
        ("SIGPWR", "kernel", None, "SIGPWR, which the kernel sent"),
        ("SIGSEGV", "kernel", None, "SIGSEGV, the processor refused an instruction or address"),
        ("SIGABRT", "same-container", WORKER, "SIGABRT, it called abort()"),
    ],
)
def test_what_a_child_ended_by(name: str, origin: str, sender: Process | None, words: str) -> None:
    world, number = World(), NUMBERS[name.removeprefix("SIG")]
    code = "SI_KERNEL" if sender is None else "SI_TKILL"
    world.at(-6).signal(name, origin, sender, WORKER, code=code)
    world.at(-4).exit(by=number, who=WORKER, ends_container=False)
    world.at(0).exit(128 + number)
    sentence = world.only().verdict.sentence
    assert words in sentence
    assert ("it was not out of memory" in sentence) is (name == "SIGKILL")


@pytest.mark.parametrize(("anon", "said"), [(1 * MIB, True), (30 * MIB, False)])
def test_a_victim_that_had_little_of_what_was_used_up(anon: int, said: bool) -> None:
    """Files in memory stay when a process is killed."""
    world = World()
    world.at(-6).oom(WORKER, anon=anon)
    hints = world.only().verdict.hints
    assert any("only 1 MiB of the 32 MiB" in hint for hint in hints) is said


def test_success_is_nothing_to_pass_on() -> None:
    world = World()
    world.at(-2).exit(0, who=WORKER, ends_container=False)
    world.at(0).exit(0)
    assert world.only().verdict.id == "exited"


def test_what_an_exit_rests_on() -> None:
    """Not the signals that a runtime handles as routine."""
    world = World()
    world.at(-50).signal("SIGSEGV", "kernel", code="SEGV_ACCERR")
    world.at(-20).signal("SIGIO", "same-container", PIPE)
    end = world.at(0).exit(1)
    verdict = world.only().verdict
    assert [entry.event for entry in verdict.evidence] == [end]
