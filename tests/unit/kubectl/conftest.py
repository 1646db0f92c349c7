# SPDX-License-Identifier: Apache-2.0
"""A cluster that is made up, and `kubectl ktrace` in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.wait import wait_for

FAKE = Path(__file__).with_name("fake_kubectl.py")


class Result(NamedTuple):
    code: int
    out: str
    err: str


class Cluster:
    """What its API server answers is a list of rules; those that are added later come first."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._rules: list[dict[str, Any]] = []
        program = place / "kubectl"
        program.write_text(f"#!{sys.executable} -IS\n" + FAKE.read_text())
        program.chmod(0o755)
        self.answers("get nodes", {"items": [node("node1")]})
        self.answers("get node node1 ", node("node1"))
        self.answers("get pods --namespace=ktrace .*app.kubernetes.io/name=ktrace", {"items": []})
        self.answers("get pods --all-namespaces .*managed-by", {"items": []})
        self.rule("create --filename=-")
        self.rule("get pod kubectl-ktrace-.*--watch", out=json.dumps(pod("x", "ktrace")), stays=1)
        self.rule("delete pod")
        self.rule("auth can-i", out="yes")

    def rule(self, when: str, **what: Any) -> None:
        self._rules.insert(0, {"when": when, **what})
        (self.place / "rules").write_text(json.dumps(self._rules))

    def answers(self, when: str, answer: Any, **what: Any) -> None:
        self.rule(when, out=json.dumps(answer), **what)

    def refuses(self, when: str, words: str) -> None:
        self.rule(when, err=words, code=1)

    def agents(self, *names: str) -> None:
        """Nodes on which the DaemonSet's pod runs."""
        self.answers("get nodes", {"items": [node(name) for name in names]})
        for name in names:
            self.answers(f"get node {name} ", node(name))
            found = {"items": [pod(f"ktrace-{name}", "ktrace", name)]}
            self.answers(f"get pods --namespace=ktrace .*nodeName={name}", found)

    @property
    def calls(self) -> list[list[str]]:
        file = self.place / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line)["words"] for line in lines]

    @property
    def manifests(self) -> list[Any]:
        lines = (self.place / "calls").read_text().splitlines()
        return [json.loads(given) for one in lines if (given := json.loads(one)["given"])]

    def remains(self) -> set[str]:
        """Pods that were made and not taken away."""
        deleted = {word for words in self.calls if "delete" in words for word in words}
        return {one["metadata"]["name"] for one in self.manifests} - deleted

    def start(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        return subprocess.Popen(
            [sys.executable, "-m", "tracer.kubectl", *words],
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PATH": str(self.place), "NO_COLOR": "1", "TZ": "UTC"},
            **options,
        )

    def __call__(self, *words: str) -> Result:
        process = self.start(*words)
        out, err = process.communicate(timeout=60)
        assert "Traceback" not in err, err
        return Result(process.returncode, out, err)

    def wait_for_call(self, word: str) -> None:
        wait_for(f"kubectl {word}", lambda: any(word in words for words in self.calls))


Labels = Mapping[str, str]


def node(name: str, labels: Labels | None = None, **more: Any) -> dict[str, Any]:
    info = {"kernelVersion": "6.1.0", "containerRuntimeVersion": "containerd://1.6"}
    ready = [{"type": "Ready", "status": "True"}]
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux", **(labels or {})}},
        "spec": more.get("spec", {}),
        "status": {"nodeInfo": info, "conditions": more.get("conditions", ready)},
    }


def pod(
    name: str, namespace: str = "shop", on: str | None = "node1", labels: Labels | None = None
) -> dict[str, Any]:
    running = [{"name": "ktrace", "state": {"running": {}}}]
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": name, "labels": labels or {}},
        "spec": {"nodeName": on, "containers": [{"name": "ktrace"}]} if on else {"containers": []},
        "status": {"phase": "Running" if on else "Pending", "containerStatuses": running},
    }


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)
