# SPDX-License-Identifier: Apache-2.0
"""What is said at the start if nothing on this node matches what is asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import pytest

from tracer.identity import unmatched as module
from tracer.identity.unmatched import unmatched
from tracer.model.cgroup import CgroupIdentity
from tracer.model.names import Container, Names, Pod
from tracer.model.selection import Selection

WAITING = "; waiting for it; ktrace pods lists what is here"
WEB = Pod("u1", "shop", "web-0", {"app": "web"})
APP, PAUSE, PLAIN = "a" * 64, "b" * 64, "c" * 64
NAMES = Names(
    {"u1": WEB},
    {
        APP: Container(APP, "containerd", "app", "u1"),
        PAUSE: Container(PAUSE, "containerd", None, "u1"),
        PLAIN: Container(PLAIN, "docker", "plain"),
    },
)


@dataclass
class Cgroup:
    identity: CgroupIdentity
    processes: list[int] = field(default_factory=lambda: [7])
    id: int = 1
    path: str = "/a/path"

    def own_processes(self) -> list[int]:
        return self.processes


POD = [
    Cgroup(CgroupIdentity("u1"), []),
    Cgroup(CgroupIdentity("u1", PAUSE)),
    Cgroup(CgroupIdentity("u1", APP)),
]
IN_NO_POD = Cgroup(CgroupIdentity(None, PLAIN))


def said(
    monkeypatch: pytest.MonkeyPatch, cgroups: list[Cgroup], names: Names = NAMES, **chosen: Any
) -> str | None:
    monkeypatch.setattr(module, "container_cgroups", lambda: cgroups)
    return unmatched(Selection(**chosen), names)


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"everything": True},
        {"namespaces": ("shop",)},
        {"containers": ("app",)},
        {"containers": (APP[:12],)},
        {"labels": (("app", "web"),)},
        {"pods": ("web-*",), "namespaces": ("shop",), "containers": ("app",)},
        {"sender_pods": ("web-0",)},
        {"pods": ("web-0",), "sender_pods": ("web-0",)},
        {"pids": frozenset((os.getpid(), 1 << 22))},
    ],
)
def test_what_matches_needs_no_word(
    chosen: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(monkeypatch, POD, **chosen) is None


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"namespaces": ("shp",)}, "--namespace shp yet; the nearest: shop"),
        ({"namespaces": ("a;b",)}, "--namespace 'a;b' yet"),
        ({"containers": ("ap",)}, "--container ap yet; the nearest: app"),
        ({"containers": ("ap", "db")}, "--container ap --container db yet; the nearest: app"),
        ({"labels": (("app", "db"), ("tier", None))}, "--selector app=db --selector tier yet"),
        ({"pods": ("db-0",)}, "--pod db-0 yet"),
        ({"sender_pods": ("db-0",)}, "--sender-pod db-0 yet"),
        ({"namespaces": ("shop",), "containers": ("db",)}, "--container db yet"),
        ({"namespaces": ("qq",), "containers": ("db",)}, "--namespace qq --container db yet"),
    ],
)
def test_what_is_not_here_is_waited_for(
    chosen: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = f"nothing on this node matches {words}{WAITING}"
    assert said(monkeypatch, POD, **chosen) == expected


def test_each_is_here_and_none_has_both(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [Cgroup(CgroupIdentity("u2", "d" * 64))]
    names = Names(
        {**NAMES.pods, "u2": Pod("u2", "bank", "db-0", {})},
        {**NAMES.containers, "d" * 64: Container("d" * 64, "containerd", "db", "u2")},
    )
    chosen = {"namespaces": ("shop",), "containers": ("db",)}
    expected = f"nothing on this node matches --namespace shop --container db yet{WAITING}"
    assert said(monkeypatch, POD + others, names, **chosen) == expected


def test_where_no_pod_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag that selects a container in none is named."""
    chosen: dict[str, Any] = {"namespaces": ("shop",), "without_pods": True}
    told = said(monkeypatch, [IN_NO_POD], **chosen)
    assert told is not None
    assert "yet: no pod is here; -c NAME selects a container that is in none;" in told
    assert (said(monkeypatch, [], **chosen) or "").count("no pod is here;") == 1
    assert said(monkeypatch, [IN_NO_POD], containers=("plain",), without_pods=True) is None


def test_the_dead_match_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubelet leaves some of their cgroups."""
    dead = [Cgroup(CgroupIdentity("u1", APP), [])]
    assert said(monkeypatch, dead, containers=("app",)) is not None


def test_what_has_no_name_yet_may_match(monkeypatch: pytest.MonkeyPatch) -> None:
    """As while the runtime is silent."""
    assert said(monkeypatch, POD, Names(), namespaces=("shop",)) is None
    assert said(monkeypatch, POD, Names(), containers=("app",)) is None


def test_nothing_in_a_pod_or_container(monkeypatch: pytest.MonkeyPatch) -> None:
    told = said(monkeypatch, [], without_pods=True)
    assert told == (
        "nothing on this node is in a pod or container yet: --all traces the whole node"
    )
    assert said(monkeypatch, [IN_NO_POD], without_pods=True) is None


def test_processes_that_are_still_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    told = said(monkeypatch, [], pids=frozenset(((1 << 22) - 1, 1 << 22)))
    assert told == "no process 4194303 or 4194304 is running yet; waiting"
