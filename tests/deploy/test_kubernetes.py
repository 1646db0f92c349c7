# SPDX-License-Identifier: Apache-2.0
"""The Helm chart, and what kustomize reads: one source, few rights, none that is not needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import version
from deploy.kubernetes.build import CHART, HERE, LEVELS, helm, manifest, whole
from tests.cluster.build import newer


@pytest.fixture(scope="module", autouse=True)
def path() -> Iterator[None]:
    """With the Helm of the cluster's tests on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{newer(print)}:{os.environ['PATH']}")
        yield


def test_the_chart_is_clean() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version(), version())


@pytest.mark.parametrize("level", LEVELS)
def test_kustomize_reads_what_the_chart_makes(level: str) -> None:
    """`python -m deploy.kubernetes` writes it anew."""
    assert (HERE / level / "ktrace.yaml").read_text() == manifest(level)
    own, base = (HERE / one / "namespace.yaml" for one in (level, "base"))
    assert own.read_text() == base.read_text()


@pytest.mark.parametrize("level", LEVELS)
def test_few_rights(level: str) -> None:
    objects = {(one["kind"], one["metadata"]["name"]): one for one in parsed(whole(level))}
    spec = objects["DaemonSet", "ktrace"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    security = container["securityContext"]
    assert "privileged" not in security
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["BPF", "PERFMON", "SYS_PTRACE"]}
    assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
    writable = {mount["name"] for mount in container["volumeMounts"] if "readOnly" not in mount}
    assert writable == {"history", "tmp"}
    assert spec["automountServiceAccountToken"] is (level == "events")
    kinds = {kind for kind, _ in objects}
    if level == "base":
        assert kinds == {"Namespace", "DaemonSet"}
    else:
        rules = objects["ClusterRole", "ktrace-events"]["rules"]
        assert rules == [{"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]}]


def test_values() -> None:
    words = ("--set=otlp.url=http://c:4318", "--set=otlp.headersSecret=s", "--set=runTime=true")
    told = helm("template", "x", str(CHART), "--namespace=watch", *words)
    (daemonset,) = parsed(told)
    assert daemonset["metadata"]["namespace"] == "watch"
    (container,) = daemonset["spec"]["template"]["spec"]["containers"]
    assert {"--otlp=http://c:4318", "--prometheus-run-time"} <= set(container["command"])
    assert "SYS_ADMIN" in container["securityContext"]["capabilities"]["add"]
    secret = container["env"][-1]["valueFrom"]["secretKeyRef"]
    assert secret == {"name": "s", "key": "headers"}


def test_what_kubernetes_says_is_only_read() -> None:
    told = helm("template", "x", str(CHART), "--namespace=watch", "--set=kubernetes=true")
    objects = {(one["kind"], one["metadata"]["name"]): one for one in parsed(told)}
    (container,) = objects["DaemonSet", "ktrace"]["spec"]["template"]["spec"]["containers"]
    assert "--kubernetes" in container["command"]
    assert ("ClusterRole", "ktrace-events") not in objects
    (rule,) = objects["ClusterRole", "ktrace-reads"]["rules"]
    assert rule["resources"] == ["pods", "events"]
    assert rule["verbs"] == ["get", "list", "watch"]
    (subject,) = objects["ClusterRoleBinding", "ktrace-reads"]["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "ktrace", "namespace": "watch"}
    assert ("ServiceAccount", "ktrace") in objects


def test_no_directory_is_forgotten() -> None:
    found = {path.parent.name for path in Path(HERE).glob("*/kustomization.yaml")}
    assert found == set(LEVELS)


def parsed(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one]
