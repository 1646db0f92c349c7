# SPDX-License-Identifier: Apache-2.0
"""The agent on a real node, by kustomize and by Helm: healthy by its own probes, with its few
rights, and it says who killed a pod. Pods of this cluster do not reach the API server, so the level
with Events is not tried here; tests.cluster.test_kubernetes_half has an agent's Events."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
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
VICTIM = "killed"


@pytest.fixture(params=["kustomize", "helm"])
def agent(
    bed: Bed, ktrace_image: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[dict[str, Any]]:
    """The agent's pod, ready. What it keeps stays with the node's own files."""
    history = bed.root / f"history-{request.param}"
    if request.param == "kustomize":
        program, made = bed.new_kubectl, str(_overlay(tmp_path, history))
        install = ["apply", "--kustomize", made]
        remove = ["delete", "--kustomize", made, "--wait=true"]
    else:
        program, place = build.newer(print) / "helm", "--namespace=ktrace"
        words = ["--create-namespace", f"--set=history={history}"]
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


def _overlay(directory: Path, history: Path) -> Path:
    """A kustomization of ours on the base, with another place for the history."""
    path = "/spec/template/spec/volumes/3/hostPath/path"
    patch = [{"op": "replace", "path": path, "value": str(history)}]
    target = {"kind": "DaemonSet", "name": "ktrace"}
    told = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(HERE / "base", directory)],
        "patches": [{"target": target, "patch": json.dumps(patch)}],
    }
    (directory / "kustomization.yaml").write_text(json.dumps(told))
    return directory


def test_it_says_who_killed_a_pod(bed: Bed, agent: dict[str, Any], tmp_path: Path) -> None:
    bed.kubectl("run", VICTIM, f"--image={bed.image}", "--restart=Never", "--", "sleep", "100000")
    try:
        bed.kubectl("wait", "--for=condition=Ready", f"pod/{VICTIM}", "--timeout=100s", timeout=120)
        uid = bed.get("pod", VICTIM)["metadata"]["uid"]
        command = ["sleep", "100000"]
        (pid,) = (one for one in pids(uid) if psutil.Process(one).cmdline() == command)
        began = utc()
        os.kill(pid, signal.SIGKILL)
        address = f"http://{agent['status']['podIP']}:9464"
        key = ("ktrace_verdicts_total", "certain", "default", "killed_from_host")
        wait_for("the verdict", lambda: scraped(f"{address}/metrics").get(key), SECONDS, 0.3)
        with urllib.request.urlopen(f"{address}/healthz", timeout=60) as answer:
            health = json.loads(answer.read())
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
    finally:
        bed.kubectl("delete", "pod", VICTIM, "--now", "--ignore-not-found", timeout=120)


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
