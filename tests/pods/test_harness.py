# SPDX-License-Identifier: Apache-2.0
"""The harness that runs real pods, tried by itself, so that the other tests may rely on it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.support import image, leftovers
from tests.support.containerd import (
    CONTAINER_LINKS,
    POD_LOGS,
    Containerd,
    ContainerdError,
    ContainerHandle,
    PodHandle,
    Qos,
)
from tests.support.wait import WaitTimeout, wait_for

SLEEP = ["sleep", "1000"]
SERVER = "while :; do echo hello | nc -l -p 7777; done"


@pytest.fixture(scope="module")
def containerd() -> Iterator[Containerd]:
    with Containerd() as running:
        yield running


@pytest.fixture(scope="module")
def pod(containerd: Containerd) -> PodHandle:
    return containerd.run_pod("web-0", labels={"app": "web"})


class TestPod:
    @pytest.mark.parametrize(
        ("qos", "parent"),
        [
            ("guaranteed", "/kubepods"),
            ("burstable", "/kubepods/burstable"),
            ("besteffort", "/kubepods/besteffort"),
        ],
    )
    def test_lies_where_a_kubelet_puts_it(
        self, containerd: Containerd, qos: Qos, parent: str
    ) -> None:
        pod = containerd.run_pod("db-0", namespace="shop", qos=qos)
        container = pod.run("postgres", SLEEP)

        expected = f"{parent}/pod{pod.uid}/{container.id}"
        assert container.cgroup == expected
        assert cgroups_of(container.pid) == {expected}
        assert container.processes() == [container.pid]
        assert {container.pid, pod.pid} <= set(pod.processes())
        assert pod.log_directory == POD_LOGS / f"shop_db-0_{pod.uid}"
        link = CONTAINER_LINKS / f"db-0_shop_postgres-{container.id}.log"
        assert link.resolve() == pod.log_directory / "postgres/0.log"
        pod.remove()

    def test_never_takes_over_another_pod(self, containerd: Containerd, pod: PodHandle) -> None:
        with pytest.raises(ContainerdError, match="is on this machine already"):
            containerd.run_pod("impostor", uid=pod.uid)

    def test_is_listed_with_its_labels(self, containerd: Containerd, pod: PodHandle) -> None:
        (listed,) = [s for s in containerd.client.list_pod_sandboxes() if s.uid == pod.uid]
        assert (listed.namespace, listed.name, listed.state) == ("default", "web-0", "ready")
        assert listed.labels["app"] == "web"
        assert listed.labels["io.kubernetes.pod.name"] == "web-0"

    def test_has_a_network_of_its_own(self, containerd: Containerd, pod: PodHandle) -> None:
        server = pod.run("server", ["sh", "-c", SERVER])
        client = containerd.run_pod("client").run("client", SLEEP)

        assert namespace_of(server, "net") != host_namespace("net")
        assert namespace_of(server, "net") != namespace_of(client, "net")
        wait_for("the server to listen", lambda: ask(pod.ip, 7777) == b"hello\n")
        answer = client.exec(["sh", "-c", f"nc {pod.ip} 7777 </dev/null"])
        assert answer.stdout == "hello\n"
        server.stop(0)
        client.pod.remove()

    def test_may_use_the_host_network(self, containerd: Containerd) -> None:
        pod = containerd.run_pod("node-agent", host_network=True)
        assert namespace_of(pod.run("agent", SLEEP), "net") == host_namespace("net")
        assert pod.ip == ""
        pod.remove()

    def test_may_see_the_host_processes(self, containerd: Containerd) -> None:
        pod = containerd.run_pod("debugger", host_pid=True)
        container = pod.run("shell", SLEEP)
        assert namespace_of(container, "pid") == host_namespace("pid")
        container.exec(["kill", "-KILL", str(container.pid)])
        assert container.wait_exit() == 137
        pod.remove()

    def test_may_share_its_processes(self, containerd: Containerd) -> None:
        pod = containerd.run_pod("shared", share_pid=True)
        one, two = pod.run("one", SLEEP), pod.run("two", SLEEP)
        assert namespace_of(one, "pid") == namespace_of(two, "pid")
        assert namespace_of(one, "pid") != host_namespace("pid")
        assert "/pause" in one.exec(["cat", "/proc/1/cmdline"]).stdout
        pod.remove()

    def test_ends_with_its_pause_process(self, containerd: Containerd) -> None:
        pod = containerd.run_pod("short")
        wait_for("the pause process to have its handler", lambda: len(pod.processes()) == 2)
        os.kill(pod.pid, signal.SIGTERM)
        wait_for(
            "the sandbox to end",
            lambda: (
                containerd.client.pod_sandbox_status(pod.sandbox_id).sandbox.state == "not ready"
            ),
        )
        pod.remove()

    def test_removed_leaves_nothing(self, containerd: Containerd) -> None:
        pod = containerd.run_pod("gone")
        container = pod.run("gone", SLEEP)
        pod.remove()
        wait_until_no_trace_of([pod.uid, pod.sandbox_id, container.id])


class TestContainer:
    def test_runs_commands(self, pod: PodHandle) -> None:
        container = pod.run("shell", SLEEP, env={"GREETING": "hello"})
        result = container.exec(["sh", "-c", "echo $GREETING; echo oh >&2; exit 3"])
        assert (result.exit_code, result.stdout, result.stderr) == (3, "hello\n", "oh\n")

    def test_killed_from_the_host(self, pod: PodHandle) -> None:
        container = pod.run("victim", SLEEP)
        os.kill(container.pid, signal.SIGKILL)
        assert container.wait_exit() == 137

    def test_killed_for_its_memory(self, pod: PodHandle) -> None:
        container = pod.run(
            "hungry", ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M"], memory_limit=32 << 20
        )
        assert container.wait_exit() == 137
        assert container.status().reason == "OOMKilled"

    def test_stops_within_its_grace_period(self, pod: PodHandle) -> None:
        container = pod.run(
            "polite", ["sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"]
        )
        log = pod.log_directory / "polite/0.log"
        wait_for("the container to be ready", lambda: "ready" in log.read_text())
        container.stop(grace_seconds=30)
        assert container.wait_exit() == 3

    def test_killed_after_its_grace_period(self, pod: PodHandle) -> None:
        container = pod.run("deaf", SLEEP)  # the first process has no default signal actions
        container.stop(grace_seconds=1)
        assert container.wait_exit() == 137

    def test_restarts_as_the_next_attempt(self, containerd: Containerd, pod: PodHandle) -> None:
        first, second = pod.run("flaky", ["false"]), pod.run("flaky", SLEEP)
        assert first.wait_exit() == 1
        logs = sorted(log.name for log in (pod.log_directory / "flaky").iterdir())
        assert logs == ["0.log", "1.log"]
        first.remove()
        names = {c.id: c.name for c in containerd.client.list_containers()}
        assert names[second.id] == "flaky" and first.id not in names

    def test_sees_host_folders_when_asked(self, pod: PodHandle, tmp_path: Path) -> None:
        (tmp_path / "note").write_text("from the host")
        container = pod.run("reader", SLEEP, mounts={"/mnt": str(tmp_path)})
        assert container.exec(["cat", "/mnt/note"]).stdout == "from the host"
        assert container.exec(["touch", "/mnt/note"]).exit_code != 0


class TestCleaning:
    def test_stop_leaves_nothing(self) -> None:
        before = shared_directories()
        with Containerd() as containerd:
            marks = run_some_pods(containerd)
            assert traces_of(marks), "the search for traces finds none even of a running instance"
        wait_until_no_trace_of(marks)
        assert shared_directories() <= before or leftovers.STATE.exists()

    def test_failed_test_leaves_nothing(self) -> None:
        marks: list[str] = []
        with pytest.raises(ZeroDivisionError), Containerd() as containerd:
            marks += run_some_pods(containerd)
            raise ZeroDivisionError
        wait_until_no_trace_of(marks)

    def test_next_instance_clears_a_killed_one(self) -> None:
        code = (
            "from tests.pods.test_harness import *\n"
            "containerd = Containerd(); containerd.start()\n"
            "print(*run_some_pods(containerd), flush=True)\n"
            "signal.pause()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as owner:
            assert owner.stdout is not None
            marks = owner.stdout.readline().split()
            owner.kill()
        assert len(traces_of(marks)) > 10
        with Containerd() as containerd:
            wait_until_no_trace_of(marks)
            containerd.run_pod("fresh").run("fresh", SLEEP)

    def test_sigterm_ends_a_test_run_in_order(self, tmp_path: Path) -> None:
        """Also while something waits, and with a second one in the middle of the clearing."""
        test = tmp_path / "test_one.py"
        test.write_text(
            "from tests.pods.test_harness import Containerd, run_some_pods\n"
            "from pathlib import Path\n"
            "import time\n"
            "def test_it(tmp_path):\n"
            "    with Containerd() as containerd:\n"
            "        marks = ' '.join(run_some_pods(containerd))\n"
            f"        Path({str(tmp_path / 'made')!r}).write_text(marks)\n"
            f"        Path({str(tmp_path / 'made')!r}).rename({str(tmp_path / 'marks')!r})\n"
            "        time.sleep(1000)\n"
        )
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
        path = os.pathsep.join(sys.path)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
        ) as run:
            marks = tmp_path / "marks"
            wait_for("its pods", lambda: marks.exists() or run.poll() is not None)
            run.terminate()
            wait_for("it to ignore a second one", lambda: _ignores(run.pid, signal.SIGTERM))
            run.terminate()
            told, _ = run.communicate(timeout=120)
        assert "KeyboardInterrupt" in told and run.returncode == 2, told
        wait_until_no_trace_of(marks.read_text().split())

    def test_failed_start_shows_the_log_and_leaves_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken = "not a table"
        monkeypatch.setattr("tests.support.containerd.configuration", lambda *_, **__: broken)
        containerd = Containerd()
        with pytest.raises(ContainerdError, match=r"containerd ended with 1; its log:\n.*toml"):
            containerd.start()
        wait_until_no_trace_of([str(containerd.root)])


def test_image_is_the_same_every_time(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for archive in (one, two):
        image.write_archive(archive, ["a.test/b:c"], {"/opt/tool": b"#!/bin/sh\n"})
    assert one.read_bytes() == two.read_bytes()


def test_wait_says_what_was_awaited() -> None:
    with pytest.raises(WaitTimeout, match="waited 0 s for a miracle"):
        wait_for("a miracle", lambda: False, timeout=0)


def _ignores(pid: int, number: int) -> bool:
    """Or has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    masks = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Sig"))
    return "SigIgn" not in masks or bool(int(masks["SigIgn"], 16) >> (number - 1) & 1)


def cgroups_of(pid: int) -> set[str]:
    """A process's cgroup in each hierarchy where it is not at the top."""
    paths = {line.split(":", 2)[2] for line in Path(f"/proc/{pid}/cgroup").read_text().split()}
    return paths - {"/"}


def namespace_of(container: ContainerHandle, kind: str) -> str:
    return str(Path(f"/proc/{container.pid}/ns/{kind}").readlink())


def host_namespace(kind: str) -> str:
    return str(Path(f"/proc/self/ns/{kind}").readlink())


def ask(address: str, port: int) -> bytes | None:
    """What a server says before it closes the connection, or None if there is no server."""
    try:
        with socket.create_connection((address, port), timeout=5) as connection:
            return connection.makefile("rb").read()
    except ConnectionRefusedError:
        return None


def run_some_pods(containerd: Containerd) -> list[str]:
    """Start pods of several kinds, and return the words by which their traces are known."""
    plain = containerd.run_pod("plain", qos="guaranteed")
    host = containerd.run_pod("host", host_network=True, host_pid=True)
    containers = [pod.run("sleeper", SLEEP, memory_limit=64 << 20) for pod in (plain, host)]
    containers[0].exec(["sh", "-c", "sleep 1000 >/dev/null 2>&1 &"])
    network = json.loads((containerd.root / "cni/10-ktrace.conflist").read_text())
    marks = [str(containerd.root), network["name"]]
    for container in containers:
        marks += [container.pod.uid, container.pod.sandbox_id, container.id]
    return marks


def wait_until_no_trace_of(marks: Iterable[str]) -> None:
    """The kernel takes a moment to reap the last process and to drop a network namespace."""
    marks = list(marks)
    try:
        wait_for("all traces to go", lambda: not traces_of(marks))
    except WaitTimeout as error:
        pytest.fail(f"{error}, but these stayed: {traces_of(marks)}")


def traces_of(marks: Iterable[str]) -> list[str]:
    """Whatever on this machine contains one of `marks`. Other instances may run meanwhile."""
    pattern = re.compile("|".join(map(re.escape, marks)))
    return sorted(line for line in machine_state() if pattern.search(line))


def machine_state() -> Iterator[str]:
    """Processes, mounts, cgroups, links, network namespaces, sockets and files, one a line."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text(errors="replace").replace("\0", " ")
            cgroup = (process / "cgroup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if process.name != str(os.getpid()):
            yield f"process {process.name} {command} {cgroup}"
    for kind, source in [("mount", "/proc/self/mounts"), ("socket", "/proc/net/unix")]:
        for line in Path(source).read_text().splitlines():
            yield f"{kind} {line}"
    for arguments in (["-o", "link"], ["netns"]):
        listing = subprocess.run(
            ["ip", *arguments], check=True, capture_output=True, text=True, timeout=10
        )
        for line in listing.stdout.splitlines():
            yield f"ip {' '.join(arguments)}: {line}"
    for top in [
        *[root / "kubepods" for root in leftovers.cgroup_roots()],
        POD_LOGS,
        CONTAINER_LINKS,
        leftovers.STATE,
        Path("/run/containerd"),
        Path("/var/lib/cni"),
        Path("/run/netns"),
    ]:
        for folder, folders, files in os.walk(top):
            for name in folders + files:
                yield f"file {folder}/{name}"


def shared_directories() -> set[str]:
    """The directories that containerd, the kubelet and the tests have in common."""
    places = [root / name for root in leftovers.cgroup_roots() for name in leftovers.KUBEPODS]
    places += [POD_LOGS, CONTAINER_LINKS, leftovers.SHIM_SOCKETS, leftovers.CNI_RESULTS]
    return {str(place) for place in places if place.exists()}
