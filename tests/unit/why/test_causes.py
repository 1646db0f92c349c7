# SPDX-License-Identifier: Apache-2.0
"""One story for each verdict, and the look-alikes that must not be taken for it."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest

from tests.unit import why as stories
from tests.unit.why.world import (
    APP,
    CLOCK,
    CRON,
    HOST,
    INIT,
    MIB,
    RUNC,
    SECOND,
    World,
    part,
    place_of,
    pod_memory,
    process,
)
from tracer.why import causes
from tracer.why.engine import Explanation, explain
from tracer.why.render import to_text
from tracer.why.verdict import Certainty

CHILD = process(8, "worker", parents=[(INIT.pid, "app"), (1, "init")])
GRANDCHILD = process(9, "server", parents=[(CHILD.pid, "worker"), (INIT.pid, "app")])
MASTER = process(7, "gunicorn", init=True)
FORK = process(8, "gunicorn", parents=[(MASTER.pid, "gunicorn"), (1, "init")])
PREPARING = process(7, "runc:[2:INIT]", exe="/usr/bin/runc", init=True)
KUBELET = process(902, "kubelet", HOST, exe="/usr/bin/kubelet", start=SECOND)
OWN_RUNC = process(900, "runc", HOST, exe="/srv/runc")
POSING = process(7, "runc:[2:INIT]", exe="/bin/app", init=True)
SIDE = place_of("b" * 64, "side")
PAUSE = part(None, None, 300 << 10, place_of("e" * 64, None))
Tell = Callable[[World], object]


def killed(origin: str, exe: str = "/bin/killer") -> Tell:
    sender = process(50, "killer", HOST, exe=exe)
    return lambda w: (w.signal("SIGKILL", origin, sender), w.exit(by=9))


def stopped(result: str, code: int | None = None, by: int | None = None) -> Tell:
    def tell(w: World) -> None:
        w.at(-2000).signal("SIGTERM", "runtime", RUNC, result=result)
        if by == 9:
            w.at(0).signal("SIGKILL", "runtime", RUNC)
        w.at(1).exit(code, by)

    return tell


def faulted(name: str, number: int, code: str = "SI_KERNEL") -> Tell:
    return lambda w: (w.signal(name, "kernel", code=code), w.exit(by=number))


def out_of_memory(**how: object) -> Tell:
    def tell(w: World) -> None:
        w.oom(**how)  # type: ignore[arg-type]
        w.signal("SIGKILL", "kernel", code="SI_KERNEL")
        w.exit(by=9)

    return tell


def _stories_of_other_modules() -> dict[str, tuple[Tell, str, str]]:
    """Found by their files, as the causes are."""
    found: dict[str, tuple[Tell, str, str]] = {}
    for module in pkgutil.iter_modules(stories.__path__):
        if not module.name.startswith("test_"):
            found |= getattr(import_module(f"{stories.__name__}.{module.name}"), "STORIES", {})
    return found


STORIES: dict[str, tuple[Tell, str, str]] = {
    "host": (killed("host"), "killed_from_host", "certain"),
    "same container": (killed("same-container"), "killed_from_same_container", "certain"),
    "same pod": (killed("same-pod"), "killed_from_same_pod", "certain"),
    "other pod": (killed("other-pod"), "killed_from_other_pod", "certain"),
    "earlyoom": (killed("host", "/usr/bin/earlyoom"), "killed_by_oom_daemon", "likely"),
    "earlyoom in /tmp": (
        killed("host", "/tmp/earlyoom"),
        *("killed_by_suspicious_process", "certain"),
    ),
    "in /tmp": (killed("host", "/tmp/x"), "killed_by_suspicious_process", "certain"),
    "in memory": (killed("host", "/memfd:x"), "killed_by_suspicious_process", "certain"),
    "deleted": (killed("host", "/bin/x (deleted)"), "killed_by_suspicious_process", "certain"),
    "where no package puts programs": (
        killed("host", "/srv/.x/killer"),
        *("killed_by_suspicious_process", "likely"),
    ),
    "a stranger with the name of a runtime": (
        killed("runtime", "/srv/runc"),
        *("killed_by_suspicious_process", "likely"),
    ),
    "a runtime that was installed in a place of its own": (
        lambda w: (
            w.at(-2000).signal("SIGTERM", "runtime", OWN_RUNC),
            w.at(0).signal("SIGKILL", "runtime", OWN_RUNC),
            w.exit(by=9),
        ),
        *("stop_unfinished", "likely"),
    ),
    "in a home": (killed("host", "/root/killer"), "killed_by_suspicious_process", "likely"),
    "of a package of its own": (killed("host", "/opt/x/killer"), "killed_from_host", "certain"),
    "of k3s": (killed("host", "/var/lib/rancher/k3s/data/0/bin/x"), "killed_from_host", "certain"),
    "in a place that is not known": (killed("host", "…/x/killer"), "killed_from_host", "certain"),
    "of an image": (killed("other-pod", "/server"), "killed_from_other_pod", "certain"),
    "of an image nearby": (killed("same-pod", "/app/server"), "killed_from_same_pod", "certain"),
    "of its own image": (
        killed("same-container", "/app/server"),
        *("killed_from_same_container", "certain"),
    ),
    "ignored": (stopped("ignored", by=9), "stop_ignored", "certain"),
    "unfinished": (stopped("delivered", by=9), "stop_unfinished", "certain"),
    "in time": (stopped("delivered", code=0), "stopped_in_time", "likely"),
    "by the signal itself": (stopped("delivered", by=15), "stopped_in_time", "certain"),
    "by itself after an ignored request": (stopped("ignored", code=0), "exited", "certain"),
    "crash after a request": (
        lambda w: (
            w.at(-2000).signal("SIGTERM", "runtime", RUNC),
            w.at(0).signal("SIGSEGV", "kernel", code="SEGV_MAPERR"),
            w.exit(by=11),
        ),
        *("crashed", "certain"),
    ),
    "runtime at once": (
        lambda w: (w.signal("SIGKILL", "runtime", RUNC), w.exit(by=9)),
        *("killed_by_runtime", "certain"),
    ),
    "the kubelet itself": (
        lambda w: (w.signal("SIGKILL", "kubelet", KUBELET), w.exit(by=9)),
        *("killed_by_kubelet", "certain"),
    ),
    "a kubelet at a place of its own": (
        lambda w: (
            w.signal("SIGKILL", "kubelet", process(902, "kubelet", HOST, exe="/srv/kubelet")),
            w.exit(by=9),
        ),
        *("killed_by_kubelet", "likely"),
    ),
    "a kill of the kubelet that another child got": (
        lambda w: (w.signal("SIGKILL", "kubelet", KUBELET, CHILD), w.exit(3)),
        *("exited", "certain"),
    ),
    "container limit": (out_of_memory(), "oom_container_limit", "certain"),
    "pod limit": (out_of_memory(limit_of="pod"), "oom_pod_limit", "certain"),
    "other limit": (out_of_memory(limit_of="other"), "oom_other_limit", "certain"),
    "unknown limit": (
        out_of_memory(limit_of=None, scope=None, limit=None),
        *("oom_other_limit", "likely"),
    ),
    "a limit of a cgroup that is not known": (
        out_of_memory(limit_of=None, limit=None),
        *("oom_other_limit", "likely"),
    ),
    "the pod's limit, which is its container's": (
        out_of_memory(limit_of="pod", memory=pod_memory(part("app", 32 * MIB), PAUSE)),
        *("oom_container_limit", "certain"),
    ),
    "the pod's limit, which is the sum of its containers'": (
        out_of_memory(
            limit_of="pod",
            memory=pod_memory(part("app", 24 * MIB), part("side", 8 * MIB, container=SIDE)),
        ),
        *("oom_container_limit", "certain"),
    ),
    "a limit of the pod's own": (
        out_of_memory(
            limit_of="pod",
            memory=pod_memory(part("app", 24 * MIB), part("side", 24 * MIB, container=SIDE)),
        ),
        *("oom_pod_limit", "certain"),
    ),
    "a limit of the pod's own, of containers without": (
        out_of_memory(limit_of="pod", memory=pod_memory(part("app", None), PAUSE)),
        *("oom_pod_limit", "certain"),
    ),
    "a child of which nobody told the limit": (
        lambda w: w.oom(CHILD, scope=None, limit_of=None, limit=None),
        *("oom_of_child", "likely"),
    ),
    "node": (out_of_memory(limit_of=None, scope="system", limit=None), "oom_system", "certain"),
    "tiny": (out_of_memory(limit=4096), "oom_tiny_limit", "certain"),
    "too little for the runtime": (
        lambda w: (w.oom(PREPARING, limit=3 * MIB), w.exit(by=9, who=PREPARING)),
        *("oom_tiny_limit", "certain"),
    ),
    "the pod's limit while a container starts": (
        lambda w: (w.oom(PREPARING, limit_of="pod"), w.exit(by=9, who=PREPARING)),
        *("oom_pod_limit", "certain"),
    ),
    "a command that is executed at the limit": (
        lambda w: w.oom(process(9, "runc:[2:INIT]", exe="/usr/bin/runc")),
        *("oom_of_child", "certain"),
    ),
    "a program that calls itself as the runtime does": (
        lambda w: (w.oom(POSING, limit=3 * MIB), w.exit(by=9, who=POSING)),
        *("oom_container_limit", "certain"),
    ),
    "member of a group": (
        lambda w: (w.oom(CHILD, members=[INIT]), w.exit(by=9)),
        *("oom_container_limit", "certain"),
    ),
    "child": (lambda w: w.oom(CHILD), "oom_of_child", "certain"),
    "runtime after the oom of a child": (
        lambda w: (w.oom(CHILD), w.signal("SIGKILL", "runtime", RUNC), w.exit(by=9)),
        *("killed_by_runtime", "certain"),
    ),
    "child crashed": (
        lambda w: (
            w.signal("SIGSEGV", "kernel", target=CHILD, code="SEGV_MAPERR"),
            w.exit(by=11, who=CHILD, ends_container=False),
        ),
        *("child_crashed", "certain"),
    ),
    "a probe that fails": (
        lambda w: [
            w.at(2000 * number).exit(
                *(7, None, process(100 + number, "sh", parents=[(3, "containerd-shim")])),
                ends_container=False,
            )
            for number in range(3)
        ],
        *("exec_probe_failing", "likely"),
    ),
    "child killed": (
        lambda w: (
            w.signal("SIGKILL", "host", CRON, CHILD),
            w.exit(by=9, who=CHILD, ends_container=False),
        ),
        *("child_killed", "certain"),
    ),
    "a handled signal before the deadly one": (
        lambda w: (
            w.at(-5000).signal("SIGTERM", "runtime", RUNC),
            w.at(0).signal("SIGTERM", "host", CRON),
            w.exit(by=15),
        ),
        *("killed_from_host", "likely"),
    ),
    "segv": (faulted("SIGSEGV", 11, "SEGV_MAPERR"), "crashed", "certain"),
    "bus": (faulted("SIGBUS", 7, "BUS_ADRERR"), "crashed", "certain"),
    "fpe": (faulted("SIGFPE", 8), "crashed", "certain"),
    "ill": (faulted("SIGILL", 4), "crashed", "certain"),
    "sys": (faulted("SIGSYS", 31, "SYS_SECCOMP"), "seccomp", "certain"),
    "sys without seccomp": (faulted("SIGSYS", 31, "SYS_USER_DISPATCH"), "crashed", "certain"),
    "abort": (
        lambda w: (w.signal("SIGABRT", "same-container", INIT), w.exit(by=6)),
        *("aborted", "certain"),
    ),
    "abort of PID 1": (
        lambda w: (
            w.signal("SIGABRT", "same-container", INIT, result="ignored"),
            w.signal("SIGSEGV", "kernel", code="SI_KERNEL"),
            w.exit(by=11),
        ),
        *("aborted", "likely"),
    ),
    "abort by another": (
        lambda w: (w.signal("SIGABRT", "host", CRON), w.exit(by=6)),
        *("killed_from_host", "certain"),
    ),
    "segv by another": (
        lambda w: (w.signal("SIGSEGV", "host", CRON), w.exit(by=11)),
        *("killed_from_host", "certain"),
    ),
    "a signal to itself": (
        lambda w: (w.signal("SIGTERM", "same-container", INIT), w.exit(by=15)),
        *("ended_itself", "certain"),
    ),
    "a core dump that is cut off": (
        lambda w: (
            w.at(-9000).signal("SIGSEGV", "kernel", code="SEGV_MAPERR", state="running"),
            w.at(0).signal("SIGKILL", "runtime", RUNC, state="dumping_core"),
            w.exit(by=9),
        ),
        *("crashed", "certain"),
    ),
    "stopped and forgotten": (
        lambda w: (
            w.at(-9000).signal("SIGSTOP", "host", CRON),
            w.at(-2000).signal("SIGTERM", "runtime", RUNC, state="stopped"),
            w.at(0).signal("SIGKILL", "runtime", RUNC),
            w.exit(by=9),
        ),
        *("stop_suspended", "certain"),
    ),
    "stopped and not yet found": (
        lambda w: w.signal("SIGSTOP", "host", CRON),
        *("suspended", "certain"),
    ),
    "a server behind a shell": (
        lambda w: (
            w.at(-9).signal("SIGTERM", "runtime", RUNC),
            w.signal("SIGTERM", "same-container", INIT, CHILD),
            w.exit(by=15, who=CHILD, ends_container=False),
            w.exit(1),
            w.signal("SIGKILL", "kernel", target=GRANDCHILD),
        ),
        *("stop_not_passed_on", "likely"),
    ),
    "asked by somebody": (
        lambda w: (w.signal("SIGTERM", "host", CRON), w.exit(0)),
        *("ended_on_request", "likely"),
    ),
    "a worker that took too long": (
        lambda w: (
            w.signal("SIGKILL", "same-container", MASTER, FORK),
            w.exit(by=9, who=FORK, ends_container=False),
        ),
        *("child_killed_by_parent", "certain"),
    ),
    "a child that was bound to its parent": (
        lambda w: (
            w.exit(0, who=CHILD, ends_container=False),
            w.signal("SIGTERM", "same-container", CHILD, GRANDCHILD),
            w.exit(by=15, who=GRANDCHILD, ends_container=False),
        ),
        *("child_killed_with_parent", "certain"),
    ),
    "a supervisor's child": (
        lambda w: [
            w.at(2000 * number).exit(
                *(1, None, replace(CHILD, pid=50 + number, start_boot_ns=w.now - SECOND)),
                ends_container=False,
            )
            for number in range(3)
        ],
        *("child_loop", "likely"),
    ),
    "processor time": (
        lambda w: (
            w.at(-9000).signal("SIGXCPU", "kernel", code="SI_KERNEL", result="ignored"),
            w.at(0).signal("SIGKILL", "kernel", code="SI_KERNEL"),
            w.exit(by=9),
        ),
        *("killed_by_kernel", "likely"),
    ),
    "processor time of a program that left before": (
        lambda w: (
            w.at(-9000).signal("SIGXCPU", "kernel", code="SI_KERNEL", result="ignored"),
            w.exit(by=9),
        ),
        *("unexplained", "unknown"),
    ),
    "0": (lambda w: w.exit(0), "exited", "certain"),
    "127": (lambda w: w.exit(127), "exited", "certain"),
    "137 without a signal": (lambda w: w.exit(137), "exited", "certain"),
    "137 of a child": (
        lambda w: (
            w.signal("SIGKILL", "host", CRON, CHILD),
            w.exit(by=9, who=CHILD, ends_container=False),
            w.exit(137),
        ),
        *("exited_after_child", "likely"),
    ),
    "137 of somebody else's child": (
        lambda w: (w.exit(by=9, who=process(9), ends_container=False), w.exit(137)),
        *("exited", "certain"),
    ),
    "137 long after a child": (
        lambda w: (w.exit(by=9, who=CHILD, ends_container=False), w.at(60_000).exit(137)),
        *("exited", "certain"),
    ),
    "a child with another code": (
        lambda w: (w.exit(3, who=CHILD, ends_container=False), w.exit(4)),
        *("exited", "certain"),
    ),
    "no sender": (lambda w: w.exit(by=9), "unexplained", "unknown"),
    "the kernel without a reason": (
        lambda w: (w.signal("SIGKILL", "kernel"), w.exit(by=9)),
        *("unexplained", "unknown"),
    ),
    "a signal that was ignored": (
        lambda w: (w.signal("SIGKILL", "host", CRON, result="ignored"), w.exit(by=9)),
        *("unexplained", "unknown"),
    ),
    "a signal to another": (
        lambda w: (w.signal("SIGKILL", "host", CRON, CHILD), w.exit(by=9)),
        *("unexplained", "unknown"),
    ),
    "a signal after the end": (
        lambda w: (w.exit(by=9), w.signal("SIGKILL", "host", CRON)),
        *("unexplained", "unknown"),
    ),
    "not started": (
        lambda w: w.exit(1, who=PREPARING),
        *("start_failed", "certain"),
    ),
    "a program that calls itself so": (
        lambda w: w.exit(1, who=POSING),
        *("exited", "certain"),
    ),
    "fragmented": (
        lambda w: w.allocation([1 << 18, 0, 0, 0, 0]),
        *("page_allocation_fragmented", "certain"),
    ),
    "lack": (lambda w: w.allocation([10], order=0), "page_allocation_lack", "certain"),
    "lack for who cannot wait": (
        lambda w: w.allocation([10], order=0, can_wait=False),
        *("page_allocation_lack", "likely"),
    ),
    "lack of a large piece": (
        lambda w: w.allocation([10, 0, 0, 0, 0]),
        *("page_allocation_lack", "likely"),
    ),
    "little of that size is left, and kept back": (
        lambda w: w.allocation([10, 0, 0, 0, 9]),
        *("page_allocation_lack", "likely"),
    ),
    "limit where little is left": (
        lambda w: w.allocation([10, 0, 0, 0, 9], flags=["GFP_KERNEL_ACCOUNT"]),
        *("page_allocation_at_limit", "likely"),
    ),
    "limit": (
        lambda w: w.allocation([1 << 18, 0, 0, 0, 9], flags=["GFP_KERNEL_ACCOUNT"]),
        *("page_allocation_at_limit", "likely"),
    ),
    "start without memory": (
        lambda w: (
            w.at(-7000).allocation([1 << 18, 0, 0, 0, 0]),
            w.exit(1),
        ),
        *("start_without_memory", "likely"),
    ),
    **_stories_of_other_modules(),
}


@pytest.mark.parametrize(("tell", "verdict", "certainty"), STORIES.values(), ids=STORIES.keys())
def test_a_story(tell: Tell, verdict: str, certainty: str) -> None:
    world = World()
    tell(world)
    explanation = world.only()
    assert (explanation.verdict.id, str(explanation.verdict.certainty)) == (verdict, certainty)
    assert explanation.verdict.evidence
    assert explanation.verdict.remedy
    # what is not certain says why; what is unknown says so in its sentence
    if certainty == "likely":
        assert explanation.verdict.doubts


def test_every_verdict_has_a_story() -> None:
    """Besides the loop, which takes several lives, and pods in which nothing happens."""
    quiet = {"no_container.", "no_sandbox.", "no_more_processes."}
    own = {f"{name}." for name in causes.names()} - {"restart_loop.", *quiet}
    modules = {f"{_module_of(told(tell))}." for tell, _, _ in STORIES.values()}
    assert own == modules


# They are about what Kubernetes does, or name its ways among others.
OF_KUBERNETES = ("killed_by_kubelet", "disk_full", "evicted_for_disk")


@pytest.mark.parametrize("tell", [tell for tell, _, _ in STORIES.values()], ids=STORIES.keys())
def test_a_container_without_a_pod_is_not_told_in_kubernetes_words(tell: Tell) -> None:
    story = told(tell).story
    if story.place.identity.container_id is None:
        return
    story.place, story.found = place_of("a" * 64, "web", uid=None), []
    explanation = explain(story)
    assert explanation is not None
    for one in (explanation.verdict, *explanation.others):
        said = "\n".join((one.sentence, one.remedy, *one.doubts, *one.hints))
        if one.id not in OF_KUBERNETES:
            assert not re.search(r"Kubernetes|kubectl|resources\.limits|restartPolicy", said), said


def told(tell: Tell) -> Explanation:
    world = World()
    tell(world)
    return world.only()


def _module_of(explanation: Explanation) -> str:
    """Which module's judge says the same of this story."""
    for cause in reversed(causes.causes()):
        verdict = cause.judge(explanation.story)
        if verdict is not None:
            return cause.judge.__module__.rpartition(".")[2]
    raise AssertionError(explanation)


def sentence(tell: Tell) -> str:
    return told(tell).verdict.sentence


def test_sentences() -> None:
    assert sentence(killed("host", "/tmp/x")) == (
        "killed: SIGKILL from killer[50] (/tmp/x) on the host;"
        " its program lies where everybody may write"
    )
    assert "(/srv/runc) on the host;" in sentence(killed("runtime", "/srv/runc"))
    assert sentence(killed("host", "/srv/x")) == (
        "killed: SIGKILL from killer[50] (/srv/x) on the host;"
        " its program lies where no package puts programs"
    )
    assert sentence(stopped("ignored", by=9)) == (
        "stopped by the runtime: app[7] (/bin/app), as PID 1, ignored SIGTERM because it has no"
        " handler for it, and SIGKILL followed 2 s later"
    )
    assert sentence(out_of_memory()) == (
        "out of memory: app[7] (/bin/app) was killed because the container's memory limit of"
        " 32 MiB was used up, with 30 MiB of its own memory"
    )
    assert sentence(lambda w: w.exit(137)) == (
        "ended by itself: app[7] (/bin/app) called exit(137), the code that a shell gives for a"
        " child killed by SIGKILL, but no signal ended it"
    )
    assert sentence(lambda w: [w.drop("accept", 11), w.drop("accept", 12)]) == (
        "23 attempts to connect turned away at port 80: the accept queue was full (2 waiting, limit"
        " 1);"
        " app[7] (/bin/app) listens there"
    )
    assert sentence(lambda w: [w.reset("sent", "no_socket", "closed port") for _ in range(23)]) == (
        "nothing listens on port 80: 23 attempts to connect refused, from 198.18.0.1"
    )


def test_refusals_with_the_rhythm_of_a_probe() -> None:
    def tell(w: World) -> None:
        for number in range(4):
            w.at(2000 * number).reset("sent", "no_socket", "closed port", remote=4000 + number)

    verdict = told(tell).verdict
    assert verdict.sentence == (
        "nothing listens on port 80: 4 attempts to connect refused, every 2 s, from 198.18.0.1"
    )
    assert "kubectl describe pod -n shop web-0 names the one that fails" in verdict.remedy


def test_who_grew_on_the_node() -> None:
    rows = [{"comm": "java", "pid": 5, "rss_bytes": 9 << 30}]
    said = sentence(out_of_memory(scope="system", limit_of=None, limit=None, largest=rows))
    assert said.endswith("the largest were java[5] 9 GiB")


def test_ancestry_and_the_place_of_the_killer() -> None:
    def tell(w: World) -> None:
        w.signal("SIGKILL", "host", CRON)
        w.exit(by=9)

    assert sentence(tell).endswith("cron[901] (/usr/sbin/cron) on the host, started by sh[33]")


def test_what_happened_to_the_child_is_told() -> None:
    def tell(w: World) -> None:
        w.oom(CHILD)
        w.exit(by=9, who=CHILD, ends_container=False)
        w.exit(137)

    explanation = told(tell)
    assert "32 MiB was used up, and app[7]" in explanation.verdict.sentence
    assert [e.event.kind for e in explanation.verdict.evidence] == ["oom", "exit", "exit"]
    assert [other.id for other in explanation.others] == ["exited", "oom_of_child"]


def test_the_tiny_limit_of_a_container_that_never_ran() -> None:
    explanation = told(lambda w: w.oom(PREPARING, limit=2))
    assert explanation.verdict.id == "oom_tiny_limit"
    assert "a limit of 2 B" in explanation.verdict.sentence
    assert "1024m" in explanation.verdict.remedy
    # version 2 of cgroups counts in pages
    assert "a limit of less than a page" in sentence(lambda w: w.oom(PREPARING, limit=0))
    assert "1024m" not in told(lambda w: w.oom(PREPARING, limit=3 * MIB)).verdict.remedy


def test_a_sender_without_a_description() -> None:
    nobody = process(50, "x", None)
    nobody.comm = nobody.exe = None

    explanation = told(lambda w: (w.signal("SIGKILL", "host", nobody), w.exit(by=9)))
    assert explanation.verdict.certainty is Certainty.LIKELY
    assert "lost" in explanation.verdict.doubts[0]


def test_a_stop_may_have_begun_before_tracing() -> None:
    world = World(began=9 * SECOND)
    world.signal("SIGKILL", "runtime", RUNC)
    world.exit(by=9)
    verdict = world.only().verdict
    assert (verdict.id, verdict.certainty) == ("killed_by_runtime", Certainty.LIKELY)
    assert verdict.doubts == ("a SIGTERM may have come before tracing began",)


def test_the_limit_is_named() -> None:
    assert "the pod's memory limit of 64 MiB" in sentence(
        out_of_memory(limit_of="pod", limit=64 * MIB)
    )
    assert APP.path is not None
    assert f"32 MiB of cgroup {APP.path}" in sentence(out_of_memory(limit_of="other"))


def test_whose_limit_it_was_in_the_words_of_a_manifest() -> None:
    memory = pod_memory(part("app", 32 * MIB, 7 * MIB), PAUSE, left=24 * MIB)
    explanation = told(out_of_memory(limit_of="pod", memory=memory))
    assert explanation.verdict.sentence == (
        "out of memory: app[7] (/bin/app) was killed because the container's memory limit of 32 MiB"
        " was used up, with 30 MiB of its own memory; counted there, too: pause 300 KiB, tmpfs left"
        " by an earlier life 24 MiB"
    )
    assert "container limit 32 MiB reached" in to_text(explanation, CLOCK)
    of_child = told(lambda w: w.oom(CHILD, limit_of="pod", memory=memory))
    assert "the container's memory limit of 32 MiB" in of_child.verdict.sentence


def test_a_limit_that_nobody_told() -> None:
    verdict = told(out_of_memory(limit_of=None, scope=None, limit=None)).verdict
    assert "a memory limit, or the node's memory: which is not known" in verdict.sentence
    assert "kernel log" in verdict.doubts[0]
    assert "/dev/kmsg" in verdict.remedy


def test_the_zone_for_old_devices_is_no_memory_that_anybody_could_have_had() -> None:
    """Its large blocks do not make fragmented memory whole."""
    world = World()
    zones: Any = world.allocation([1 << 18, 0, 0, 0, 0]).body["buddyinfo"]
    zones.append({"node": 0, "zone": "DMA", "free": [0, 0, 0, 0, 200]})
    assert world.only().verdict.id == "page_allocation_fragmented"


def test_free_lists_that_were_read_too_late_do_not_hide_others() -> None:
    world = World()
    world.allocation([])
    world.allocation([1 << 18, 0, 0, 0, 0])
    world.allocation([])
    assert world.only().verdict.id == "page_allocation_fragmented"


def test_pieces_that_compaction_made_by_the_last_time_do_not_hide_that_there_were_none() -> None:
    world = World()
    account = ["GFP_KERNEL_ACCOUNT"]
    world.allocation([1 << 18, 0, 0, 0, 0], flags=account)
    world.allocation([1 << 18, 0, 0, 0, 9], flags=account)
    verdict = world.only().verdict
    assert (verdict.id, verdict.certainty) == ("page_allocation_fragmented", Certainty.CERTAIN)
