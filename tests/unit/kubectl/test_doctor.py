# SPDX-License-Identifier: Apache-2.0
"""`kubectl ktrace doctor`: a line for each node, remedies below it, and pods that were left."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.kubectl.conftest import Cluster, node, pod

OK = {"state": "ok", "what": "kernel", "found": "6.1.0", "remedy": None}
BAD = {"state": "problem", "what": "cgroups", "found": "only a part", "remedy": "mount\x1b[2J it"}


@pytest.fixture(autouse=True)
def two_nodes(cluster: Cluster) -> None:
    cluster.agents("node1", "node2")
    windows = node("node3", {"kubernetes.io/os": "windows"})
    cluster.answers("get nodes", {"items": [node("node1"), node("node2"), windows]})
    cluster.rule("exec .*ktrace-node1 .*ktrace doctor", out=json.dumps(OK) + "\n")
    bad = f"{json.dumps(OK)}\n{json.dumps(BAD)}\n"
    cluster.rule("exec .*ktrace-node2 .*ktrace doctor", out=bad, code=1)
    being_deleted = left()
    being_deleted["metadata"]["deletionTimestamp"] = "2026-11-26T15:00:00Z"
    cluster.answers("get pods --all-namespaces .*managed-by", {"items": [left(), being_deleted]})


def left() -> dict[str, Any]:
    made = pod("kubectl-ktrace-1", "ops")
    made["metadata"]["annotations"] = {"ktrace-owner": "somebody\x1b[31m@laptop"}
    made["metadata"]["creationTimestamp"] = "2026-11-26T14:00:00Z"
    made["status"]["phase"] = "Succeeded"
    return made


def test_as_a_table(cluster: Cluster) -> None:
    told = cluster("doctor")
    assert told.code == 1
    assert told.out.splitlines() == [
        "NODE   KERNEL  RUNTIME           KTRACE        FOUND",
        "node1  6.1.0   containerd://1.6  ktrace-node1  ✔",
        "node2  6.1.0   containerd://1.6  ktrace-node2  ✘ 1 problem",
        "  cgroups: only a part",
        r"    → mount\x1b[2J it",
        "node3  6.1.0   containerd://1.6  –             ✘ node node3 runs windows: ktrace is for"
        " Linux",
        r"left: pod ops/kubectl-ktrace-1 on node1, made by somebody\x1b[31m@laptop at"
        " 2026-11-26T14:00:00Z",
        "  → kubectl delete pod kubectl-ktrace-1 -n ops",
    ]


def test_as_json(cluster: Cluster) -> None:
    told = cluster("doctor", "-o", "json")
    findings = [json.loads(line) for line in told.out.splitlines()]
    assert [(one["node"], one["what"]) for one in findings] == [
        ("node1", "kernel"),
        ("node2", "kernel"),
        ("node2", "cgroups"),
        ("node3", "node"),
        ("node1", "leftover"),
    ]


def test_a_node_where_ktrace_says_nothing(cluster: Cluster) -> None:
    cluster.rule("exec .*ktrace-node1", out="\x1b[2Jnonsense", err="exec failed", code=126)
    told = cluster("doctor", "--node", "node1")
    assert told.code == 1
    assert "✘ ktrace doctor in pod ktrace/ktrace-node1 says nothing: exec failed" in told.out


def test_pods_are_there_only_while_they_are_asked(cluster: Cluster) -> None:
    cluster.answers("get pods --namespace=ktrace .*nodeName", {"items": []})
    cluster.rule("exec", out=json.dumps(OK) + "\n")
    told = cluster("doctor")
    assert told.code == 0
    assert told.out.count("a pod made for this") == 2
    assert cluster.remains() == set()
