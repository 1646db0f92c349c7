# SPDX-License-Identifier: Apache-2.0
"""Which nodes are asked, about which pods, and what is said where none can be."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.kubectl.conftest import Cluster, Result, node, pod
from tracer.kubectl.nodes import unfit

EVENT = '{"kind":"signal","time":"2026-11-26T15:00:00.000000001Z","node":null}\n'


@pytest.fixture(autouse=True)
def ktrace_answers(cluster: Cluster) -> None:
    cluster.rule("exec", exit=0)


def asked(cluster: Cluster) -> list[str]:
    """ktrace's words in the pods, without what only holds it there."""
    return [
        " ".join(w for w in words[words.index("ktrace") + 3 :] if not w.startswith("--ready-file"))
        for words in cluster.calls
        if "exec" in words
    ]


def test_the_only_node(cluster: Cluster) -> None:
    assert cluster("signals").code == 0
    assert asked(cluster) == ["signals --output=rows"]


def test_a_pod_by_its_name(cluster: Cluster) -> None:
    """The namespace is the one that the API server answers with: the context's."""
    cluster.answers("get pod web-0 --output", pod("web-0"))
    assert cluster("why", "web-0").code == 0
    assert asked(cluster) == ["why shop/web-0 --color=never"]


@pytest.mark.parametrize("said", ["pod/web-0", "pods/web-0"])
def test_a_pod_in_kubectls_words(cluster: Cluster, said: str) -> None:
    cluster.answers("get pod web-0 --output", pod("web-0"))
    assert cluster("why", said).code == 0
    assert asked(cluster) == ["why shop/web-0 --color=never"]


def test_labels_in_a_namespace(cluster: Cluster) -> None:
    found = {"items": [pod("web-0", on="node1"), pod("web-1", on="node2")]}
    cluster.agents("node1", "node2")
    cluster.answers("get pods --namespace=shop --selector=app=web", found)
    assert cluster("signals", "-n", "shop", "-l", "app=web", "-o", "json").code == 0
    words = "signals --namespace=shop --selector=app=web --output=json"
    assert asked(cluster) == [words, words]


def test_a_workload(cluster: Cluster) -> None:
    template = {"pod-template-hash": "5d4f8c7b9"}
    owned = pod("web-5d4f8c7b9-xk2pq", labels=template)
    cluster.answers("get pods --namespace=shop", {"items": [owned, pod("other", on="node9")]})
    assert cluster("why", "shop/deploy/web").code == 0
    assert asked(cluster) == ["why shop/deploy/web --color=never"]


def test_a_pod_that_is_starting_is_waited_for(cluster: Cluster) -> None:
    starting = pod("web-0")
    starting["status"]["phase"] = "Pending"
    cluster.answers("get pod web-0 --namespace=shop", starting)
    assert cluster("why", "shop/web-0").code == 0
    assert asked(cluster) == ["why shop/web-0 --color=never --wait"]


def test_a_pod_that_its_node_knows_is_not_waited_for(cluster: Cluster) -> None:
    """Its init container fails: with `--wait` ktrace would not tell of the past."""
    failing = pod("web-0")
    failing["status"]["phase"] = "Pending"
    failing["status"]["initContainerStatuses"] = [{"containerID": "containerd://3f2a"}]
    cluster.answers("get pod web-0 --namespace=shop", failing)
    assert cluster("why", "shop/web-0").code == 0
    assert asked(cluster) == ["why shop/web-0 --color=never"]


def test_pods_of_all_namespaces(cluster: Cluster) -> None:
    cluster.answers("get pods --all-namespaces --selector=app=web", {"items": [pod("web-0")]})
    assert cluster("exits", "-A", "-l", "app=web").code == 0
    assert asked(cluster) == ["exits --namespace=shop --selector=app=web --output=rows"]


def test_no_such_pod(cluster: Cluster) -> None:
    cluster.refuses("get pod web --n", 'Error from server (NotFound): pods "web" not found')
    cluster.answers("get pods --namespace=shop", {"items": [pod("web-0"), pod("db-0")]})
    told = cluster("why", "shop/web")
    assert told.code == 5
    assert told.err.splitlines()[0] == (
        "ktrace: no pod 'shop/web' in namespace shop; the nearest: web-0"
    )


def test_control_characters_in_a_pods_name(cluster: Cluster) -> None:
    cluster.refuses("get pod web --n", "Error from server (NotFound): pods not found")
    cluster.answers("get pods --namespace=shop", {"items": [pod("web\x1b[2J\n\u202e")]})
    told = cluster("why", "shop/web")
    assert r"web\x1b[2J\u202e" in told.err.replace("\\n", "").replace(" ", "")
    assert "\x1b" not in told.err
    assert "\u202e" not in told.err


def test_a_pod_on_no_node(cluster: Cluster) -> None:
    waiting = pod("web-0", on=None)
    message = "0/1 nodes are available: 1 Insufficient memory."
    waiting["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "message": message}
    ]
    cluster.answers("get pod web-0", waiting)
    told = cluster("why", "shop/web-0")
    assert told == Result(1, "", f"ktrace: pod shop/web-0 is on no node yet: {message}\n")


def test_which_of_several(cluster: Cluster) -> None:
    cluster.agents(*(f"node{n}" for n in range(1, 12)))
    told = cluster("signals")
    assert told.code == 2
    assert "which of 11 nodes? node1, node2" in told.err
    assert "and 3 more" in told.err


def test_too_many_at_once(cluster: Cluster) -> None:
    cluster.answers("get nodes", {"items": [node(f"node{n}") for n in range(65)]})
    assert "65 nodes are more than 64" in cluster("signals", "--all-nodes").err


def test_all_nodes_are_those_that_can_be(cluster: Cluster) -> None:
    cluster.agents("node1", "node2")
    windows = node("node3", {"kubernetes.io/os": "windows"})
    cluster.answers("get nodes", {"items": [node("node1"), node("node2"), windows]})
    assert cluster("signals", "--all-nodes").code == 0
    assert len(asked(cluster)) == 2


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (node("n", {"kubernetes.io/os": "windows"}), "node n runs windows: ktrace is for Linux"),
        (node("n", {"eks.amazonaws.com/compute-type": "fargate"}), "node n is Fargate"),
        (node("n", {"type": "virtual-kubelet"}), "node n is virtual"),
        (node("n", spec={"taints": [{"key": "virtual-kubelet.io/provider"}]}), "node n is virtual"),
        (
            node("n", conditions=[{"type": "Ready", "status": "Unknown", "message": "no word"}]),
            "node n is not ready since a time that is not known: no word",
        ),
        (node("n"), None),
        (node("n", spec={"unschedulable": True, "taints": [{"key": "a"}]}), None),
    ],
)
def test_nodes_that_cannot_be(made: dict[str, object], said: str | None) -> None:
    told = unfit("n", made)
    assert told is None if said is None else (told or "").startswith(said)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            {"conditions": [{"type": "Ready", "status": "False", "message": "runtime is down"}]},
            "node node1 is not ready since a time that is not known: runtime is down",
        ),
        ({"labels": {"kubernetes.io/os": "windows"}}, "node node1 runs windows: ktrace is for"),
        ({"labels": {"eks.amazonaws.com/compute-type": "fargate"}}, "node node1 is Fargate: "),
        ({"labels": {"type": "virtual-kubelet"}}, "node node1 is virtual: its pods run elsewhere"),
    ],
)
def test_the_node_of_a_pod_cannot_be(cluster: Cluster, made: dict[str, Any], said: str) -> None:
    """One line, and no pod is made there."""
    cluster.answers("get node node1 ", node("node1", **made))
    cluster.answers("get pod web-0", pod("web-0"))
    told = cluster("why", "shop/web-0")
    assert told.code == 1
    assert len(told.err.splitlines()) == 1
    assert told.err.startswith(f"ktrace: {said}")
    assert not any("create" in words for words in cluster.calls)


def test_a_node_that_is_gone(cluster: Cluster) -> None:
    cluster.refuses("get node node1 ", 'Error from server (NotFound): nodes "node1" not found')
    cluster.answers("get pod web-0", pod("web-0"))
    assert cluster("why", "shop/web-0").err.startswith("ktrace: node node1 is gone\n")


def test_who_may_not_look_at_nodes(cluster: Cluster) -> None:
    """It is enough to see the pod, and ktrace's."""
    cluster.agents("node1")
    lacks = (
        'Error from server (Forbidden): nodes "node1" is forbidden: User "u" cannot get resource'
        ' "nodes" in API group "" at the cluster scope'
    )
    cluster.refuses("get node", lacks)
    cluster.answers("get pod web-0", pod("web-0"))
    assert cluster("why", "shop/web-0").code == 0
    told = cluster("signals")
    assert told.code == 3
    assert told.err.splitlines()[0] == "ktrace: no right to get nodes in the whole cluster"
