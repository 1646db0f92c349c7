# SPDX-License-Identifier: Apache-2.0
"""Real pods, by SystemTap: the cgroup paths that say whose a process is come from the script, and
so does the ancestry of who killed it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.kernel.checks import SIGNAL_KEYS, TIMES
from tests.pods.test_oom import DD, LIMIT, MIB, check_limit
from tests.pods.test_signals import SLEEP, container_json, pod_json, signal_json
from tests.support.containerd import Containerd, PodHandle
from tests.support.ktrace import Ktrace
from tests.support.raisers import Actor, check_process, facts

CONT, KILL = int(signal.SIGCONT), int(signal.SIGKILL)
# An emulated machine needs a minute where a machine needs a second.
CALL_SECONDS = 120.0
# gRPC, by which the pods are made here, does not survive a fork.
OWN_INTERPRETER = ("env",)


@pytest.fixture(scope="module")
def containerd() -> Iterator[Containerd]:
    with Containerd(timeout=CALL_SECONDS) as running:
        yield running


@pytest.fixture(scope="module")
def web(containerd: Containerd) -> PodHandle:
    return containerd.run_pod("web-0", namespace="shop", labels={"app": "web"})


def test_killed_by_the_node_and_by_a_neighbour(containerd: Containerd, web: PodHandle) -> None:
    """Each signal of known senders, and none that other pods get."""
    other = containerd.run_pod("agent-0", namespace="system", host_pid=True, qos="besteffort")
    app, agent = web.run("app", SLEEP), other.run("agent", SLEEP)
    loop = ["sh", "-c", f"for i in $(seq {TIMES}); do kill -CONT {app.pid}; done"]
    with Actor(executed=True) as killer, traced(containerd, "signals") as ktrace:
        who, whom = facts(killer.pid), facts(app.pid)
        for _ in range(TIMES):
            killer.do("kill", app.pid, CONT)
            killer.do("kill", agent.pid, CONT)
        assert agent.exec(loop, timeout=int(CALL_SECONDS)).exit_code == 0
        killer.do("kill", app.pid, KILL)
        assert app.wait_exit(CALL_SECONDS) == 128 + KILL
        events = ktrace.stop()
        assert ktrace.summary.lost == 0
    whom |= {"pod": pod_json(web), "container": container_json(app)}
    by_node = [event for event in events if event["origin"] == "host"]
    by_neighbour = [event for event in events if event["origin"] == "other-pod"]
    assert len(by_node) == TIMES + 1
    assert len(by_neighbour) == TIMES
    for event in events:
        assert list(event) == SIGNAL_KEYS
        assert (event["pod"], event["container"]) == (whom["pod"], whom["container"])
        check_process(event["target"], whom)
    for event in by_node:
        check_process(event["sender"], who)
    for event in by_neighbour:
        sender = event["sender"]
        assert (sender["comm"], sender["exe"], sender["argv"]) == ("sh", "/bin/busybox", loop)
        assert (sender["pod"], sender["container"]) == (pod_json(other), container_json(agent))
        assert sender["ancestry"][-1]["pid"] == 1
    *ignored, last = by_node
    assert all(event["signal"] == signal_json(CONT, "SIGCONT") for event in ignored + by_neighbour)
    assert last["signal"] == {**signal_json(KILL, "SIGKILL"), "result": "delivered"}


def test_killed_at_its_limit(containerd: Containerd, web: PodHandle) -> None:
    with traced(containerd, "oom") as ktrace:
        container = web.run("eater", DD.split(), memory_limit=LIMIT)
        assert container.wait_exit(CALL_SECONDS) == 128 + KILL
        (event,) = ktrace.stop()
    victim = event["victim"]
    assert event["pod"] == victim["pod"] == pod_json(web)
    assert event["container"] == victim["container"] == container_json(container)
    assert (victim["argv"], victim["pid_in_pod"]) == (DD.split(), 1)
    assert (victim["is_container_init"], victim["oom_score_adj"]) == (True, 999)
    assert 28 * MIB <= victim["anon_bytes"] <= LIMIT + MIB
    assert event["trigger"]["pid"] == victim["pid"]
    assert event["cgroup_path"] == container.cgroup  # the guest lets the kernel log be read
    check_limit(event, "container", container.cgroup)


def traced(containerd: Containerd, probe: str) -> Ktrace:
    words = ("--pod", "shop/web-0", "--cri-socket", str(containerd.socket))
    return Ktrace(probe, *words, inside=OWN_INTERPRETER)
