# SPDX-License-Identifier: Apache-2.0
"""What happens to the children of a container that lives on, as gunicorn, uwsgi, PostgreSQL and
supervisor do it; and what is an orderly scale-down, and told to nobody."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.why.world import CRON, HOST, RUNC, SECOND, World, process
from tracer.model.event import Process
from tracer.why.engine import Explanation, explain_all
from tracer.why.verdict import Certainty

SHIM = (3, "containerd-shim")
PYTHON = "/usr/bin/python3.11"
MASTER = process(7, "gunicorn", init=True, exe=PYTHON, parents=[SHIM])
EXECUTED = process(60, "sh", parents=[(59, "runc"), SHIM])


def worker(pid: int, exe: str = PYTHON, parent: Process = MASTER) -> Process:
    return process(pid, "gunicorn", exe=exe, parents=[(parent.pid, str(parent.comm)), SHIM])


def ids(world: World) -> list[str]:
    return [one.verdict.id for one in world.explained()]


def killed(
    *names: str, code: int | None = None, by: int | None = 9, victim: Process | None = None
) -> World:
    """By its master, a second between the signals."""
    world, victim = World(), victim or worker(8)
    for number, name in enumerate(names):
        world.at(1000 * number).signal(name, "same-container", MASTER, victim)
    world.exit(code, None if code is not None else by, victim, ends_container=False)
    return world


def stopped(*, continued: bool = False) -> World:
    """By the host; its master waits in vain for it."""
    world = World()
    world.at(-3000).signal("SIGSTOP", "host", CRON, worker(8))
    if continued:
        world.at(-2000).signal("SIGCONT", "host", CRON, worker(8))
    for at, name in ((-1000, "SIGABRT"), (0, "SIGKILL")):
        world.at(at).signal(name, "same-container", MASTER, worker(8))
    world.exit(by=9, who=worker(8), ends_container=False)
    return world


def test_a_worker_that_was_stopped_is_killed_as_one_that_hangs() -> None:
    verdict = stopped().only().verdict
    assert (verdict.id, verdict.certainty) == ("suspended", Certainty.LIKELY)
    assert "SIGSTOP from cron[901] (/usr/sbin/cron) on the host" in verdict.sentence
    assert "its own master gunicorn[7]" in verdict.sentence and "3 s later" in verdict.sentence
    assert "kill -CONT" not in verdict.remedy
    assert ids(stopped(continued=True)) == ["child_killed_by_parent"]


# Its own master


@pytest.mark.parametrize(
    ("names", "code", "by", "certainty"),
    [
        (("SIGKILL",), None, 9, "certain"),  # uwsgi's harakiri
        (("SIGABRT",), 1, None, "likely"),  # gunicorn's, which its workers handle
        (("SIGABRT",), None, 6, "certain"),
        (("SIGABRT", "SIGKILL"), None, 9, "certain"),
    ],
)
def test_a_master_kills_its_worker(
    names: tuple[str, ...], code: int | None, by: int | None, certainty: str
) -> None:
    verdict = killed(*names, code=code, by=by).only().verdict
    assert (verdict.id, verdict.certainty) == ("child_killed_by_parent", certainty)
    assert f"was killed by its own master: {names[-1]}" in verdict.sentence
    assert "not out of memory" in verdict.sentence
    assert "took too long" in verdict.remedy


@pytest.mark.parametrize("name", ["SIGTERM", "SIGQUIT", "SIGINT"])
@pytest.mark.parametrize("code", [0, 1, None])
def test_an_orderly_scale_down_is_quiet(name: str, code: int | None) -> None:
    number = {"SIGTERM": 15, "SIGQUIT": 3, "SIGINT": 2}[name]
    assert ids(killed(name, code=code, by=number)) == []


def test_one_that_is_asked_twice_is_scaled_down_all_the_same() -> None:
    """gunicorn asks once a second until a worker has ended."""
    assert ids(killed("SIGTERM", "SIGTERM", by=15)) == []


CELERY = replace(MASTER, argv=["python3", "/usr/local/bin/celery", "worker"])
PHP = replace(MASTER, exe="/usr/sbin/php-fpm8.2", argv=["php-fpm8.2", "-F"])


def limited(master: Process = CELERY, by: int | None = 15, world: World | None = None) -> World:
    world, victim = world or World(), worker(8, str(master.exe), master)
    world.at(0).signal("SIGTERM", "same-container", master, victim)
    world.exit(None if by else 0, by, victim, ends_container=False)
    return world


@pytest.mark.parametrize("master", [CELERY, PHP], ids=["celery", "php-fpm"])
def test_a_time_limit_that_asks_politely(master: Process) -> None:
    verdict = limited(master).only().verdict
    assert (verdict.id, verdict.certainty) == ("child_killed_by_parent", Certainty.LIKELY)
    assert "was killed by its own master: SIGTERM" in verdict.sentence
    assert any("needs no more" in doubt for doubt in verdict.doubts)


def test_a_master_of_that_kind_that_scales_down_or_reloads_is_quiet() -> None:
    scales = replace(CELERY, argv=[*CELERY.argv, "--autoscale=10,3"])  # type: ignore[misc]
    assert ids(limited(scales)) == []
    assert ids(limited(replace(CELERY, argv=["python3", "celery.py.backup"]))) == []
    assert ids(limited(by=None)) == []  # it ended by itself, as one that does nothing may
    reloads = World()
    reloads.at(-10_000).signal("SIGUSR2", "same-container", EXECUTED, PHP)
    assert ids(limited(PHP, world=reloads)) == []


def test_another_program_is_its_parents_own_affair() -> None:
    assert ids(killed("SIGKILL", victim=worker(8, "/bin/sleep"))) == []


def test_a_container_that_is_about_to_end() -> None:
    world = World()
    world.at(-5000).signal("SIGTERM", "runtime", RUNC, MASTER)
    world.at(-10).signal("SIGKILL", "same-container", MASTER, worker(8))
    world.exit(by=9, who=worker(8), ends_container=False)
    world.at(0).exit(0, who=MASTER)
    explanation = world.only()
    assert explanation.verdict.id == "stopped_in_time"
    assert [other.id for other in explanation.others] == ["exited"]


@pytest.mark.parametrize(("since", "told"), [(-100, []), (100, ["child_killed_by_parent"])])
def test_a_program_that_takes_the_request_for_a_reload(since: int, told: list[str]) -> None:
    """As uwsgi does with SIGTERM: a worker of the new generation that it kills is news."""
    world = World()
    world.at(-5000).signal("SIGTERM", "host", CRON, MASTER)
    victim = replace(worker(8), start_boot_ns=(5000 + since) * SECOND // 1000)
    world.at(-10).signal("SIGKILL", "same-container", MASTER, victim)
    world.exit(by=9, who=victim, ends_container=False)
    assert ids(world) == told


def test_one_that_was_out_of_memory_as_well() -> None:
    world = World()
    world.at(-5).oom(worker(8))
    world.at(0).signal("SIGKILL", "same-container", MASTER, worker(8))
    world.exit(by=9, who=worker(8), ends_container=False)
    assert ids(world) == ["oom_of_child"]


# Somebody else


@pytest.mark.parametrize(
    ("name", "code", "by", "certainty", "how"),
    [
        ("SIGKILL", None, 9, "certain", "was killed: SIGKILL"),
        ("SIGSEGV", None, 11, "certain", "was killed: SIGSEGV"),
        ("SIGTERM", None, 15, "certain", "was killed: SIGTERM"),
        ("SIGTERM", 0, None, "likely", "was asked to end, and did 1 ms later, with exit code 0"),
    ],
)
def test_a_worker_gets_a_signal_from_the_host(
    name: str, code: int | None, by: int | None, certainty: str, how: str
) -> None:
    world = World()
    world.signal(name, "host", CRON, worker(8))
    world.exit(code, by, worker(8), ends_container=False)
    verdict = world.only().verdict
    assert (verdict.id, verdict.certainty) == ("child_killed", certainty)
    assert how in verdict.sentence and "from cron[901]" in verdict.sentence


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGTERM"])
def test_one_that_lives_on(name: str) -> None:
    """A reload, or a request that its handler declines."""
    world = World()
    world.signal(name, "host", CRON, worker(8))
    assert ids(world) == []


def test_one_that_ends_by_something_else() -> None:
    world = World()
    """Or long after it was asked to. What was asked for is told also if it took its time."""
    for seconds, told in ((90, []), (15, ["child_killed"])):
        world = World()
        world.at(-1000 * seconds).signal("SIGTERM", "host", CRON, worker(8))
        world.at(0).exit(0, None, worker(8), ends_container=False)
        assert ids(world) == told


def test_one_cause_of_many_ends() -> None:
    """PostgreSQL ends all its processes when one was killed."""
    victim, others = worker(8), [worker(pid) for pid in range(20, 25)]
    world = World()
    world.at(0).signal("SIGKILL", "same-container", EXECUTED, victim)
    world.exit(by=9, who=victim, ends_container=False)
    for other in others:
        world.signal("SIGQUIT", "same-container", MASTER, other)
        world.exit(2, who=other, ends_container=False)
    explanation = world.only()
    assert (explanation.verdict.id, explanation.others) == ("child_killed", ())
    assert explanation.verdict.sentence.endswith(
        "; its parent gunicorn[7] (/usr/bin/python3.11) ended 5 other children by SIGQUIT for that"
    )
    assert len(explanation.verdict.evidence) == 2


# With its parent


def bound(asked: bool = False, gap: float = -1, orphan: bool = False) -> World:
    middle = process(8, "launcher", parents=[(7, "app"), SHIM])
    above = [] if orphan else [(8, "launcher")]
    child = process(9, "server", parents=[*above, (7, "app"), SHIM])
    world = World()
    if asked:
        world.at(-100).signal("SIGTERM", "same-container", MASTER, middle)
    world.at(gap).exit(0, who=middle, ends_container=False)
    world.at(0).signal("SIGTERM", "same-container", middle, child)
    world.exit(by=15, who=child, ends_container=False)
    return world


@pytest.mark.parametrize("orphan", [True, False])
def test_a_child_that_is_bound_to_its_parent(orphan: bool) -> None:
    """It may be described first by that signal, when it is PID 1's already."""
    verdict = bound(orphan=orphan).only().verdict
    assert (verdict.id, verdict.certainty) == ("child_killed_with_parent", Certainty.CERTAIN)
    assert "because its parent launcher[8] (/bin/launcher) had ended before" in verdict.sentence
    assert "PR_SET_PDEATHSIG" in verdict.sentence


def test_a_parent_that_was_asked_to_end_takes_its_children_with_it() -> None:
    assert ids(bound(asked=True)) == []


def test_a_parent_that_still_lived_when_it_sent_the_signal() -> None:
    assert ids(bound(gap=5)) == []


# Again and again


def again(
    times: int = 4,
    *,
    parent: str = "supervisord",
    code: int | None = 1,
    by: int | None = None,
    at_once: bool = False,
    of_runtime: bool = False,
) -> World:
    world = World()
    for number in range(times):
        world.at(1500 * number)
        born = 10 * SECOND if at_once else world.now - SECOND
        parents = [SHIM] if of_runtime else [(7, parent), SHIM]
        child = replace(process(30 + number, "worker", parents=parents), start_boot_ns=born)
        child.argv = ["worker", "--fast"]
        world.exit(code, by, child, ends_container=False)
    return world


def test_a_supervisor_whose_child_ends_again_and_again() -> None:
    verdict = again().only().verdict
    assert (verdict.id, verdict.certainty) == ("child_loop", Certainty.LIKELY)
    assert "ended 4 times with exit code 1, general error, 1.5 s apart" in verdict.sentence
    assert "(worker --fast)" in verdict.remedy


@pytest.mark.parametrize(
    "world",
    [
        again(2),
        again(code=0),
        again(parent="sh"),  # `false` and `grep` in a script are no failures
        again(at_once=True),  # side by side
        again(of_runtime=True, times=2),
    ],
)
def test_no_loop(world: World) -> None:
    assert "child_loop" not in ids(world)


def test_a_foreign_host_process_is_no_child() -> None:
    stranger = process(70, "worker", HOST, parents=[(7, "supervisord")])
    world = World()
    for number in range(4):
        world.at(1500 * number).exit(1, who=replace(stranger, pid=70 + number))
    assert ids(world) == []


# A limit of processes


def refused(code: int | None = None, by: int | None = None) -> list[Explanation]:
    world = World()
    world.at(-9000).signal("SIGUSR1", "host", CRON, MASTER)
    if code is not None or by is not None:
        world.at(0).exit(code, by, MASTER)
    stories = world.timelines.stories()
    for story in stories:
        story.refused_ns = story.until_ns() - 2 * SECOND
    return explain_all(stories)


def test_the_kernel_refuses_a_thread() -> None:
    (alive,), (left,) = refused(), refused(1)
    assert (alive.verdict.id, alive.verdict.certainty) == ("no_more_processes", "certain")
    assert (left.verdict.id, left.verdict.certainty) == ("no_more_processes", "likely")
    assert "ended 2 s later with exit code 1" in left.verdict.sentence
    assert "not memory" in left.verdict.remedy


def test_what_it_does_not_explain() -> None:
    assert [one.verdict.id for one in refused(0)] == ["exited"]
    assert [one.verdict.id for one in refused(by=9)] == ["unexplained"]
