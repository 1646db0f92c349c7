# SPDX-License-Identifier: Apache-2.0
"""What the node is called, inside a pod and outside."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
from click.testing import CliRunner

from tracer.cli import root
from tracer.kernel import node
from tracer.kernel.node import HOST_PID, HOST_UTS, signs_of_a_pod
from tracer.model.event import Clock, Event, to_json

UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
CID = "7dea796eb5d6826a85978fa316612874aa3d576ac576495bed83d77fbc9dc744"
POD = f"0::/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/cri-containerd-{CID}.scope"
KUBELET = f"/var/lib/kubelet/pods/{UID}"
HOSTS = f"9 8 8:1 {KUBELET}/etc-hosts /etc/hosts rw - ext4 /dev/sda1 rw"
LOG = f"9 8 8:1 {KUBELET}/containers/app/0a1b2c3d /dev/termination-log rw - ext4 /dev/sda1 rw"
# What a host sees of a pod's volumes.
VOLUME = f"9 8 0:44 / {KUBELET}/volumes/kubernetes.io~secret/x rw - tmpfs tmpfs rw"


def proc(folder: Path, cgroup: str = "0::/", mounts: str = VOLUME) -> Path:
    (folder / "cgroup").write_text(cgroup + "\n")
    (folder / "mountinfo").write_text(mounts + "\n")
    return folder


@pytest.mark.parametrize(
    ("files", "environment", "signs"),
    [
        ({}, {}, []),
        ({"cgroup": f"0::/system.slice/docker-{CID}.scope"}, {}, []),
        ({"cgroup": POD}, {}, ["its cgroup is a pod's"]),
        ({"cgroup": f"4:memory:/kubepods/pod{UID}/{CID}\n0::/"}, {}, ["its cgroup is a pod's"]),
        ({"mounts": HOSTS}, {}, ["the kubelet has mounted files into it"]),
        ({"mounts": LOG}, {}, ["the kubelet has mounted files into it"]),
        ({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ["KUBERNETES_SERVICE_HOST is set"]),
        ({}, {"KUBERNETES_SERVICE_HOST": ""}, []),
    ],
)
def test_signs_of_a_pod(
    tmp_path: Path, files: dict[str, str], environment: dict[str, str], signs: list[str]
) -> None:
    assert signs_of_a_pod(proc(tmp_path, **files), environment) == signs


def test_without_proc_there_is_no_sign(tmp_path: Path) -> None:
    assert signs_of_a_pod(tmp_path / "missing", {}) == []


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`signs` of a pod, and the inodes of namespaces."""
    told = SimpleNamespace(signs=["one"], inodes={})
    monkeypatch.setattr(node, "signs_of_a_pod", lambda: told.signs)
    monkeypatch.setattr(node, "_inode", lambda path: told.inodes.get(path))
    monkeypatch.setattr(node, "_hostname_in", lambda path: f"by {path}")
    return told


def test_what_is_told_counts(here: SimpleNamespace) -> None:
    assert node.name("node-7") == "node-7"


def test_outside_of_pods_it_is_the_hostname(here: SimpleNamespace) -> None:
    here.signs = []
    assert node.name(None) == os.uname().nodename


def test_a_pods_hostname_is_not_the_nodes(here: SimpleNamespace) -> None:
    here.inodes = {"/proc/self/ns/uts": 5, "/proc/self/ns/pid": 6}
    assert node.name(None) == ""


def test_a_pod_in_the_hosts_network_has_its_hostname(here: SimpleNamespace) -> None:
    here.inodes = {"/proc/self/ns/uts": HOST_UTS, "/proc/self/ns/pid": 6}
    assert node.name(None) == os.uname().nodename


def test_a_pod_with_the_hosts_processes_sees_its_hostname(here: SimpleNamespace) -> None:
    here.inodes = {"/proc/self/ns/uts": 5, "/proc/self/ns/pid": HOST_PID}
    assert node.name(None) == ""
    here.inodes["/proc/2/ns/uts"] = HOST_UTS
    assert node.name(None) == "by /proc/2/ns/uts"


def test_an_unknown_name_is_null() -> None:
    told = orjson.loads(to_json(Event("lost", 0, None, None, {}), Clock(0), ""))
    assert told["node"] is None


@pytest.mark.parametrize("words", ["a b", "x" * 254, "\x1b[31m", "a/b", "\udcff"])
def test_what_is_no_name_is_refused(words: str) -> None:
    done = CliRunner().invoke(root, ["exits", "--node-name", words])
    assert done.exit_code == 2
