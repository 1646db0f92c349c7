# SPDX-License-Identifier: Apache-2.0
"""Commands that the runtime executes in a container: probes that fail, `kubectl exec` that kills,
and what only looks like them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import pytest

from tests.unit.why.world import APP, INIT, World, process
from tracer.model.event import Process
from tracer.why.verdict import Certainty

SHIM = (3, "containerd-shim")
BY_RUNC = ((40, "runc"), SHIM, (1, "systemd"))
BY_SHIM = (SHIM, (1, "systemd"))
OF_INIT = ((INIT.pid, "app"), SHIM, (1, "systemd"))
PROBE = ["sh", "-c", "exit 7"]


def command(
    pid: int, parents: Sequence[tuple[int, str]] = BY_RUNC, argv: Sequence[str] | None = PROBE
) -> Process:
    made = process(pid, "sh", parents=parents)
    made.argv = list(argv) if argv else None
    return made


def told(
    gaps: Sequence[float],
    *,
    code: int | None = 7,
    by: int | None = None,
    parents: Sequence[tuple[int, str]] = BY_RUNC,
    argv: Sequence[str] | None = PROBE,
    init: bool | None = False,
) -> World:
    """Ends of processes of their own, so many milliseconds after each other."""
    world = World()
    for number, at in enumerate(accumulate(gaps, initial=0.0)):
        who = command(100 + number, parents, argv)
        if init is None:
            who = replace(who, init_place=None)
        world.at(at).exit(code, by, who, ends_container=init)
    return world


EVERY_2_S = [2000.0] * 4


@pytest.mark.parametrize("parents", [BY_RUNC, BY_SHIM, ((9, "conmon"), (1, "systemd"))])
@pytest.mark.parametrize("init", [False, None])
def test_a_probe_that_fails(parents: Sequence[tuple[int, str]], init: bool | None) -> None:
    verdict = told(EVERY_2_S, parents=parents, init=init).only().verdict
    assert (verdict.id, verdict.certainty) == ("exec_probe_failing", Certainty.LIKELY)
    assert verdict.sentence == (
        "a command that the runtime executed in this container (sh -c 'exit 7') failed 5 times"
        " with exit code 7, every 2 s: likely a readiness or liveness exec probe"
    )
    assert verdict.doubts
    assert verdict.evidence[0].count == 5
    assert verdict.remedy == (
        "run it by hand: kubectl exec -n shop web-0 -c app -- sh -c 'exit 7';"
        " kubectl describe pod -n shop web-0 has what it printed, under Unhealthy"
    )


def test_one_that_is_late_now_and_then() -> None:
    assert (
        told([2100, 1950, 3400, 700, 2000, 2050])
        .only()
        .verdict.sentence.endswith(
            "failed 7 times with exit code 7, every 2 s: likely a readiness or liveness exec probe"
        )
    )


def test_one_that_fails_only_sometimes() -> None:
    """The rhythm is that of the probe, also of those that succeeded."""
    world = World()
    for number, code in enumerate([0, 7, 0, 0, 0, 7, 0, 7]):
        world.at(2000 * number).exit(code, who=command(100 + number), ends_container=False)
    sentence = world.only().verdict.sentence
    assert "failed 3 times with exit code 7, every 2 s" in sentence


def test_one_that_takes_too_long() -> None:
    verdict = told([3000] * 3, code=None, by=9).only().verdict
    assert "was ended 4 times by SIGKILL, perhaps because it took too long, every 3 s" in (
        verdict.sentence
    )


def test_one_that_the_image_lacks() -> None:
    world = World()
    for number in range(4):
        runc = process(100 + number, "runc:[2:INIT]", exe="/usr/bin/runc", parents=BY_RUNC)
        world.at(2000 * number).exit(1, who=runc, ends_container=False)
    verdict = world.only().verdict
    assert verdict.sentence.startswith("the runtime failed 4 times to execute a command there")
    assert verdict.remedy.startswith("does the image have the command?")


@pytest.mark.parametrize(("exe", "shell"), [("/bin/sh", True), ("/usr/bin/pg_isready", False)])
def test_what_2_means_to_a_shell_it_means_to_nobody_else(exe: str, shell: bool) -> None:
    world = World()
    for number in range(4):
        who = replace(command(100 + number), exe=exe)
        world.at(2000 * number).exit(2, who=who, ends_container=False)
    assert ("shell convention" in world.only().verdict.sentence) is shell


def test_its_arguments_are_quoted_and_bounded() -> None:
    verdict = told(EVERY_2_S, argv=["x", "$(reboot)", "y" * 500]).only().verdict
    assert "(x '$(reboot)' yyy" in verdict.sentence
    assert len(verdict.sentence) < 300
    assert " -- x '$(reboot)' yyy" in verdict.remedy


def test_its_arguments_are_not_known() -> None:
    sentence = told(EVERY_2_S, argv=None).only().verdict.sentence
    assert "executed in this container failed 5 times" in sentence


def test_an_hour_of_it_is_one_entry() -> None:
    world = told([2000.0] * 1799)
    assert "failed 1800 times" in world.only().verdict.sentence
    (story,) = world.timelines.stories()
    assert len(story.entries) == 1


@pytest.mark.parametrize(
    "world",
    {
        "a single command that failed": told([]),
        "somebody who tries twice": told([2000]),
        "somebody who tries again": told([2500, 9000, 31000, 4000]),
        "a loop of kubectl exec": told([100] * 20),
        "a cron job of the container": told(EVERY_2_S, parents=OF_INIT),
        "a cron job's child": told(EVERY_2_S, parents=((9, "cron"), *OF_INIT)),
        "a probe that succeeds": told(EVERY_2_S, code=0),
        "processes of unknown descent": told(EVERY_2_S, parents=()),
        "a process of the host": told(EVERY_2_S, parents=((9, "sshd"), (1, "systemd"))),
    }.items(),
    ids=lambda item: item[0],
)
def test_what_only_looks_like_it(world: tuple[str, World]) -> None:
    assert world[1].explained() == []


def test_the_end_counts_more() -> None:
    world = told(EVERY_2_S)
    world.exit(3)
    explanation = world.only()
    assert explanation.verdict.id == "exited"
    assert [other.id for other in explanation.others] == ["exec_probe_failing"]


# A command that kills

WORKER = process(8, "worker", parents=OF_INIT)


@pytest.mark.parametrize(
    "killer",
    [
        process(50, "kill", parents=BY_RUNC),
        process(50, "kill", parents=BY_SHIM),
        process(50, "kill", parents=((49, "sh"), *BY_RUNC)),
        process(50, "kill", parents=((49, "sh"), *BY_SHIM)),
    ],
)
def test_a_command_that_kills_a_worker(killer: Process) -> None:
    world = World()
    world.signal("SIGKILL", "same-container", killer, WORKER)
    world.exit(by=9, who=WORKER, ends_container=False)
    verdict = world.only().verdict
    assert (verdict.id, verdict.certainty) == ("child_killed", Certainty.LIKELY)
    assert "kill[50] (/bin/kill) in the same container, a command that the runtime executed" in (
        verdict.sentence
    )


def of_shared_namespace(one: Process) -> Process:
    return replace(one, init_place=None, place=APP)


@pytest.mark.parametrize(
    ("killer", "victim"),
    [
        pytest.param(INIT, WORKER, id="a first process"),
        pytest.param(process(9, "master", parents=OF_INIT), WORKER, id="a master"),
        pytest.param(
            process(9, "master", parents=OF_INIT),
            process(50, "sh", parents=BY_SHIM),
            id="that kills a command",
        ),
        pytest.param(
            of_shared_namespace(process(9, "master", parents=OF_INIT)),
            of_shared_namespace(process(8, "orphan", parents=((2, "pause"), SHIM))),
            id="an orphan where the namespace is shared",
        ),
        pytest.param(process(9, "x"), WORKER, id="unknown descent"),
        pytest.param(
            process(50, "timeout", parents=BY_SHIM),
            process(51, "sleep", parents=((50, "timeout"), *BY_SHIM)),
            id="a command that ends its own child",
        ),
        pytest.param(
            process(52, "timeout", parents=((50, "sh"), *BY_RUNC)),
            process(51, "sleep", parents=((52, "timeout"), (50, "sh"), *BY_RUNC)),
            id="a child of a command that ends its own child",
        ),
    ],
)
def test_a_program_that_kills_its_own(killer: Process, victim: Process) -> None:
    world = World()
    world.signal("SIGKILL", "same-container", killer, victim)
    world.exit(by=9, who=victim, ends_container=False)
    assert world.explained() == []


def test_a_command_that_kills_another_command() -> None:
    world = World()
    other = process(51, "psql", parents=((70, "sh"), *BY_SHIM))
    world.signal("SIGKILL", "same-container", process(50, "kill", parents=BY_SHIM), other)
    world.exit(by=9, who=other, ends_container=False)
    assert world.only().verdict.id == "child_killed"


# A command that ends badly is no child of the container's program

COMMAND = process(50, "psql", parents=BY_SHIM)


def test_a_command_that_was_out_of_memory() -> None:
    world = World()
    world.oom(COMMAND)
    world.exit(by=9, who=COMMAND, ends_container=False)
    verdict = world.only().verdict
    assert (verdict.id, verdict.certainty) == ("oom_of_child", Certainty.LIKELY)
    assert "the command psql[50] (/bin/psql), which the runtime executed (kubectl exec" in (
        verdict.sentence
    )


def test_a_command_that_crashed() -> None:
    world = World()
    world.signal("SIGSEGV", "kernel", target=COMMAND, code="SEGV_MAPERR")
    world.exit(by=11, who=COMMAND, ends_container=False)
    verdict = world.only().verdict
    assert (verdict.id, verdict.certainty) == ("child_crashed", Certainty.LIKELY)
    assert verdict.sentence.startswith("the command psql[50] (/bin/psql), which the runtime exec")
