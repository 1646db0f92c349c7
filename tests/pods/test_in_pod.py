# SPDX-License-Identifier: Apache-2.0
"""ktrace in a pod: what a manifest leaves out is missing for real, `doctor` tells the line that
mends it, and what cannot be known stays unknown in events."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from typing import Any

import pytest

from tests.support.containerd import ContainerHandle, PodHandle
from tests.support.ktrace import Ktrace
from tracer.kernel.hierarchies import hierarchies

MIB = 1 << 20
WITHOUT_KMSG = " && ".join(
    [
        "mount -t tmpfs none /dev",
        "mknod -m 666 /dev/null c 1 3",
        "mknod -m 666 /dev/urandom c 1 9",
    ]
)
TYPES = {1: "cgroup -o memory", 2: "cgroup2"}
OWN_CGROUPS = " && ".join(
    f"umount {h.mount} && mount -t {TYPES[h.version]} none {h.mount}" for h in hierarchies()
)


def in_pod(container: ContainerHandle, unshared: str = "", prepare: str = "true") -> list[str]:
    """A command that executes the words after it in the container's cgroup, in new namespaces."""
    # Not the one for devices: a privileged pod may open any.
    directories = [f"{h.mount}{container.cgroup}" for h in hierarchies()]
    moves = [f"echo $$ > {shlex.quote(directory)}/cgroup.procs" for directory in directories]
    script = "; ".join(
        [*moves, f"exec unshare --mount {unshared} sh -c '{prepare} && exec \"$@\"'"]
    )
    return ["sh", "-c", script + ' sh "$@"', "sh"]


def doctor(inside: list[str], socket: str, **environment: str) -> dict[str, list[dict[str, Any]]]:
    done = subprocess.run(
        [*inside, sys.executable, "-m", "tracer", "doctor", "-o", "json", "--cri-socket", socket],
        check=False,
        capture_output=True,
        env={**os.environ, **environment},
        timeout=120,
    )
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for line in done.stdout.splitlines():
        finding = json.loads(line)
        found.setdefault(finding["what"], []).append(finding)
    return found


@pytest.fixture
def app(web: PodHandle) -> ContainerHandle:
    return web.run("app", ["sleep", "1000"])


def test_all_that_it_needs(app: ContainerHandle, cri: tuple[str, str]) -> None:
    found = doctor(in_pod(app), cri[1], NODE_NAME="node-7")
    assert "its cgroup is a pod's" in found["pod"][0]["found"]
    assert found["node"][0]["found"] == "node-7"
    for what in ("cgroups", "processes", "kernel log"):
        assert [f["state"] for f in found[what]] == ["ok"]


def test_without_host_pid(app: ContainerHandle, cri: tuple[str, str]) -> None:
    inside = in_pod(app, "--pid --fork --uts", "mount -t proc none /proc; hostname web-0")
    found = doctor(inside, cri[1])
    (processes,) = found["processes"]
    assert (processes["state"], processes["remedy"]) == (
        "problem",
        "hostPID: true in the pod's spec",
    )
    (name,) = found["node"]
    assert name["state"] == "note"
    assert "web-0" not in name["found"]
    assert "spec.nodeName" in name["remedy"]


def test_without_the_hosts_cgroups(app: ContainerHandle, cri: tuple[str, str]) -> None:
    """A cgroup namespace also hides in whose cgroup it is."""
    inside = in_pod(app, "--cgroup", OWN_CGROUPS)
    (cgroups,) = doctor(inside, cri[1], KUBERNETES_SERVICE_HOST="198.18.0.1")["cgroups"]
    assert cgroups["state"] == "problem"
    assert "only a part of the host's" in cgroups["found"]
    assert "hostPath: {path: /sys/fs/cgroup}" in cgroups["remedy"]


def test_without_the_kernel_log(app: ContainerHandle, cri: tuple[str, str], web: PodHandle) -> None:
    inside = in_pod(app, prepare=WITHOUT_KMSG)
    found = doctor(inside, cri[1])
    (log,) = found["kernel log"]
    assert log["state"] == "note"
    assert "hostPath: {path: /dev/kmsg}" in log["remedy"]
    assert any("the kernel log cannot be read" in f["found"] for f in found["oom"])
    with Ktrace("oom", "-p", "shop/web-0", "--count", "1", *cri, inside=inside) as ktrace:
        eater = web.run(
            "eater", ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M"], memory_limit=32 * MIB
        )
        assert eater.wait_exit() == 137
        (event,) = ktrace.wait()
    assert event["largest"] is None
    if event["limit_of"] is None:  # where a function can be probed the kernel itself tells it
        assert event["unknown_because"] == (
            "the kernel log cannot be read: No such file or directory"
        )
        assert event["scope"] is event["limit_bytes"] is event["cgroup_path"] is None
    else:
        assert "unknown_because" not in event


def test_the_nodes_name_in_events(app: ContainerHandle, cri: tuple[str, str]) -> None:
    """Also where the pod's hostname is all that can be seen."""
    inside = in_pod(app, "--uts --pid --fork", "mount -t proc none /proc; hostname web-0")
    for environment, name in (({"NODE_NAME": "node-7"}, "node-7"), ({"NODE_NAME": ""}, None)):
        with Ktrace(
            *("exits", "-p", "shop/web-0", "--count", "1", "--wait", *cri),
            inside=inside,
            environment=environment,
        ) as ktrace:
            assert app.exec(["true"]).exit_code == 0
            (event,) = ktrace.wait()
            assert event["node"] == name
            assert ("nobody tells the node's name" in ktrace.stderr) is (name is None)
