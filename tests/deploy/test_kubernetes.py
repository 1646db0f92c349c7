# SPDX-License-Identifier: Apache-2.0
"""The Helm chart, and what kustomize reads: one source, few rights, none that is not needed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import version
from deploy.kubernetes.build import (
    CHART,
    HERE,
    LEVELS,
    NAMESPACE,
    PUBLISHERS,
    VALUES,
    helm,
    manifest,
    whole,
)
from deploy.kubernetes.publishers import template, with_values
from deploy.release.build import chart
from tests.cluster.build import newer
from tracer.agent import publishers


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


def test_the_chart_knows_the_publishers() -> None:
    """`python -m deploy.kubernetes` writes them anew."""
    assert VALUES.read_text() == with_values(VALUES.read_text())
    assert PUBLISHERS.read_text() == template()
    values = yaml.safe_load(VALUES.read_text())
    on = {name for name in publishers.names() if values[name]}
    assert on == {name for name in publishers.names() if publishers.get(name).serves}


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
    words = (
        *("--set=otlp=http://c:4318", "--set=otlpHeadersSecret=s", "--set=otlpEvents=warn"),
        "--set=prometheusRunTime=true",
    )
    told = helm("template", "x", str(CHART), "--namespace=watch", *words)
    (daemonset,) = parsed(told)
    assert daemonset["metadata"]["namespace"] == "watch"
    (container,) = daemonset["spec"]["template"]["spec"]["containers"]
    assert {"--otlp=http://c:4318", "--otlp-events=warn", "--prometheus-run-time"} <= {
        *container["command"]
    }
    assert "SYS_ADMIN" in container["securityContext"]["capabilities"]["add"]
    secret = container["env"][-1]["valueFrom"]["secretKeyRef"]
    assert secret == {"name": "s", "key": "headers"}


def test_what_is_off_needs_nothing() -> None:
    words = ("--set=prometheus=false", "--set=prometheusRunTime=true", "--set=otlpHeadersSecret=s")
    (daemonset,) = parsed(helm("template", "x", str(CHART), *words))
    (container,) = daemonset["spec"]["template"]["spec"]["containers"]
    assert [word for word in container["command"] if "prometheus" in word] == []
    assert "SYS_ADMIN" not in container["securityContext"]["capabilities"]["add"]
    assert [one["name"] for one in container["env"]] == ["NODE_NAME", "POD_IP"]


def test_a_new_publisher_edits_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options, rights, capabilities and secrets come from its own one."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "pigeon.py").write_text(PIGEON)
    monkeypatch.setattr(publishers, "__path__", [*publishers.__path__, str(folder)])
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    values = chart / "values.yaml"
    values.write_text(with_values(values.read_text()))
    (chart / "templates/_publishers.tpl").write_text(template())
    words = ("--set=pigeon=true", "--set=pigeonColours={grey,white}", "--set=pigeonRings=false")
    told = helm("template", "x", str(chart), *words, "--set=pigeonSeedSecret=s")
    objects = {(one["kind"], one["metadata"]["name"]): one for one in parsed(told)}
    (rule,) = objects["ClusterRole", "ktrace-pigeon"]["rules"]
    assert (rule["resources"], rule["verbs"]) == (["roofs"], ["get"])
    spec = objects["DaemonSet", "ktrace"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert [word for word in container["command"] if "pigeon" in word] == [
        *("--pigeon", "--pigeon-colours=grey", "--pigeon-colours=white", "--no-pigeon-rings"),
    ]
    assert container["securityContext"]["capabilities"]["add"][3:] == []
    assert container["env"][-1]["name"] == "SEED"
    assert spec["serviceAccountName"] == "ktrace"
    told = helm("template", "x", str(chart), "--set=pigeon=true", "--set=pigeonHigh=true")
    (daemonset,) = (one for one in parsed(told) if one["kind"] == "DaemonSet")
    (container,) = daemonset["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["capabilities"]["add"][3:] == ["SYS_FLY"]
    assert "--pigeon-high" in container["command"]


PIGEON = """
from dataclasses import dataclass
from tracer.agent.publishers import Needs, Options, Publisher, Sender, option

@dataclass(frozen=True)
class PigeonOptions(Options):
    on: bool = option(False, "Send pigeons.")
    colours: tuple[str, ...] = option((), "Of pigeons.")
    rings: bool = option(True, "Around their feet.")
    high: bool = option(False, "Fly high.")
    every: float = option(60.0, "How often.", unit="duration")

PUBLISHER = Publisher(
    "pigeons", PigeonOptions, lambda options, means: Sender(), lambda options: (),
    needs=Needs({"roofs": ("get",)}, {"high": "SYS_FLY"}, {"seed": "SEED"}),
)
"""


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


def test_the_chart_of_a_release(tmp_path: Path) -> None:
    """One file that Helm takes as it takes the directory, and the same whoever packs it."""
    packed = chart(tmp_path)
    told = helm("template", "ktrace", str(packed), f"--namespace={NAMESPACE}")
    assert parsed(told) == parsed(manifest("base"))
    before = os.umask(0o077)
    try:
        (tmp_path / "again").mkdir()
        assert chart(tmp_path / "again").read_bytes() == packed.read_bytes()
    finally:
        os.umask(before)


def test_no_directory_is_forgotten() -> None:
    found = {path.parent.name for path in Path(HERE).glob("*/kustomization.yaml")}
    assert found == set(LEVELS)


def parsed(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one]
