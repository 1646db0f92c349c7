# SPDX-License-Identifier: Apache-2.0
"""Names from log directories, as the kubelet makes them and as somebody hostile would."""

import os
from pathlib import Path

import pytest

from tracer.identity import logs
from tracer.identity.logs import LogDirectorySource
from tracer.model.names import Container, Names, NameSourceError, Pod

UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
STATIC = "97000c9ddafe62a21b74dcc8fb9d742d"
CID = "7dea796eb5d6826a85978fa316612874aa3d576ac576495bed83d77fbc9dc744"
OLD_CID = "3ad85da3fccbfd88a3f7b0c1e9f1d8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1"


class Node:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.pods = root / "var/log/pods"
        self.containers = root / "var/log/containers"
        self.pods.mkdir(parents=True)
        self.containers.mkdir()

    def pod(self, directory: str) -> None:
        (self.pods / directory).mkdir()

    def link(self, name: str, target: str = "/nowhere") -> None:
        (self.containers / name).symlink_to(target)

    def snapshot(self) -> Names:
        return LogDirectorySource(str(self.root)).snapshot()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_pods(node: Node) -> None:
    node.pod(f"default_web-0_{UID}")
    node.pod(f"kube-system_etcd-node.example_{STATIC}")
    assert node.snapshot().pods == {
        UID: Pod(UID, "default", "web-0", None),
        STATIC: Pod(STATIC, "kube-system", "etcd-node.example", None),
    }


def test_containers_before_and_after_a_restart(node: Node) -> None:
    directory = f"/var/log/pods/default_web-0_{UID}/nginx-proxy"
    node.link(f"web-0_default_nginx-proxy-{OLD_CID}.log", f"{directory}/0.log")
    node.link(f"web-0_default_nginx-proxy-{CID}.log", f"{directory}/1.log")
    assert node.snapshot().containers == {
        OLD_CID: Container(OLD_CID, None, "nginx-proxy", UID),
        CID: Container(CID, None, "nginx-proxy", UID),
    }


@pytest.mark.parametrize(
    "target",
    [
        "/nowhere",
        f"/var/log/pods/default_other_{UID}/nginx/0.log",
        f"/var/log/pods/other_web-0_{UID}/nginx/0.log",
        "/var/log/pods/",
    ],
)
def test_link_that_points_elsewhere_names_no_pod(node: Node, target: str) -> None:
    node.link(f"web-0_default_nginx-{CID}.log", target)
    assert node.snapshot().containers == {CID: Container(CID, None, "nginx", None)}


def test_links_are_read_not_followed(node: Node, tmp_path: Path) -> None:
    outside = tmp_path / f"default_fake_{UID}"
    outside.mkdir()
    (node.pods / f"default_fake_{UID}").symlink_to(outside)
    # A loop would fail to open; its text is all that counts.
    name = f"web-0_default_nginx-{CID}.log"
    node.link(name, name)
    names = node.snapshot()
    assert names.pods == {}
    assert names.containers.keys() == {CID}


def test_what_the_kubelet_did_not_make_is_left_out(node: Node) -> None:
    node.pod("lost+found")
    node.pod("one_part")
    node.pod("__")
    node.pod(f"_web-0_{UID}")
    (node.pods / f"default_file_{UID}").touch()
    node.link("README")
    node.link(f"web-0_default_nginx-{CID[:-1]}.log")
    node.link(f"web-0_default_nginx-{CID}.log.1")
    (node.containers / f"web-0_default_nginx-{CID}.log").touch()
    assert node.snapshot() == Names()


def test_hostile_names_are_data(node: Node) -> None:
    node.pod("de\x1bfault_../web\n_x".replace("/", "∕"))
    assert node.snapshot().pods == {"x": Pod("x", "de\x1bfault", "..∕web\n", None)}


def test_names_that_are_not_utf8_can_be_printed(node: Node) -> None:
    os.mkdir(os.fsencode(node.pods) + b"/default_w\xff\xfeb_" + UID.encode())
    os.symlink(
        b"/var/log/pods/default_w\xff\xfeb_" + UID.encode() + b"/c/0.log",
        os.fsencode(node.containers) + b"/w\xff\xfeb_default_c\xc3-" + CID.encode() + b".log",
    )
    names = node.snapshot()
    assert names.pods[UID].name == r"w\xff\xfeb"
    assert names.containers[CID] == Container(CID, None, r"c\xc3", UID)


def test_directories_are_bounded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_ENTRIES", 3)
    for number in range(5):
        node.pod(f"default_web-{number}_uid{number}")
        node.link(f"web_default_c-{number:064x}.log")
    names = node.snapshot()
    assert len(names.pods) == 3
    assert len(names.containers) == 3


def test_node_without_a_kubelet_has_no_names(tmp_path: Path) -> None:
    assert LogDirectorySource(str(tmp_path)).snapshot() == Names()


def test_unreadable_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "var/log").mkdir(parents=True)
    (tmp_path / "var/log/pods").touch()
    with pytest.raises(NameSourceError, match=r"cannot list .*/var/log/pods: Not a directory"):
        LogDirectorySource(str(tmp_path)).snapshot()
