# SPDX-License-Identifier: Apache-2.0
"""The agent on a real node, by kustomize and by Helm, in both levels: healthy by its own probes,
with its few rights, and it says who killed a pod: to who asks, and in an Event on the pod."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.kubernetes.build import CHART, HERE
from tests.cluster import build
from tests.cluster.bed import Bed
from tests.cluster.scene import pids
from tests.cluster.test_plugin import Plugin, made_pods
from tests.pods.test_publishers import scraped
from tests.support.wait import wait_for

SECONDS = 100.0
IN_IT = ("--namespace", "ktrace", "exec", "ds/ktrace", "--")
VICTIM, PROBED = "killed", "probed"
ACCOUNT = "system:serviceaccount:ktrace:ktrace"
Json = dict[str, Any]


@pytest.fixture(params=["kustomize", "helm"])
def agent(
    bed: Bed, ktrace_image: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Json]:
    """The agent's pod, ready, without access to the API server."""
    with installed(bed, tmp_path, request.param, "base") as pod:
        yield pod


@pytest.fixture(params=["kustomize", "helm"])
def telling_agent(
    bed: Bed, ktrace_image: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Json]:
    """One that makes Events. By Helm it also learns what Kubernetes says."""
    more = ("--set=events=true", "--set=kubernetes=true")
    with installed(bed, tmp_path, request.param, "events", more) as pod:
        yield pod


@contextmanager
def installed(
    bed: Bed, directory: Path, way: str, level: str, values: Sequence[str] = ()
) -> Iterator[Json]:
    """`level` is kustomize's directory, `values` are Helm's. What the agent keeps stays with the
    node's own files."""
    history = bed.root / f"history-{way}-{level}"
    if way == "kustomize":
        program, made = bed.new_kubectl, str(_overlay(directory, HERE / level, history))
        install = ["apply", "--kustomize", made]
        remove = ["delete", "--kustomize", made, "--wait=true"]
    else:
        program, place = build.newer(print) / "helm", "--namespace=ktrace"
        words = ["--create-namespace", f"--set=history={history}", *values]
        install = ["install", "ktrace", str(CHART), place, *words]
        remove = ["uninstall", "ktrace", place, "--wait"]
    bed.run_kubectl(program, *install)
    try:
        told = ("rollout", "status", "ds/ktrace", "--namespace=ktrace", "--timeout=100s")
        bed.kubectl(*told, timeout=120)
        (pod,) = bed.get("pods", "--namespace=ktrace")["items"]
        yield pod
    finally:
        bed.run_kubectl(program, *remove, timeout=120)
        bed.kubectl("delete", "namespace", "ktrace", "--ignore-not-found", timeout=120)


def _overlay(directory: Path, level: Path, history: Path) -> Path:
    """A kustomization of ours on a level, with another place for the history."""
    path = "/spec/template/spec/volumes/3/hostPath/path"
    patch = [{"op": "replace", "path": path, "value": str(history)}]
    target = {"kind": "DaemonSet", "name": "ktrace"}
    told = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(level, directory)],
        "patches": [{"target": target, "patch": json.dumps(patch)}],
    }
    (directory / "kustomization.yaml").write_text(json.dumps(told))
    return directory


@contextmanager
def victim(bed: Bed, restart: str) -> Iterator[str]:
    """The uid of a pod that runs."""
    words = (f"--image={bed.image}", f"--restart={restart}", "--", "sleep", "100000")
    bed.kubectl("run", VICTIM, *words)
    try:
        bed.kubectl("wait", "--for=condition=Ready", f"pod/{VICTIM}", "--timeout=100s", timeout=120)
        yield bed.get("pod", VICTIM)["metadata"]["uid"]
    finally:
        bed.kubectl("delete", "pod", VICTIM, "--now", "--ignore-not-found", timeout=120)


def sleeping(uid: str) -> int | None:
    for pid in pids(uid):
        with suppress(psutil.Error):
            if psutil.Process(pid).cmdline() == ["sleep", "100000"]:
                return pid
    return None


def test_it_says_who_killed_a_pod(bed: Bed, agent: Json, tmp_path: Path) -> None:
    with victim(bed, "Never") as uid:
        began = utc()
        os.kill(wait_for("its process", lambda: sleeping(uid), SECONDS), signal.SIGKILL)
        address = f"http://{agent['status']['podIP']}:9464"
        key = ("ktrace_verdicts_total", "certain", "default", "killed_from_host")
        wait_for("the verdict", lambda: scraped(f"{address}/metrics").get(key), SECONDS, 0.3)
        health = healthz(agent)
        assert health["good"] and health["missing"] == [] and health["verdicts"] >= 1

        def remembered() -> list[str]:
            told = bed.kubectl(*IN_IT, "ktrace", "history", uid, "-o", "json")
            rows = [json.loads(line) for line in told.splitlines()]
            return [row["verdict"] for row in rows if row["verdict"]]

        # it is written once a second
        assert wait_for("the verdict in the history", remembered) == ["killed_from_host"]
        (status,) = bed.get("pod", agent["metadata"]["name"], "-n", "ktrace")["status"][
            "containerStatuses"
        ]
        assert (status["ready"], status["restartCount"]) == (True, 0)
        bed.kubectl("delete", "pod", VICTIM, "--now", timeout=120)
        ask_about_one_that_is_gone(bed, tmp_path, uid, f"{began}..{utc()}")


def test_its_event_stands_on_the_pod(bed: Bed, telling_agent: Json) -> None:
    """One, with a count, of two deaths."""
    with victim(bed, "Always") as uid:

        def told(times: int) -> list[Json] | None:
            found = events_on(bed, uid)
            return found if sum(one["count"] for one in found) >= times else None

        for times in (1, 2):
            pid = wait_for("its process", lambda: sleeping(uid), SECONDS)
            began = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            found = wait_for("the Event", lambda times=times: told(times), SECONDS, 0.02)  # type: ignore[misc]
            print(f"death {times} was an Event after {time.monotonic() - began:.2f} s")
        (event,) = found
        assert (event["reason"], event["count"], event["type"]) == ("KilledByProcess", 2, "Warning")
        assert event["source"] == {"component": "ktrace", "host": bed.node}
        assert "SIGKILL from " in event["message"]
        assert f"[{os.getpid()}]" in event["message"], event["message"]
        assert event["message"].endswith("(certain)")
        described = bed.kubectl("describe", "pod", VICTIM).splitlines()
        (line,) = (line for line in described if "KilledByProcess" in line)
        assert "x2" in line and "SIGKILL from " in line and "ktrace" in line
        of = f"--field-selector=involvedObject.uid={uid}"  # there was a pod of this name before
        assert bed.kubectl("get", "events", of).count("KilledByProcess") == 1
        health = healthz(telling_agent)
        counts = health["publishers"]["events"]
        assert health["good"] and counts["sent"] >= 2, health
    its_rights_are_few(bed, telling_agent)
    if knows_the_api(telling_agent):
        its_event_says_what_kubernetes_says(bed)


def its_rights_are_few(bed: Bed, agent: Json) -> None:
    reads = "yes" if knows_the_api(agent) else "no"
    told = [("yes", "create", "events"), ("yes", "patch", "events")]
    told += [(reads, "list", "pods"), (reads, "watch", "events")]
    told += [("no", "delete", "events"), ("no", "create", "pods"), ("no", "get", "secrets")]
    assert [(may(bed, verb, what), verb, what) for _, verb, what in told] == told


def its_event_says_what_kubernetes_says(bed: Bed) -> None:
    script = "sleep 100000; true"  # a shell, which as PID 1 ignores SIGTERM
    container = {
        "name": "app",
        "image": bed.image,
        "command": ["sh", "-c", script],
        "livenessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 1},
    }
    spec = {
        "containers": [container],
        "terminationGracePeriodSeconds": 3,
        "restartPolicy": "Never",
    }
    bed.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": PROBED}, "spec": spec})
    try:
        uid = bed.get("pod", PROBED)["metadata"]["uid"]
        (event,) = wait_for("the Event", lambda: events_on(bed, uid, "StopIgnored"), SECONDS, 0.1)
        start = "Kubernetes says the liveness probe (tcp-socket of port 8080) failed"
        assert event["message"].startswith(start), event["message"]
    finally:
        bed.kubectl("delete", "pod", PROBED, "--now", "--ignore-not-found", timeout=120)


def may(bed: Bed, verb: str, what: str) -> str:
    words = ("auth", "can-i", verb, what, f"--as={ACCOUNT}", "--all-namespaces")
    return bed.kubectl(*words, check=False).splitlines()[0]


def knows_the_api(agent: Json) -> bool:
    (container,) = agent["spec"]["containers"]
    return "--kubernetes" in container["command"]


def events_on(bed: Bed, uid: str, reason: str = "") -> list[Json]:
    """Those that ktrace made."""
    of = f"involvedObject.uid={uid},source=ktrace" + (f",reason={reason}" if reason else "")
    found: list[Json] = (bed.ask(f"/api/v1/events?fieldSelector={of}") or {"items": []})["items"]
    return found


def healthz(agent: Json) -> Json:
    address = f"http://{agent['status']['podIP']}:9464/healthz"
    with urllib.request.urlopen(address, timeout=60) as answer:
        health: Json = json.loads(answer.read())
        return health


def ask_about_one_that_is_gone(bed: Bed, directory: Path, uid: str, span: str) -> None:
    """By `kubectl ktrace`, which makes no pod for this."""
    place = directory / "plugin"
    place.mkdir()
    plugin = Plugin(bed, bed.new_kubectl, place, bed.kubeconfig)
    told = plugin("why", f"default/{VICTIM}")
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(f"default/{VICTIM} {VICTIM}: "), told.stdout
    assert "SIGKILL" in told.stdout and "says the agent's history" in told.stderr
    told = plugin("history", VICTIM, "-o", "json")
    assert told.returncode == 0, told.stderr
    rows = [row for row in map(json.loads, told.stdout.splitlines()) if row["pod_uid"] == uid]
    (row,) = (row for row in rows if row["verdict"])
    assert (row["node"], row["is_end"]) == (bed.node, True)
    file = place / "incident.ktrace"
    told = plugin("history", "--cut", span, "-o", str(file))
    assert told.returncode == 0, told.stderr
    told = plugin("why", str(file), "--pod", VICTIM, "-o", "json")
    assert json.loads(told.stdout)["verdict"] == "killed_from_host", told.stderr
    assert plugin("why", "default/none").returncode == 5
    assert made_pods(bed) == []


def utc() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
