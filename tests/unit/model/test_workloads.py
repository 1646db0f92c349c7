# SPDX-License-Identifier: Apache-2.0
"""Which pods belong to a workload, by their names and labels."""

from __future__ import annotations

import pytest

from tracer.model import workloads
from tracer.model.names import Pod
from tracer.model.selection import pod_matches

HASH = {"pod-template-hash": "67768f46c4"}
REVISION = {"controller-revision-hash": "5d4f8"}


def pod(name: str | None, labels: dict[str, str] | None = None) -> Pod:
    return Pod("0a1b2c3d-0000", "shop", name, labels)


OWNED = [
    ("deploy/web", pod("web-67768f46c4-sxdwg", HASH)),
    ("deploy/web", pod("web-67768f46c4-sxdwg")),
    ("deployment/web", pod("web-67768f46c4-sxdwg", HASH)),
    ("shop/deploy/web", pod("web-67768f46c4-sxdwg", HASH)),
    ("sh*/deploy/w*", pod("web-67768f46c4-sxdwg", HASH)),
    ("deploy/web-67768f46c4", pod("web-67768f46c4-67768f46c4-sxdwg", HASH)),
    ("rs/web-67768f46c4", pod("web-67768f46c4-sxdwg", HASH)),
    ("rs/web", pod("web-sxdwg", {})),
    ("ds/agent", pod("agent-sxdwg", REVISION)),
    ("ds/agent", pod("agent-sxdwg")),
    ("sts/db", pod("db-0", {"statefulset.kubernetes.io/pod-name": "db-0"})),
    ("statefulset/db", pod("db-12")),
    ("job/once", pod("once-sxdwg", {"job-name": "once"})),
    ("job/once", pod("once-3-sxdwg", {"batch.kubernetes.io/job-name": "once"})),
    ("job/once", pod("once-sxdwg")),
    ("cronjob/tidy", pod("tidy-1606348800-sxdwg", {"job-name": "tidy-1606348800"})),
    ("cj/tidy", pod("tidy-27654321-sxdwg")),
    # a name that was cut for its length
    (f"deploy/{'x' * 70}", pod("x" * 58 + "sxdwg", HASH)),
    # as ever: a namespace and a name
    ("deploy/web", Pod("uid", "deploy", "web", {})),
]
NOT_OWNED = [
    ("deploy/web", pod("web-0", {})),
    ("deploy/web", pod("web-sxdwg", {})),
    ("deploy/web", pod("web-67768f46c4-sxdwg", {})),
    ("deploy/web", pod("web-67768f46c4-sxdwg", {"pod-template-hash": "other"})),
    ("deploy/web", pod("web-67768f46c4-sxdwg", {"pod-template-hash": "*"})),
    ("deploy/web", pod("web-api-67768f46c4-sxdwg", HASH)),
    ("deploy/web", pod("web-server-sxdwg")),
    ("deploy/web", pod("web-67768f46c4-hello", HASH)),
    ("crowd/deploy/web", pod("web-67768f46c4-sxdwg", HASH)),
    ("rs/web", pod("web-67768f46c4-sxdwg", HASH)),
    ("rs/web", pod("web-sxdwg", REVISION)),
    ("ds/web", pod("web-sxdwg", {})),
    ("sts/db", pod("db-0", {})),
    ("sts/db", pod("db-x")),
    ("job/once", pod("once-sxdwg", {})),
    ("job/tidy", pod("tidy-27654321-sxdwg", {"job-name": "tidy-27654321"})),
    ("cronjob/tidy", pod("tidy-sxdwg", {"job-name": "tidy"})),
    ("nothing/web", pod("web-67768f46c4-sxdwg", HASH)),
]


@pytest.mark.parametrize(("text", "one"), OWNED)
def test_owned(text: str, one: Pod) -> None:
    assert pod_matches(one, text)


@pytest.mark.parametrize(("text", "one"), NOT_OWNED)
def test_not_owned(text: str, one: Pod) -> None:
    assert not pod_matches(one, text)


def test_a_name_that_is_not_known_yet() -> None:
    workload = workloads.parse("deploy/web")
    assert workload is not None
    assert workload.owns(pod(None)) is None


def test_how_it_is_told() -> None:
    workload = workloads.parse("shop/deploy/web")
    assert workload is not None
    assert (workload.kind, workload.namespace) == ("Deployment", "shop")
    assert workload.how == "named web-<hash>-<5 characters>, with that hash as their label"


@pytest.mark.parametrize(
    "text", ["web", "deploy", "deploy/", "/deploy/web", "a/b/deploy/web", "", "/", "shop/web-0"]
)
def test_what_names_no_workload(text: str) -> None:
    assert workloads.parse(text) is None
