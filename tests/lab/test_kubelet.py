# SPDX-License-Identifier: Apache-2.0
"""Static pods of a real kubelet, on cgroup v2 alone, with systemd's driver: in a guest."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.cluster.churn import Tally
from tests.lab.kubelet import (
    INCIDENTS,
    LISTED,
    RAW_PODS,
    SERVICE,
    STATIC_PODS,
    TABLE,
    TOGETHER,
    Incident,
    kubelet_guest,
)
from tests.lab.machine import BOOTS, TOTAL_SECONDS
from tests.lab.replaced import RAW
from tests.lab.results import Results
from tests.support.kubelet import NODE

# the first waits for the machine, and for the kubelet to be built
pytestmark = pytest.mark.timeout(BOOTS * TOTAL_SECONDS)
# The kubelet derives a static pod's uid from its manifest.
UID = re.compile(r"[0-9a-f]{32}")
SLICES = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice"


@pytest.fixture(scope="module")
def told() -> Results:
    return kubelet_guest(print)


def test_ktrace_as_a_service(told: Results) -> None:
    (service,) = told.verdicts[SERVICE]
    assert (service["ActiveState"], service["NRestarts"]) == ("active", "0")
    assert 0 < int(service["MemoryCurrent"]) < int(service["MemoryHigh"]) == 128 << 20
    assert service["StateDirectoryMode"] == "0700"
    assert service["after"] == {"ActiveState": "inactive", "Result": "success"}
    assert service["targets"] > 0


def test_static_pods_are_listed(told: Results) -> None:
    rows = {row["pod"]: row for row in told.verdicts[LISTED] if row["container"] is not None}
    for number in range(TOGETHER):
        row = rows[f"web-{number}-{NODE}"]
        assert (row["namespace"], row["container"], row["qos"]) == ("shop", "app", "Burstable")
        assert UID.fullmatch(row["pod_uid"])
        scope = f"cri-containerd-{row['container_id']}.scope"
        assert row["cgroup"] == f"{SLICES.format(row['pod_uid'])}/{scope}"


@pytest.mark.parametrize("one", TABLE, ids=lambda one: one.name)
def test_an_incident(one: Incident, told: Results) -> None:
    verdicts = [v for v in told.verdicts[INCIDENTS] if _pod(v) == f"{one.name}-{NODE}"]
    assert verdicts, told.verdicts[INCIDENTS]
    first = min(verdicts, key=lambda verdict: verdict["boot_ns"])
    said = first["verdict"], first["certainty"], first["container"]["name"]
    assert said == (one.verdict, one.certainty, "app"), first
    assert UID.fullmatch(first["pod"]["uid"])
    assert not one.shows or one.shows in [line["kind"] for line in first["timeline"]], first


def test_resets_of_pods_that_are_replaced(told: Results) -> None:
    tally = Tally.from_facts(told.verdicts[RAW][0])
    assert tally.pods == STATIC_PODS + RAW_PODS
    assert tally.good, (tally.in_words(), tally.mistakes[:3])


def _pod(verdict: dict[str, Any]) -> str | None:
    pod = verdict["pod"]
    return str(pod["name"]) if pod else None
