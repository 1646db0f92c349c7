# SPDX-License-Identifier: Apache-2.0
"""Pods that are made: what they are, why they do not start, and that none of them stays."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import psutil
import pytest

from tests.support.wait import wait_for
from tests.unit.kubectl.conftest import Cluster, pod
from tracer.kubectl import home
from tracer.kubectl.home import label, waiting

RBAC = (
    'Error from server (Forbidden): error when creating "STDIN": pods is forbidden: User "u" cannot'
    ' create resource "pods" in API group "" in the namespace "ktrace"'
)
QUOTA = (
    'Error from server (Forbidden): error when creating "STDIN": pods "k" is forbidden:'
    " exceeded quota: compute, requested: pods=1, used: pods=10, limited: pods=10"
)
SECURITY = (
    'Error from server (Forbidden): error when creating "STDIN": pods "k" is forbidden: violates'
    ' PodSecurity "baseline:latest": host namespaces (hostNetwork=true), privileged'
)


def test_the_pod_that_is_made(cluster: Cluster) -> None:
    cluster.rule("exec", exit=0)
    words = ("--image=reg.test/k@sha256:00", "--image-pull-secret=pull", "--ktrace-namespace=ops")
    assert cluster("signals", "--duration", "1m", *words).code == 0
    (made,) = cluster.manifests
    spec = made["spec"]
    assert spec["nodeName"] == "node1"
    assert spec["containers"][0]["image"] == "reg.test/k@sha256:00"
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert 60 < spec["activeDeadlineSeconds"] < 600
    assert spec["automountServiceAccountToken"] is False
    assert made["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "kubectl-ktrace"
    assert made["metadata"]["labels"]["ktrace-owner"]
    assert "app.kubernetes.io/name=ktrace" not in json.dumps(made)
    assert any("--namespace=ops" in words and "create" in words for words in cluster.calls)
    assert cluster.remains() == set()


def test_a_pod_that_is_made_has_an_end_anyway(cluster: Cluster) -> None:
    cluster.rule("exec", exit=0)
    assert cluster("signals").code == 0
    (made,) = cluster.manifests
    assert made["spec"]["activeDeadlineSeconds"] == home.DEADLINE_SECONDS


@pytest.mark.parametrize(
    "said",
    [
        'Error from server (NotFound): namespaces "ktrace" not found',
        'Error from server (Forbidden): error when creating "STDIN": pods "k" is forbidden: unable'
        " to create new content in namespace ktrace because it is being terminated",
    ],
)
def test_where_there_is_no_namespace_of_ktraces(cluster: Cluster, said: str) -> None:
    cluster.refuses("create --filename=- --namespace=ktrace", said)
    cluster.rule("exec", exit=0)
    assert cluster("signals").code == 0
    (deleting,) = (words for words in cluster.calls if "delete" in words)
    assert not any(word.startswith("--namespace") for word in deleting)


def test_the_daemon_sets_pod_is_not_made_and_not_deleted(cluster: Cluster) -> None:
    cluster.agents("node1")
    cluster.rule("exec .*ktrace-node1", exit=0)
    assert cluster("signals").code == 0
    assert not any("create" in words or "delete" in words for words in cluster.calls)


@pytest.mark.parametrize("more", ["", "abc"])
def test_agents_of_a_small_cluster_are_one_question(cluster: Cluster, more: str) -> None:
    """It is asked before the nodes are known; of a large one, each node is a question."""
    cluster.agents("node1", "node2")
    cluster.rule("exec", exit=0)
    items = [pod(f"ktrace-{name}", "ktrace", name) for name in ("node1", "node2", "node3")]
    found = {"metadata": {"continue": more}, "items": items}
    cluster.answers("get --raw=/api/v1/namespaces/ktrace/pods", found)
    assert cluster("signals", "--all-nodes").code == 0
    (asked,) = (words[1] for words in cluster.calls if any("--raw" in word for word in words))
    assert asked.endswith("?labelSelector=app.kubernetes.io%2Fname%3Dktrace&limit=64")
    used = {word for words in cluster.calls if "exec" in words for word in words}
    assert used >= {"ktrace-node1", "ktrace-node2"} and "ktrace-node3" not in used
    selected = [words for words in cluster.calls if "--field-selector" in " ".join(words)]
    assert len(selected) == (2 if more else 0)
    assert more or not any("node" in words for words in cluster.calls)


@pytest.mark.parametrize("answer", ["[]", "{}", '{"metadata": null}', '{"metadata":{},"items":1}'])
def test_an_answer_that_is_no_list_of_agents(cluster: Cluster, answer: str) -> None:
    """Then the node is asked for its own, as where that question is not allowed."""
    cluster.agents("node1")
    cluster.rule("exec", exit=0)
    cluster.rule("get --raw", out=answer)
    assert cluster("signals", "--ktrace-namespace=ktrace").code == 0
    assert any("ktrace-node1" in words for words in cluster.calls if "exec" in words)


def test_a_namespace_is_no_path(cluster: Cluster) -> None:
    told = cluster("signals", "--ktrace-namespace=../x?y")
    assert told.code != 0
    paths = [word for words in cluster.calls for word in words if word.startswith("--raw")]
    assert paths and all("/namespaces/..%2Fx%3Fy/pods?" in path for path in paths)


def test_without_the_right_to_make_pods(cluster: Cluster) -> None:
    """All rights that lack are named: they would come one after the other."""
    cluster.refuses("create --filename", RBAC)
    cluster.rule("auth can-i (create|delete)", out="no", code=1)
    told = cluster("signals")
    assert told.code == 3
    what, remedy = told.err.splitlines()
    assert what == (
        "ktrace: no right in namespace ktrace to: create pods, create pods/exec, delete pods"
    )
    assert "kubectl auth can-i create pods -n ktrace" in remedy
    assert not any("delete" in words and "pod" in words for words in cluster.calls)


@pytest.mark.parametrize(
    ("refused", "said", "remedy"),
    [
        (QUOTA, "exceeded quota: compute", "where there is room"),
        (SECURITY, "violates PodSecurity", "pod-security.kubernetes.io/enforce=privileged"),
    ],
)
def test_what_the_api_server_refuses(
    cluster: Cluster, refused: str, said: str, remedy: str
) -> None:
    cluster.refuses("create --filename", refused)
    told = cluster("signals")
    assert told.code == 1
    assert said in told.err.splitlines()[0]
    assert remedy in told.err.splitlines()[1]


def test_an_image_that_cannot_be_pulled(cluster: Cluster) -> None:
    trying = _waiting("ErrImagePull", "no such host\x1b[31m")
    failing = _waiting("ImagePullBackOff", "Back-off pulling image")
    cluster.rule("get pod kubectl-ktrace-.*--watch", out=trying + failing, stays=1)
    told = cluster("signals", "--image", "nowhere.test/ktrace:1")
    assert told.code == 1
    lines = told.err.splitlines()
    assert "waiting for pod ktrace/kubectl-ktrace-" in lines[0]
    assert r"ErrImagePull: no such host\x1b[31m" in lines[0]
    assert "does not start: ImagePullBackOff: Back-off pulling image" in lines[1]
    assert "--image-pull-secret" in lines[2]
    assert cluster.remains() == set()


def test_a_pod_that_has_failed(cluster: Cluster) -> None:
    failed = pod("x", "ktrace")
    failed["status"] = {"phase": "Failed", "reason": "OutOfpods", "message": "no room for pods"}
    cluster.answers("get pod kubectl-ktrace-.*--watch", failed, stays=1)
    told = cluster("signals")
    assert "does not start: OutOfpods: no room for pods" in told.err
    assert cluster.remains() == set()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"phase": "Pending"}, (None, False)),
        ({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {}}}]}, (None, False)),
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]},
            (None, False),
        ),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "taint"}]},
            ("taint", False),
        ),
        (
            {
                "phase": "Failed",
                "containerStatuses": [{"state": {"terminated": {"exitCode": 2}}}],
            },
            ("ended with exit code 2", True),
        ),
    ],
)
def test_why_a_pod_waits(status: dict[str, Any], said: tuple[str | None, bool]) -> None:
    assert waiting({"status": status}) == said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_tracing(cluster: Cluster, number: signal.Signals) -> None:
    """ktrace there ends in order, and what it says then is still shown."""
    cluster.rule("exec", until_end=True, err="ktrace: 3 events", exit=0)
    asking = cluster.start("signals", "--ready-file", str(cluster.place / "ready"))
    wait_for("it to be ready", lambda: (cluster.place / "ready").exists() or asking.poll())
    asking.send_signal(number)
    _, err = asking.communicate(timeout=60)
    assert (asking.returncode, err) == (0, "ktrace: 3 events\n")
    assert cluster.remains() == set()


def test_a_second_signal(cluster: Cluster) -> None:
    """And every further one, at whatever moment: they do not keep the pod from being deleted."""
    cluster.rule("exec", stays=1)
    asking = cluster.start("signals", "--ready-file", str(cluster.place / "ready"))
    wait_for("it to be ready", lambda: (cluster.place / "ready").exists() or asking.poll())
    asking.send_signal(signal.SIGINT)

    def ended() -> bool:
        asking.send_signal(signal.SIGINT)
        return asking.poll() is not None

    wait_for("the end", ended, interval=0.001)
    _, err = asking.communicate()
    assert (asking.returncode, err) == (130, "")
    wait_for("the pod to be deleted", lambda: cluster.remains() == set())


def test_signals_while_it_ends_anyway(cluster: Cluster) -> None:
    """Until Python itself has ended, none of them is its death."""
    cluster.rule("exec", until_end=True, exit=0)
    cluster.agents("node1")
    asking = cluster.start("signals", "--ready-file", str(cluster.place / "ready"))
    wait_for("it to be ready", lambda: (cluster.place / "ready").exists() or asking.poll())
    asking.send_signal(signal.SIGINT)
    assert asking.stderr
    while asking.poll() is None:
        asking.send_signal(signal.SIGINT)
    _, err = asking.communicate()
    assert asking.returncode in (0, 130)
    assert err == ""


@pytest.mark.parametrize("during", ["create", "--watch"])
def test_a_signal_while_the_pod_is_made(cluster: Cluster, during: str) -> None:
    """What is under way may come to be there later."""
    if during == "create":
        cluster.rule("create --filename", seconds=1)
    else:
        cluster.rule("get pod kubectl-ktrace-.*--watch", stays=1)
    asking = cluster.start("signals")
    cluster.wait_for_call(during)
    asking.terminate()
    asking.communicate(timeout=60)
    assert asking.returncode == 130
    assert len(cluster.manifests) == 1
    assert cluster.remains() == set()
    wait_for("kubectl to be gone", lambda: not running(cluster))


def test_a_reader_that_goes_away(cluster: Cluster) -> None:
    """Also when there is nothing to be written."""
    cluster.rule("exec", until_end=True, exit=0)
    reading, writing = os.pipe()
    asking = cluster.start("signals", stdout=writing)
    os.close(writing)
    cluster.wait_for_call("exec")
    os.close(reading)
    _, err = asking.communicate(timeout=60)
    assert (asking.returncode, err) == (0, "")
    assert cluster.remains() == set()


def test_a_pod_that_cannot_be_deleted(cluster: Cluster) -> None:
    cluster.rule("exec", exit=0)
    cluster.refuses("delete pod", "Unable to connect to the server: dial tcp: connection refused")
    told = cluster("signals")
    assert told.code == 0
    assert "could not be deleted, and ends by itself" in told.err
    assert "Unable to connect to the server" in told.err


def test_the_connection_is_lost(cluster: Cluster) -> None:
    cluster.rule("exec", out="", err="error: unexpected EOF", code=1)
    told = cluster("signals")
    assert told.code == 1
    assert "error: unexpected EOF\n" in told.err
    assert "the connection to pod ktrace/kubectl-ktrace-" in told.err
    assert cluster.remains() == set()


def test_a_laptop_that_slept(cluster: Cluster) -> None:
    """Its connection ended meanwhile: awake again, it says so and takes the pod away."""
    cluster.rule("exec", stays=1)
    asking = cluster.start("signals", "--ready-file", str(cluster.place / "ready"))
    wait_for("it to be ready", lambda: (cluster.place / "ready").exists() or asking.poll())
    asking.send_signal(signal.SIGSTOP)
    (connection,) = (psutil.Process(pid) for pid in running(cluster, "exec"))
    connection.kill()
    wait_for("it to end", lambda: connection.status() == psutil.STATUS_ZOMBIE)
    assert asking.poll() is None
    asking.send_signal(signal.SIGCONT)
    _, err = asking.communicate(timeout=60)
    assert asking.returncode == 1
    assert err.startswith("ktrace: the connection to pod ktrace/kubectl-ktrace-")
    assert cluster.remains() == set()


def test_an_older_ktrace_in_the_pod(cluster: Cluster) -> None:
    words = "ktrace: No such command 'leash'. Did you mean 'trace'?"
    cluster.rule("exec", ready=False, err=words, code=2)
    told = cluster("signals")
    assert told.code == 2
    assert "older than this plugin" in told.err


def test_a_label_of_any_name() -> None:
    assert label("Jörg Müller@höst") == "J_rg_M_ller_h_st"
    assert label("...") == "unknown"
    assert len(label("x" * 100)) == 63


def running(cluster: Cluster, word: str = "") -> list[int]:
    """Every kubectl of the cluster's, with this word, that has not ended."""
    wanted = {str(cluster.place / "kubectl"), *filter(None, [word])}
    every = psutil.process_iter(["cmdline"])
    return [one.pid for one in every if wanted <= set(one.info["cmdline"] or ())]


def _waiting(reason: str, message: str) -> str:
    made = pod("x", "ktrace")
    state = {"waiting": {"reason": reason, "message": message}}
    made["status"] = {"phase": "Pending", "containerStatuses": [{"state": state}]}
    return json.dumps(made)


def test_kubectl_is_not_asked_for_what_is_wrong_anyway(cluster: Cluster) -> None:
    for words in (
        ("signals", "-l", "a in (b)"),
        ("signals", "--record", "x.ktrace"),
        ("record",),
        ("sginals",),
        ("why",),
        ("trace", "-n", "shop"),
        ("signals", "--count", "x"),
        ("agent",),
    ):
        assert cluster(*words).code == 2
    assert cluster.calls == []
