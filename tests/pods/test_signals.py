# SPDX-License-Identifier: Apache-2.0
"""Signals and exits in real pods: who did it, from where, and under which names."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.containerd import Containerd, ContainerHandle, PodHandle
from tests.support.ktrace import Ktrace, run
from tests.support.wait import wait_for
from tracer.kernel.hierarchies import hierarchies

COUNT = 23
SLEEP = ["sleep", "1000"]


def test_killed_from_inside(web: PodHandle, cri: tuple[str, str]) -> None:
    container = web.run("app", ["sh", "-c", "sleep 1000 & exec sleep 2000"])
    child = wait_for("the child", lambda: pid_of(container, ["sleep", "1000"]))
    with Ktrace("signals", "-p", "shop/web-0", "--pid", str(child), *cri) as ktrace:
        inside = str(pid_in_pod(child))
        # a name that only this killer has, one process for each signal
        container.exec(
            ["sh", "-c", f"for i in $(seq {COUNT}); do sh -c 'kill -CONT {inside}'; done"]
        )
        events = signals(ktrace.stop())
    assert len(events) == COUNT
    assert len({event["sender"]["pid"] for event in events}) == COUNT
    for event in events:
        assert event["pod"] == pod_json(web)
        assert event["container"] == container_json(container)
        assert event["origin"] == "same-container"
        assert event["signal"] == signal_json(18, "SIGCONT")
        assert event["target"]["pid"] == child
        assert event["target"]["pid_in_pod"] == int(inside)
        assert event["target"]["argv"] == SLEEP
        assert event["sender"]["comm"] == "sh"
        assert event["sender"]["argv"] == ["sh", "-c", f"kill -CONT {inside}"]
        assert event["sender"]["exe"] == "/bin/busybox"
        assert event["sender"]["pod"] == event["pod"]
        assert event["sender"]["container"] == event["container"]


def test_killed_from_another_pod(web: PodHandle, other: PodHandle, cri: tuple[str, str]) -> None:
    container = web.run("app", SLEEP)
    agent = other.run("agent", SLEEP)
    with Ktrace("signals", "-p", "web-*", "-n", "shop", *cri) as ktrace:
        agent.exec(["kill", "-9", str(container.pid)])
        assert container.wait_exit() == 137
        events = signals(ktrace.stop(), "SIGKILL")
    assert len(events) == 1
    event = events[0]
    assert event["origin"] == "other-pod"
    assert event["pod"] == pod_json(web)
    assert event["sender"]["pod"] == pod_json(other)
    assert event["sender"]["container"]["name"] == "agent"
    assert event["sender"]["argv"] == ["kill", "-9", str(container.pid)]
    assert event["target"]["pid"] == container.pid
    assert event["target"]["pid_in_pod"] == 1


def test_selected_by_the_sender(web: PodHandle, other: PodHandle, cri: tuple[str, str]) -> None:
    container = web.run("app", SLEEP)
    agent = other.run("agent", SLEEP)
    with Ktrace("signals", "--sender-pod", "agent-0", *cri) as ktrace:
        os.kill(container.pid, 18)
        container.exec(["kill", "-CONT", "1"])
        agent.exec(["kill", "-CONT", str(container.pid)])
        events = signals(ktrace.stop(), "SIGCONT")
    assert [event["origin"] for event in events] == ["other-pod"]


def test_killed_from_the_host_by_a_process_that_is_gone(
    web: PodHandle, cri: tuple[str, str], tmp_path: Path
) -> None:
    container = web.run("app", SLEEP)
    killer = Path("/tmp", f"vGhyM0-{uuid.uuid4().hex[:6]}")
    shutil.copy("/bin/bash", killer)
    try:
        with Ktrace("signals", "-l", "app=web,tier", *cri) as ktrace:
            command = [str(killer), "-c", f"kill -9 {container.pid}; exit 0"]
            gone = subprocess.Popen(command)
            gone.wait()
            killer.unlink()
            assert container.wait_exit() == 137
            events = signals(ktrace.stop(), "SIGKILL")
    finally:
        killer.unlink(missing_ok=True)
    assert len(events) == 1
    event = events[0]
    assert event["origin"] == "host"
    assert event["sender"]["pid"] == gone.pid
    assert event["sender"]["comm"] == killer.name[:15]
    assert event["sender"]["exe"] == str(killer)
    assert event["sender"]["argv"] == command
    assert event["sender"]["uid"] == 0
    assert event["sender"]["pod"] is None
    assert event["sender"]["ancestry"][0]["pid"] == os.getpid()
    assert len(event["sender"]["ancestry"]) >= 2


def test_stopped_by_the_runtime(web: PodHandle, cri: tuple[str, str]) -> None:
    """A shell as PID 1 has no handler for SIGTERM, so the kernel ignores it."""
    container = web.run("app", ["sh", "-c", "while true; do sleep 1000; done"])
    with Ktrace("signals", "-c", "app", "--pid", str(container.pid), *cri) as ktrace:
        container.stop(1)
        assert container.wait_exit() == 137
        events = signals(ktrace.stop())
    assert [(e["signal"]["name"], e["signal"]["result"]) for e in events] == [
        ("SIGTERM", "ignored"),
        ("SIGKILL", "delivered"),
    ]
    assert {event["origin"] for event in events} == {"runtime"}
    assert {event["sender"]["comm"] for event in events} == {"runc"}
    assert events[1]["boot_ns"] - events[0]["boot_ns"] >= 900_000_000


def test_names_through_log_directories(web: PodHandle) -> None:
    """Without a runtime's socket. Labels cannot be known that way."""
    container = web.run("app", SLEEP)
    with Ktrace("signals", "-p", "shop/web-0") as ktrace:
        os.kill(container.pid, 18)
        events = signals(ktrace.stop(), "SIGCONT")
    assert len(events) == 1
    assert events[0]["pod"] == {**pod_json(web), "labels": None}
    assert events[0]["container"]["name"] == "app"
    assert events[0]["container"]["id"] == container.id


def test_a_dead_socket_costs_names_not_events(web: PodHandle, tmp_path: Path) -> None:
    container = web.run("app", SLEEP)
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()  # accepts, and never answers
        with Ktrace("signals", "--cri-socket", str(path)) as ktrace:
            os.kill(container.pid, 18)
            events = signals(ktrace.stop(), "SIGCONT")
    assert [event["pod"]["name"] for event in events] == ["web-0"]


def test_a_dead_socket_is_told_at_the_end(web: PodHandle, tmp_path: Path) -> None:
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))  # refuses
        with Ktrace("signals", "-p", "web-0", "--cri-socket", str(path)) as ktrace:
            ktrace.stop()  # with a selector, the sources have been heard before it began
            assert f"ktrace: names may be missing: cri {path}: " in ktrace.stderr


def test_a_pod_deleted_before_its_name_is_known() -> None:
    """No runtime has ever heard of it: uid and container id come from the kernel alone, and the
    cgroup is gone before anybody could look."""
    uid, container_id = str(uuid.uuid4()), uuid.uuid4().hex * 2
    with Ktrace("signals", "--signal", "KILL") as ktrace:
        with cgroup_of_a_pod(uid, container_id) as directories:
            join = "; ".join(f"echo $$ > {d}/cgroup.procs" for d in directories)
            sleeper = subprocess.Popen(["sh", "-c", f"{join}; exec sleep 1000"])
            wait_for("the sleep", lambda: argv_of(sleeper.pid) == SLEEP)
            sleeper.kill()
            sleeper.wait()
        events = [e for e in ktrace.stop() if e["target"]["pid"] == sleeper.pid]
    assert len(events) == 1
    assert events[0]["pod"] == {"namespace": None, "name": None, "uid": uid, "labels": None}
    assert events[0]["container"] == {"name": None, "id": container_id, "runtime": None}
    assert events[0]["target"]["argv"] == SLEEP


def test_a_pod_that_starts_later(containerd: Containerd, cri: tuple[str, str]) -> None:
    with Ktrace("signals", "-p", "late-*", "--wait", *cri) as ktrace:
        pod = containerd.run_pod("late-0", namespace="shop")
        stranger = containerd.run_pod("early-0", namespace="shop")
        try:
            container, not_ours = pod.run("app", SLEEP), stranger.run("app", SLEEP)
            for _ in range(COUNT):
                os.kill(container.pid, 18)
                os.kill(not_ours.pid, 18)
            events = signals(ktrace.stop(), "SIGCONT")
        finally:
            pod.remove()
            stranger.remove()
    assert len(events) == COUNT
    assert {event["pod"]["name"] for event in events} == {"late-0"}


def test_two_containers_with_the_same_comm(web: PodHandle, cri: tuple[str, str]) -> None:
    first, second = web.run("first", SLEEP), web.run("second", SLEEP)
    with Ktrace("signals", "-c", "second", *cri) as ktrace:
        os.kill(first.pid, 18)
        os.kill(second.pid, 18)
        events = signals(ktrace.stop(), "SIGCONT")
    assert [event["container"]["id"] for event in events] == [second.id]


def test_a_nested_cgroup_cannot_pose_as_another_pod(
    web: PodHandle, other: PodHandle, cri: tuple[str, str]
) -> None:
    """A cgroup made inside the pod carries the other pod's uid: the outer pod is named."""
    container = web.run("app", SLEEP)
    made = []
    for base in cgroup_directories(container):
        nested = base / f"kubepods-pod{other.uid}" / f"pod{other.uid}" / ("0" * 64)
        nested.mkdir(parents=True)
        made.append(nested)
    try:
        with Ktrace("signals", "-p", "shop/web-0", *cri) as ktrace:
            for nested in made:
                (nested / "cgroup.procs").write_text(str(container.pid))
            os.kill(container.pid, 18)
            events = signals(ktrace.stop(), "SIGCONT")
    finally:
        container.stop(0)
        container.wait_exit()
        for nested in made:
            for directory in (nested, nested.parent, nested.parent.parent):
                if directory.exists():
                    directory.rmdir()
    assert [event["pod"]["name"] for event in events] == ["web-0"]
    assert events[0]["container"]["id"] == container.id


def test_a_host_network_pod(containerd: Containerd, cri: tuple[str, str]) -> None:
    pod = containerd.run_pod("hostnet-0", host_network=True, qos="guaranteed")
    try:
        container = pod.run("app", SLEEP)
        with Ktrace("signals", "-p", "hostnet-0", *cri) as ktrace:
            os.kill(container.pid, 18)
            events = signals(ktrace.stop(), "SIGCONT")
    finally:
        pod.remove()
    assert [event["pod"]["name"] for event in events] == ["hostnet-0"]


def test_exits_tell_the_init_from_its_children(web: PodHandle, cri: tuple[str, str]) -> None:
    container = web.run("app", ["sh", "-c", "sh -c 'exit 3'; sleep 1000 & wait $!; exit 7"])
    child = wait_for("the sleeping child", lambda: pid_of(container, SLEEP))
    with Ktrace("exits", "-p", "web-0", "-c", "app", *cri) as ktrace:
        os.kill(child, 9)
        assert container.wait_exit() == 7
        events = ktrace.stop()
    assert [(e["exit_code"], e["signal"], e["container_exit"]) for e in events] == [
        (None, {"number": 9, "name": "SIGKILL"}, False),
        (7, None, True),
    ]
    assert events[0]["meaning"].startswith("137 = 128 + 9")
    assert events[1]["process"]["pid"] == container.pid
    assert events[1]["process"]["exe"] == "/bin/busybox"


@pytest.mark.parametrize("shared", ["host_pid", "share_pid"])
def test_the_init_in_a_shared_pid_namespace_comes_from_the_runtime(
    containerd: Containerd, cri: tuple[str, str], shared: str
) -> None:
    pod = containerd.run_pod(
        "shared-0", host_pid=shared == "host_pid", share_pid=shared == "share_pid"
    )
    try:
        container = pod.run("app", ["sh", "-c", "sleep 1000 & wait $!; exit 7"])
        child = wait_for("the sleeping child", lambda: pid_of(container, SLEEP))
        with Ktrace("exits", "-p", "shared-0", "-c", "app", *cri) as ktrace:
            os.kill(child, 9)
            container.wait_exit()
            events = ktrace.stop()
    finally:
        pod.remove()
    verdicts = {event["process"]["pid"]: event["container_exit"] for event in events}
    # never a wrong answer: unknown is allowed where the runtime did not tell the init's pid
    assert verdicts[container.pid] in (True, None)
    assert verdicts[child] in (False, None)


def test_pods_lists_them(web: PodHandle, cri: tuple[str, str]) -> None:
    container = web.run("app", SLEEP)
    listed = [json.loads(line) for line in run("pods", "-o", "json", *cri).stdout.splitlines()]
    assert [entry for entry in listed if entry["container_id"] == container.id] == [
        {
            "namespace": "shop",
            "pod": "web-0",
            "pod_uid": web.uid,
            "container": "app",
            "container_id": container.id,
            "runtime": "containerd",
            "init_pid": container.pid,
            "qos": "Burstable",
            "cgroup": container.cgroup,
            "netns": os.stat(f"/proc/{container.pid}/ns/net").st_ino,
        }
    ]


def test_an_unknown_pod_is_answered_with_the_nearest(web: PodHandle, cri: tuple[str, str]) -> None:
    web.run("app", SLEEP)
    failed = run("signals", "-p", "wbe-0", *cri)
    assert failed.returncode == 5
    assert "shop/web-0" in failed.stderr
    assert "--wait" in failed.stderr
    assert "Traceback" not in failed.stderr


def signals(events: list[dict[str, Any]], name: str | None = None) -> list[dict[str, Any]]:
    assert not [event for event in events if event["kind"] == "lost"]
    return [e for e in events if e["kind"] == "signal" and name in (None, e["signal"]["name"])]


def signal_json(number: int, name: str) -> dict[str, Any]:
    """A signal without a handler that does nothing to a running process is ignored."""
    return {"number": number, "name": name, "code": "SI_USER", "result": "ignored"}


def pod_json(pod: PodHandle) -> dict[str, Any]:
    return {"namespace": pod.namespace, "name": pod.name, "uid": pod.uid, "labels": pod.labels}


def container_json(container: ContainerHandle) -> dict[str, Any]:
    return {"name": container.name, "id": container.id, "runtime": "containerd"}


@contextmanager
def cgroup_of_a_pod(uid: str, container_id: str) -> Iterator[list[Path]]:
    """A cgroup like a kubelet's and a runtime's, in each hierarchy that is looked at."""
    made = []
    for hierarchy in hierarchies():
        for part in ("kubepods", "kubepods/burstable", f"kubepods/burstable/pod{uid}"):
            directory = Path(hierarchy.mount, part)
            if not directory.exists():
                directory.mkdir()
                made.append(directory)
        made.append(directory / container_id)
        made[-1].mkdir()
    try:
        yield [directory for directory in made if directory.name == container_id]
    finally:
        for directory in reversed(made):
            wait_for(f"{directory} to be empty", partial(removed, directory))


def removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except OSError as error:
        # other pods of this test run may share the directories above
        return error.errno == errno.EBUSY and directory.name in ("kubepods", "burstable")
    return True


def argv_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]


def pid_of(container: ContainerHandle, argv: list[str]) -> int | None:
    """The host's pid of the container's process that runs `argv`."""
    wanted = b"".join(word.encode() + b"\0" for word in argv)
    for pid in container.processes():
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes() == wanted:
                return pid
        except OSError:
            continue
    return None


def pid_in_pod(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("NSpid")).split()[-1])


def cgroup_directories(container: ContainerHandle) -> list[Path]:
    """Where the container's cgroup lies: version 1's memory hierarchy, version 2's, or both."""
    directories = [Path(h.mount + container.cgroup) for h in hierarchies()]
    return [directory for directory in directories if directory.is_dir()]
