# SPDX-License-Identifier: Apache-2.0
"""Static pods by the uid of their mirror, with a `kubectl` that says what the API server would."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracer.identity import mirror
from tracer.kernel.cgroupfs import Cgroup
from tracer.model.cgroup import CgroupIdentity
from tracer.model.selection import Selection

MIRROR = "03fe399b-3c3e-4ac3-adcf-9b121f2aa017"
STATIC = "1c45aa5f554390e9068d9542db0bc4d9"


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(mirror, "container_cgroups", lambda: [])
    return tmp_path / "kubectl"


def says(kubectl: Path, script: str) -> None:
    kubectl.write_text(f"#!/bin/sh\n{script}\n")
    kubectl.chmod(0o755)


def chosen(told: list[str], **selectors: tuple[str, ...]) -> Selection:
    return mirror.with_static_pods(Selection(**selectors), told.append)  # type: ignore[arg-type]


def test_the_static_pod_is_found(kubectl: Path) -> None:
    says(kubectl, f'case "$*" in *\'uid=="{MIRROR}"\'*) printf {STATIC};; esac')
    told: list[str] = []
    found = chosen(told, pods=(MIRROR, "web-*"), sender_pods=(MIRROR,))
    assert (found.pods, found.sender_pods) == ((STATIC, "web-*"), (STATIC,))
    assert not told


@pytest.mark.parametrize("script", ["exit 1", "echo nonsense", "printf '\\377'", "exec sleep 60"])
def test_who_cannot_be_asked(kubectl: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "SECONDS", -0.9)
    says(kubectl, script.replace("exec sleep", "exec /bin/sleep"))
    told: list[str] = []
    assert chosen(told, pods=(MIRROR,)).pods == (MIRROR,)
    assert "kubernetes.io/config.hash" in told[0]


def test_without_kubectl(kubectl: Path) -> None:
    told: list[str] = []
    assert chosen(told, pods=(MIRROR,)).pods == (MIRROR,)
    assert len(told) == 1


def test_nobody_is_asked_without_need(kubectl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """About names, and about pods that are here."""
    says(kubectl, f"printf {STATIC}")
    here = Cgroup(1, "/x", "/x", CgroupIdentity(pod_uid=MIRROR))
    monkeypatch.setattr(mirror, "container_cgroups", lambda: [here])
    told: list[str] = []
    assert chosen(told, pods=(MIRROR, "web-0", STATIC)).pods == (MIRROR, "web-0", STATIC)
    assert not told
