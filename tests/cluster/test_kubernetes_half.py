# SPDX-License-Identifier: Apache-2.0
"""What real Kubernetes says beside what the kernel says: live, by hand, without rights, and while
its API server is away. And what ktrace tells Kubernetes: an Event on the pod."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.acceptance import HURRY
from tests.cluster.bed import Bed
from tests.cluster.scene import pids
from tests.pods.test_publishers import scraped
from tests.support.ktrace import Ktrace
from tests.support.ktrace import run as ktrace_once
from tests.support.otlp import free_port
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
    for name in ("reads", "tells", "nobody", "later", "rotates"):
        bed.kubectl("-n", NAMESPACE, "create", "serviceaccount", name)
    grant(bed, watch.RBAC, "reads")
    grant(bed, events.RBAC, "tells")
    bind(bed, "rotates")
    yield bed
    bed.kubectl("delete", "clusterrole", "ktrace-reads", "ktrace-events")
    bindings = ("ktrace-reads", "ktrace-events", "half-rotates", "half-later")
    bed.kubectl("delete", "clusterrolebinding", "--ignore-not-found", *bindings)
    bed.kubectl("delete", "namespace", NAMESPACE, timeout=120)


def grant(bed: Bed, line: str, account: str) -> None:
    """By the line that ktrace itself names."""
    for command in line.replace("NAMESPACE:ACCOUNT", f"{NAMESPACE}:{account}").split(" && "):
        kubectl, *words = command.split()
        assert kubectl == "kubectl"
        bed.kubectl(*words)


def bind(bed: Bed, account: str) -> None:
    """One more account to what makes Events."""
    words = ("--clusterrole=ktrace-events", f"--serviceaccount={NAMESPACE}:{account}")
    bed.kubectl("create", "clusterrolebinding", f"half-{account}", *words)


def secret_of(bed: Bed, account: str) -> Json | None:
    """Kubernetes of those days keeps an account's token in a secret."""
    for named in bed.get("-n", NAMESPACE, "serviceaccount", account).get("secrets", []):
        told = bed.kubectl(
            *("-n", NAMESPACE, "get", "secret", named["name"], "-o", "json", "--ignore-not-found")
        )
        if told and "token" in json.loads(told).get("data", {}):
            secret: Json = json.loads(told)
            return secret
    return None


def write_token(bed: Bed, account: str, directory: Path) -> str:
    """As a kubelet does; returns the name of its secret."""
    secret = wait_for(f"the token of {account}", lambda: secret_of(bed, account), SECONDS)
    fresh = directory / "token.new"
    fresh.write_bytes(base64.b64decode(secret["data"]["token"]))
    fresh.rename(directory / "token")
    return str(secret["metadata"]["name"])


def kubeconfig(bed: Bed, account: str, directory: Path) -> Path:
    """Of a service account, whose token is in a file as in a pod."""
    write_token(bed, account, directory)
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


class Telling:
    """An agent that makes Events, and says how it does. Others' pods may be on this machine, of
    which it makes some, too: so what is counted is no exact number."""

    def __init__(self, agent: Ktrace, port: int) -> None:
        self.agent = agent
        self._address = f"http://127.0.0.1:{port}"

    @property
    def health(self) -> Json:
        with urllib.request.urlopen(f"{self._address}/healthz", timeout=60) as answer:
            told: Json = json.loads(answer.read())
            return told

    @property
    def counts(self) -> Json:
        counts: Json = self.health["publishers"]["events"]
        return counts

    def knows(self, deaths: int) -> None:
        """Waits until so many of our pods have a verdict, which has gone to the publishers then."""
        key = ("ktrace_verdicts_total", "certain", NAMESPACE, "killed_from_host")

        def known() -> bool:
            return scraped(f"{self._address}/metrics").get(key, 0) >= deaths

        wait_for(f"{deaths} verdicts", known, SECONDS, 0.1)

    def sends_nothing(self) -> None:
        """Waits until nothing is left to be sent."""
        wait_for("the queue to be empty", lambda: not self.counts["queued"], SECONDS, 0.05)

    def ends(self) -> str:
        """In order; what it has said."""
        self.agent.signal(signal.SIGINT)
        assert self.agent.exit_code() == 0, self.agent.stderr
        return self.agent.stderr


@contextmanager
def telling(bed: Bed, account: str, directory: Path) -> Iterator[Telling]:
    port = free_port()
    listens = ("--listen", f"127.0.0.1:{port}", "--prometheus")
    words = ("--dir", str(directory / "agent"), *listens)
    way = ("--node-name", bed.node, "--events", "--events-kubeconfig")
    file = kubeconfig(bed, account, directory)
    with Ktrace("agent", *words, *way, str(file), output=None, inside=bed.enter) as agent:
        yield Telling(agent, port)


@contextmanager
def sleepers(bed: Bed, *names: str) -> Iterator[list[int]]:
    """The only processes of as many pods."""
    bed.apply([pod(name, "exec sleep 100000") for name in names])
    try:
        found = []
        for name in names:
            wait_for(f"{name} to run", lambda name=name: running(bed, name), SECONDS)  # type: ignore[misc]
            found += pids_of(bed.get("-n", NAMESPACE, "pod", name)["metadata"]["uid"])
        yield found
    finally:
        bed.kubectl("-n", NAMESPACE, "delete", "pod", *names, "--now", "--ignore-not-found")


def told_of(bed: Bed, *names: str) -> list[str]:
    """The pods of our Events."""
    every = bed.get("-n", NAMESPACE, "events")["items"]
    pods = [e["involvedObject"]["name"] for e in every if e["reason"] == "KilledByProcess"]
    return sorted(name for name in pods if name in names)


def test_deaths_while_the_api_server_is_away(cluster: Bed, tmp_path: Path) -> None:
    """Each is an Event afterwards. Said once; tracing goes on meanwhile."""
    bed, names = cluster, ("away-1", "away-2", "away-3")
    with sleepers(bed, *names) as found, telling(bed, "tells", tmp_path) as it:
        bed.stop_daemon("apiserver")
        try:
            before = it.counts["sent"]
            for pid in found:
                os.kill(pid, signal.SIGKILL)
            it.knows(3)
            wait_for("it to be asked again", lambda: it.counts["retried"] >= 2, SECONDS, 0.1)
            assert it.counts["queued"] >= 3 and it.counts["sent"] == before
            assert it.health["good"]
        finally:
            bed.start_daemon("apiserver")
        wait_for("its Events", lambda: told_of(bed, *names) == [*names], SECONDS, 0.2)
        told = it.ends()
    assert told.count("cannot be reached") == 1
    assert "tracing goes on" in told


def test_rights_that_come_later(cluster: Bed, tmp_path: Path) -> None:
    """What was refused stays so, and is counted; it is said once, with the line that mends it."""
    bed, names = cluster, ("later-1", "later-2", "later-3")
    with sleepers(bed, *names) as found, telling(bed, "later", tmp_path) as it:
        for pid in found[:2]:
            os.kill(pid, signal.SIGKILL)
        it.knows(2)
        it.sends_nothing()
        assert (it.counts["sent"], it.counts["dropped"] >= 2) == (0, True)
        bind(bed, "later")
        may = ("auth", "can-i", "create", "events", "-n", NAMESPACE)
        account = f"--as=system:serviceaccount:{NAMESPACE}:later"
        rights = lambda: bed.kubectl(*may, account, check=False).startswith("yes")  # noqa: E731
        wait_for("the rights", rights, SECONDS)
        os.kill(found[2], signal.SIGKILL)
        wait_for("its Event", lambda: told_of(bed, *names) == ["later-3"], SECONDS, 0.2)
        told = it.ends()
    assert told.count('cannot create resource "events"') == told.count(events.RBAC) == 1


def test_a_token_that_is_rotated(cluster: Bed, tmp_path: Path) -> None:
    """The old one is no longer valid, and for a while there is no new one."""
    bed, names = cluster, ("rotated-1", "rotated-2")
    with sleepers(bed, *names) as found, telling(bed, "rotates", tmp_path) as it:
        old = secret_of(bed, "rotates")
        assert old is not None
        bed.kubectl("-n", NAMESPACE, "delete", "secret", old["metadata"]["name"])
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        it.knows(2)
        wait_for("it to be said", lambda: "the token is wrong" in it.agent.stderr, SECONDS)
        assert it.counts["queued"] >= 2
        assert write_token(bed, "rotates", tmp_path) != old["metadata"]["name"]
        wait_for("its Events", lambda: told_of(bed, *names) == [*names], SECONDS, 0.2)
        told = it.ends()
    assert told.count("401 “Unauthorized”") == 1


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
