# SPDX-License-Identifier: Apache-2.0
"""Containers in no pod, by Docker and podman as Debian has them: shown, named, selected, listed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.docker import IMAGE, NO_ENTRY, Docker
from tests.support.ktrace import ROOT, Ktrace
from tests.support.podman import SPLIT, Podman
from tests.support.wait import wait_for
from tracer.identity.podman import PodmanFiles
from tracer.kernel.cgroupfs import container_cgroups
from tracer.kernel.hierarchies import hierarchies
from tracer.model.names import Container

COUNT = 23
STARTED = 11
SLEEP = ("sleep", "1000")
FALSE = (*NO_ENTRY, IMAGE, "false")
# Ends when it is told to, whatever PID 1 is spared otherwise.
LOOP = ("sh", "-c", "trap 'exit 3' TERM; while true; do sleep 1; done")
NOTHING_THERE = f"for i in $(seq {COUNT}); do nc 127.0.0.1 81 </dev/null; done; true"

Event = dict[str, Any]


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    with Docker() as running:
        yield running


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    with Podman() as running, running.service():
        yield running


def name_of(event: Event) -> tuple[str | None, str | None]:
    pod, container = event["pod"], event["container"]
    return pod and pod["name"], container and container["name"]


def without_pods() -> tuple[str, ...]:
    """A command in whose mount namespace no pod has a cgroup, on a machine where others do."""
    tops = {
        f"{hierarchy.mount}/{cgroup.path.split('/')[1]}"
        for hierarchy in hierarchies()
        for cgroup in container_cgroups()
        if cgroup.identity.pod_uid
    }
    hide = " ".join(f"[ ! -d {top} ] || mount -t tmpfs none {top};" for top in sorted(tops))
    return ("unshare", "--mount", "sh", "-c", f'{hide} exec "$@"', "sh")


def test_where_no_pod_is_containers_are_shown_unasked(docker: Docker) -> None:
    """Started before and while ktrace runs, each with its name from its first moment."""
    before = docker.run("before", *LOOP)
    with Ktrace("exits", environment=docker.environment, inside=without_pods()) as ktrace:
        names = [f"fresh-{number}" for number in range(STARTED)]
        for name in names:
            docker("run", "--name", name, "--network", "none", *FALSE, check=False)
        docker("stop", before.name)
        wait_for(
            "the last exit", lambda: "before" in {name_of(e)[1] for e in firsts(ktrace.events)}
        )
        events = ktrace.stop()
    ended = [event for event in firsts(events) if name_of(event)[1] in {*names, "before"}]
    assert [name_of(event) for event in ended] == [(None, name) for name in (*names, "before")]
    assert [event["exit_code"] for event in ended] == [1] * STARTED + [3]
    assert {event["container"]["runtime"] for event in ended} == {"docker"}
    in_no_pod = [event for event in events if event["pod"] is None]
    assert not [event for event in in_no_pod if name_of(event) == (None, None)]


def firsts(events: list[Event]) -> list[Event]:
    """The ends of containers' first processes."""
    return [event for event in events if event["container_exit"]]


def test_a_container_is_selected_by_name_and_by_id(docker: Docker) -> None:
    one, other = docker.run("one", *SLEEP), docker.run("one-more", *SLEEP)
    options = ("--signal", "SIGUSR1")
    with (
        Ktrace("signals", "-c", "one", *options, environment=docker.environment) as by_name,
        Ktrace("signals", "-c", other.id[:12], *options, environment=docker.environment) as by_id,
    ):
        for _ in range(COUNT):
            os.kill(one.pid, signal.SIGUSR1)
        os.kill(other.pid, signal.SIGUSR1)
        told, told_of_other = by_name.stop(), by_id.stop()
    assert [(name_of(e), e["target"]["pid"]) for e in told] == [((None, "one"), one.pid)] * COUNT
    assert [e["target"]["pid"] for e in told_of_other] == [other.pid]


def test_a_container_below_any_parent_is_none_of_the_hosts(docker: Docker) -> None:
    """Its signal to the host's process comes from a container, and its own is its container's."""
    parent = f"{docker.parent}/custom"
    agent = docker.run("agent", *SLEEP, options=("--cgroup-parent", parent, "--pid", "host"))
    victim = subprocess.Popen(["sleep", "1000"])
    try:
        with Ktrace(
            "signals", "--all", "--signal", "SIGWINCH", environment=docker.environment
        ) as k:
            docker("exec", agent.name, "kill", "-WINCH", str(victim.pid))
            docker("exec", agent.name, "kill", "-WINCH", str(agent.pid))
            ours = [e for e in k.stop() if e["target"]["pid"] in (victim.pid, agent.pid)]
    finally:
        victim.kill()
        victim.wait()
    assert [event["origin"] for event in ours] == ["other-pod", "same-container"]
    assert [event["sender"]["container"]["name"] for event in ours] == ["agent", "agent"]


def test_resets_of_a_container(docker: Docker) -> None:
    docker.run("client", *SLEEP)
    with Ktrace("resets", "-c", "client", environment=docker.environment) as ktrace:
        docker("exec", "client", "sh", "-c", NOTHING_THERE)
        events = ktrace.stop()
    for direction in ("sent", "received"):
        told = [event for event in events if event["direction"] == direction]
        assert [name_of(event) for event in told] == [(None, "client")] * COUNT


def test_why_of_a_container(docker: Docker) -> None:
    """The container's name is enough where no pod is."""
    asked = docker.run("asked", *SLEEP)
    hidden = without_pods()
    with Ktrace("why", "asked", environment=docker.environment, inside=hidden) as ktrace:
        docker("kill", "--signal", "KILL", asked.name)
        (verdict,) = ktrace.wait()
    assert verdict["verdict"] == "killed_by_runtime"
    assert name_of(verdict) == (None, "asked")


def test_they_are_listed(docker: Docker) -> None:
    listed = docker.run("listed", *SLEEP, options=("--cgroup-parent", f"{docker.parent}/custom"))
    command = [sys.executable, "-m", "tracer", "pods", "-o", "json"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **docker.environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f'"container":"listed","container_id":"{listed.id}","runtime":"docker"' in done.stdout


def test_a_name_that_is_a_containers_and_no_pods(docker: Docker) -> None:
    docker.run("lonely", *SLEEP)
    done = subprocess.run(
        [sys.executable, "-m", "tracer", "signals", "-p", "lonely"],
        cwd=ROOT,
        env={**os.environ, **docker.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5
    assert "-c lonely" in done.stderr


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_podmans_pods_and_containers(podman: Podman, runtime: str) -> None:
    pod = f"shop-{runtime}"
    podman("pod", "create", "--name", pod, "--infra=false")
    inside = podman.run(f"in-{runtime}", *LOOP, options=("--pod", pod), runtime=runtime)
    outside = podman.run(f"out-{runtime}", *LOOP, runtime=runtime)
    with (
        Ktrace("exits", "-p", pod, environment=podman.environment) as of_pod,
        Ktrace("exits", "-c", outside.name, environment=podman.environment) as of_container,
    ):
        podman("stop", inside.name, outside.name, runtime=runtime)
        in_pod, in_none = of_pod.stop(), of_container.stop()
    (first,) = [event for event in in_pod if event["container_exit"]]
    assert name_of(first) == (pod, inside.name)
    assert first["pod"]["namespace"] == ""
    (first,) = [event for event in in_none if event["container_exit"]]
    assert name_of(first) == (None, outside.name)


@pytest.mark.parametrize("where", ["split", "custom"])
def test_podmans_containers_in_other_cgroups(podman: Podman, where: str) -> None:
    """As systemd's units of podman make them, and below any parent. conmon is not in it."""
    parent = f"{podman.parent}/custom"
    options = (SPLIT,) if where == "split" else ("--cgroup-parent", parent)
    container = podman.run(where, *LOOP, options=options)
    paths = Path(f"/proc/{container.pid}/cgroup").read_text().split()
    assert all(
        f"{podman.parent}/{'unit/libpod-payload' if where == 'split' else 'custom'}" in path
        for path in paths
    )
    arguments = ("--all", "--signal", "WINCH,TERM")
    with (
        Ktrace("signals", *arguments, environment=podman.environment) as signals,
        Ktrace("exits", "-c", where, environment=podman.environment) as exits,
    ):
        for _ in range(COUNT):
            os.kill(container.pid, signal.SIGWINCH)
        podman("exec", where, "kill", "-WINCH", "1")
        podman("stop", where)
        told, ended = signals.stop(), exits.stop()
    mine = [event for event in told if event["target"]["pid"] == container.pid]
    assert {name_of(event) for event in mine} == {(None, where)}
    origins = Counter((event["signal"]["name"], event["origin"]) for event in mine)
    assert origins == {
        ("SIGWINCH", "host"): COUNT,
        ("SIGWINCH", "same-container"): 1,
        ("SIGTERM", "runtime"): 1,
    }
    (first,) = firsts(ended)
    assert (name_of(first), first["exit_code"]) == ((None, where), 3)
    assert first["container"]["runtime"] == "podman"


def test_podmans_own_file_names_its_containers(podman: Podman) -> None:
    """Nobody has to serve the API."""
    filed = podman.run("filed", *SLEEP)
    named = PodmanFiles(podman.storage).snapshot()
    assert named.containers[filed.id] == Container(filed.id, "podman", "filed")
