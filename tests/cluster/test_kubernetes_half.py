# SPDX-License-Identifier: Apache-2.0
"""What real Kubernetes says beside what the kernel says: live, by hand, without rights, and while
its API server is away. And what ktrace tells Kubernetes: an Event on the pod."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.acceptance import HURRY
from tests.cluster.bed import Bed
from tests.cluster.scene import pids
from tests.support.ktrace import Ktrace
from tests.support.ktrace import run as ktrace_once
from tests.support.wait import wait_for
from tracer.agent.publishers import events
from tracer.kubernetes import watch

NAMESPACE = "half"
SECONDS = 120.0
Json = dict[str, Any]


def pod(name: str, script: str, **more: Any) -> Json:
    """Of a shell, which as PID 1 ignores SIGTERM."""
    extra = {
        key: more.pop(key) for key in ("livenessProbe", "lifecycle", "volumeMounts") & more.keys()
    }
    container = {"name": "app", "image": Bed.image, "command": ["sh", "-c", script], **extra}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "containers": [container],
            "terminationGracePeriodSeconds": 3,
            "restartPolicy": "Never",
            "dnsPolicy": "Default",
            **more,
        },
    }


REFUSED = pod(
    "refused",
    "sleep 100000; true",
    livenessProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 3},
)
HOOKED = pod(
    "hooked",
    "sleep 100000; true",
    lifecycle={"preStop": {"exec": {"command": ["sh", "-c", "sleep 1"]}}},
)
EVICTED = pod(
    "evicted",
    "dd if=/dev/zero of=/data/x bs=1M count=8; sleep 100000; true",
    volumeMounts=[{"name": "data", "mountPath": "/data"}],
    volumes=[{"name": "data", "emptyDir": {"sizeLimit": "1Mi"}}],
)


@pytest.fixture(scope="module")
def cluster(bed: Bed) -> Iterator[Bed]:
    bed.kubectl("create", "namespace", NAMESPACE)
    for name in ("reads", "tells", "nobody"):
        bed.kubectl("-n", NAMESPACE, "create", "serviceaccount", name)
    grant(bed, watch.RBAC, "reads")
    grant(bed, events.RBAC, "tells")
    yield bed
    for what in ("clusterrole", "clusterrolebinding"):
        bed.kubectl("delete", what, "ktrace-reads", "ktrace-events")
    bed.kubectl("delete", "namespace", NAMESPACE, timeout=120)


def grant(bed: Bed, line: str, account: str) -> None:
    """By the line that ktrace itself names."""
    for command in line.replace("NAMESPACE:ACCOUNT", f"{NAMESPACE}:{account}").split(" && "):
        kubectl, *words = command.split()
        assert kubectl == "kubectl"
        bed.kubectl(*words)


def kubeconfig(bed: Bed, account: str, directory: Path) -> Path:
    """Of a service account, whose token is in a file as in a pod."""

    def token() -> str:
        secrets = bed.get("-n", NAMESPACE, "serviceaccount", account).get("secrets", [])
        if not secrets:
            return ""
        data = bed.get("-n", NAMESPACE, "secret", secrets[0]["name"]).get("data", {})
        return base64.b64decode(data.get("token", "")).decode()

    (directory / "token").write_text(wait_for(f"the token of {account}", token, SECONDS))
    told = json.loads(bed.kubeconfig.read_text())
    told["users"] = [{"name": "admin", "user": {"tokenFile": "token"}}]
    file = directory / "kubeconfig"
    file.write_text(json.dumps(told))
    return file


def options(bed: Bed, file: Path) -> tuple[str, ...]:
    return ("--node-name", bed.node, "--kubeconfig", str(file))


def said(file: Path, *more: str) -> dict[str, Json]:
    """The verdict on the end of each pod."""
    told = ktrace_once("why", str(file), "-o", "json", *more)
    assert told.returncode == 0, told.stderr
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    its = [one for one in lines if one["pod"] and one["pod"]["namespace"] == NAMESPACE]
    return {one["pod"]["name"]: one for one in its}


def status(bed: Bed, name: str) -> Json:
    status: Json = bed.get("-n", NAMESPACE, "pod", name)["status"]
    return status


def is_over(bed: Bed, name: str) -> bool:
    return status(bed, name)["phase"] in ("Failed", "Succeeded")


def running(bed: Bed, name: str) -> bool:
    return bool(status(bed, name)["phase"] == "Running")


def is_gone(bed: Bed, name: str) -> bool:
    return "NotFound" in bed.kubectl("-n", NAMESPACE, "get", "pod", name, check=False)


def test_why_puts_both_halves_together(cluster: Bed, tmp_path: Path) -> None:
    bed = cluster
    live, plain = tmp_path / "live.ktrace", tmp_path / "plain.ktrace"
    way = options(bed, kubeconfig(bed, "reads", tmp_path))
    with bed.kubelet_with(**HURRY):
        with (
            Ktrace("record", *way, output=str(live), inside=bed.enter) as asking,
            Ktrace("record", output=str(plain), inside=bed.enter) as alone,
        ):
            bed.apply([REFUSED, HOOKED, EVICTED])
            wait_for("the hooked pod to run", lambda: running(bed, "hooked"), SECONDS)
            bed.kubectl("-n", NAMESPACE, "delete", "pod", "hooked", "--wait=false")
            for name in ("refused", "evicted"):
                wait_for(f"{name} to end", lambda name=name: is_over(bed, name), SECONDS)  # type: ignore[misc]
            wait_for("the hooked pod to go", lambda: is_gone(bed, "hooked"), SECONDS)
            for ktrace in (asking, alone):
                ktrace.signal(signal.SIGINT)
                assert ktrace.exit_code() == 0, ktrace.stderr
        everything = bed.kubectl("get", "events,pods", "--all-namespaces", "--output=json")
    by_hand = tmp_path / "events.json"
    by_hand.write_text(everything)
    judge(said(live), live=True)
    judge(said(plain, "--events", str(by_hand)), live=False)
    assert "Kubernetes" not in json.dumps([one["sentence"] for one in said(plain).values()])


def judge(told: dict[str, Json], *, live: bool) -> None:
    refused, evicted, hooked = told["refused"], told["evicted"], told["hooked"]
    assert refused["sentence"].startswith(
        "Kubernetes says the liveness probe (tcp-socket of port 8080) failed 3 times with “dial tcp"
    )
    assert "connection refused”; nothing listened on port 8080: 3 attempts" in refused["sentence"]
    assert "as PID 1, ignored SIGTERM" in refused["sentence"]
    assert (refused["verdict"], refused["certainty"]) == ("stop_ignored", "certain")
    assert "kubectl" not in refused["remedy"]
    assert evicted["sentence"].startswith("Kubernetes says the pod was evicted: “")
    assert "exceeds the limit" in evicted["sentence"]
    if live:  # by hand its last state is not seen any more
        assert "Kubernetes says the pod was deleted with 3 s of grace" in hooked["sentence"]
    else:
        assert "Kubernetes says “Stopping container app”" in hooked["sentence"]
    assert "preStop hook" in hooked["sentence"]


def test_describe_shows_our_event(cluster: Bed, tmp_path: Path) -> None:
    bed = cluster
    way = ("--node-name", bed.node, "--events", "--events-kubeconfig")
    file = kubeconfig(bed, "tells", tmp_path)
    bed.apply(pod("killed", "exec sleep 100000"))
    wait_for("the pod to run", lambda: running(bed, "killed"), SECONDS)
    uid = bed.get("-n", NAMESPACE, "pod", "killed")["metadata"]["uid"]
    place = ("--dir", str(tmp_path / "agent"), "--listen", "")
    with Ktrace("agent", *place, *way, str(file), output=None, inside=bed.enter) as agent:
        (pid,) = pids_of(uid)
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)

        def shown() -> str:
            told = bed.kubectl("-n", NAMESPACE, "describe", "pod", "killed")
            return told if "KilledByProcess" in told else ""

        description = wait_for("our Event", shown, SECONDS, 0.05)
        print(f"the Event was there after {time.monotonic() - began:.1f} s")
        (one,) = [
            event
            for event in bed.get("-n", NAMESPACE, "events")["items"]
            if event["reason"] == "KilledByProcess"
        ]
        agent.signal(signal.SIGINT)
        assert agent.exit_code() == 0, agent.stderr
    (line,) = [line for line in description.splitlines() if "KilledByProcess" in line]
    assert "ktrace" in line and "SIGKILL from " in line and "on the host" in line
    assert "(certain)" in line
    assert one["source"] == {"component": "ktrace", "host": bed.node}
    assert one["involvedObject"]["fieldPath"] == "spec.containers{app}"
    assert one["type"] == "Warning" and one["count"] == 1


def pids_of(uid: str) -> list[int]:
    sleeps = []
    for pid in pids(uid):
        if Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00100000\x00":
            sleeps.append(pid)
    return sleeps


def test_no_rights_are_said_once(cluster: Bed, tmp_path: Path) -> None:
    bed = cluster
    way = options(bed, kubeconfig(bed, "nobody", tmp_path))
    file = tmp_path / "x.ktrace"
    with Ktrace("record", *way, output=str(file), inside=bed.enter) as ktrace:
        wait_for("both refusals", lambda: ktrace.stderr.count("cannot list") >= 2, SECONDS)
        ktrace.signal(signal.SIGINT)
        assert ktrace.exit_code() == 0, ktrace.stderr
        told = ktrace.stderr
    for resource in ("pods", "events"):
        assert told.count(f'cannot list resource "{resource}"') == 1
    assert watch.RBAC in told


def test_the_api_server_goes_and_comes_back(cluster: Bed, tmp_path: Path) -> None:
    bed = cluster
    way = options(bed, kubeconfig(bed, "reads", tmp_path))
    file = tmp_path / "x.ktrace"
    late = {**REFUSED, "metadata": {"name": "late", "namespace": NAMESPACE}}
    with Ktrace("record", *way, output=str(file), inside=bed.enter) as ktrace:
        bed.stop_daemon("apiserver")
        try:
            wait_for("it to be said", lambda: "tracing goes on" in ktrace.stderr, SECONDS)
        finally:
            bed.start_daemon("apiserver")
        bed.apply(late)
        wait_for("its end", lambda: is_over(bed, "late"), SECONDS)
        ktrace.signal(signal.SIGINT)
        assert ktrace.exit_code() == 0, ktrace.stderr
    told = said(file)["late"]
    assert told["sentence"].startswith("Kubernetes says the liveness probe"), told
