# SPDX-License-Identifier: Apache-2.0
"""kubectl itself: absent, old, silent, or with answers that are none."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.unit.kubectl.conftest import Cluster
from tracer.kubectl import client
from tracer.kubectl.client import Forbidden, Kubectl, refusal
from tracer.model.errors import KtraceError


@pytest.fixture
def kubectl(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Kubectl:
    monkeypatch.setenv("PATH", str(cluster.place))
    return Kubectl(["--context=prod"])


def test_there_is_none(tmp_path: os.PathLike[str]) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "tracer.kubectl", "signals"],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 1
    assert told.stderr.startswith("ktrace: there is no kubectl on the PATH\n  ")


def test_which_cluster_and_as_whom(cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl.get("nodes")
    assert cluster.calls == [["--context=prod", "get", "nodes", "--output=json"]]


def test_a_cluster_that_is_not_there(cluster: Cluster) -> None:
    cluster.refuses(
        "get nodes",
        "E1126 15:01:03.123456       7 memcache.go:265] couldn't get current server API groups\n"
        "The connection to the server 127.0.0.1:1 was refused - did you specify the right host or"
        " port?",
    )
    told = cluster("signals")
    assert told.code == 1
    assert told.err == (
        "ktrace: kubectl get: The connection to the server 127.0.0.1:1 was refused - did you"
        " specify the right host or port?\n"
        "  is the cluster there? kubectl cluster-info; --context chooses another\n"
    )


def test_a_kubectl_that_is_very_old(cluster: Cluster) -> None:
    cluster.refuses("get nodes", "Error: unknown flag: --output")
    assert "kubectl version --client" in cluster("signals").err


def test_one_that_does_not_answer(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.rule("get slow", seconds=600)
    with pytest.raises(KtraceError, match="kubectl get has not answered"):
        kubectl.run("get", "slow", seconds=0.5)


def test_an_answer_that_is_no_json(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.rule("get nodes", out="NAME\x1b[31m STATUS\nnode1 Ready")
    with pytest.raises(KtraceError, match="what is no JSON"):
        kubectl.get("nodes")


def test_an_answer_without_an_end(
    cluster: Cluster, kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER", 1 << 20)
    cluster.rule("get nodes", out=json.dumps("x" * (1 << 20)))
    with pytest.raises(KtraceError, match="more than 1 MiB"):
        kubectl.get("nodes")


def test_what_may_be_done(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.rule("auth can-i create pods", out="no", code=1)
    cluster.rule("auth can-i get pods", out="yes")
    cluster.refuses("auth can-i list pods", "error: unknown command")
    assert kubectl.may("create", "pods", "shop") is False
    assert kubectl.may("get", "pods", None) is True
    assert kubectl.may("list", "pods", None) is None


def test_rights_that_lack() -> None:
    told = refusal(
        "get",
        b'Error from server (Forbidden): nodes is forbidden: User "u" cannot list resource "nodes"'
        b' in API group "" at the cluster scope',
    )
    assert isinstance(told, Forbidden)
    assert told.lacks == ("list", "nodes", "")
    assert told.message == "no right to list nodes in the whole cluster"


def test_complaints_are_bounded() -> None:
    assert len(refusal("get", b"x" * 100_000).message) < 1000
    assert refusal("get", b"").message == "kubectl get: it failed without a word"
    assert refusal("get", b"\xff\x1b[31m").words == "\\xff\x1b[31m"  # escaped where it is shown


def test_nothing_is_asked_after_the_end(cluster: Cluster, kubectl: Kubectl) -> None:
    """By a thread that was about to: nobody would end what it starts."""
    kubectl.abandon()
    with pytest.raises(KtraceError, match="is not asked any more"):
        kubectl.get("nodes")
    assert cluster.calls == []
