# SPDX-License-Identifier: Apache-2.0
"""The image on a real node, with the manifest and the few rights that it asks for: it finds there
what it needs, and names who signals another pod."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.kubernetes.build import whole
from tests.cluster.bed import Bed
from tests.cluster.scene import pids
from tests.support.wait import wait_for

TIMES = 23
SECONDS = 60.0
IN_IT = ("--namespace", "ktrace", "exec", "ds/ktrace", "--")


@pytest.fixture(scope="module")
def recorder(bed: Bed, ktrace_image: str) -> Iterator[str]:
    """The uid of the pod that the manifest makes on the node."""
    assert f"image: {ktrace_image}\n" in whole()
    # what it records stays with the node's own files
    manifest = whole().replace("path: /var/lib/ktrace,", f"path: {recordings(bed)},")
    bed.kubectl("apply", "--filename=-", input=manifest)
    try:
        bed.kubectl("-n", "ktrace", "rollout", "status", "ds/ktrace", "--timeout=100s")
        (pod,) = bed.get("pods", "--namespace", "ktrace")["items"]
        yield pod["metadata"]["uid"]
    finally:
        bed.kubectl("delete", "--filename=-", "--wait=false", input=manifest)


def test_it_records(bed: Bed, recorder: str) -> None:
    wait_for("the history", lambda: list(recordings(bed).glob("*.ktrace")), SECONDS)


def test_what_it_finds_there(bed: Bed, recorder: str) -> None:
    """All but the kernel log, which is for privileged pods; that is told with its remedy."""
    told = bed.kubectl(*IN_IT, "ktrace", "doctor", "-o", "json", check=False)
    findings = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    by_name = {finding["what"]: finding for finding in findings}
    assert by_name["node"]["found"] == bed.node
    problems = {f["what"] for f in findings if f["state"] == "problem"}
    assert problems <= {"kernel log"}, findings
    assert by_name["core"]["state"] == "ok"


def test_who_signals_a_pod(bed: Bed, recorder: str, victim: int) -> None:
    asked = ["signals", "-p", "default/victim", "--signal", "all", "-o", "json"]
    asked += ["--count", str(TIMES), "--ready-file", "/tmp/asked"]
    asking = bed.start_kubectl(*IN_IT, "ktrace", *asked)
    try:
        wait_for(
            "ktrace to be ready", lambda: is_there(recorder, "asked") or asking.poll(), SECONDS
        )
        assert asking.poll() is None, asking.communicate()
        for _ in range(TIMES):
            os.kill(victim, signal.SIGWINCH)
        out, err = asking.communicate(timeout=SECONDS)
    finally:
        asking.kill()
        asking.communicate()
    events: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert len(events) == TIMES, err
    for event in events:
        assert event["signal"]["name"] == "SIGWINCH"
        assert (event["pod"]["namespace"], event["pod"]["name"]) == ("default", "victim")
        assert (event["target"]["pid"], event["target"]["comm"]) == (victim, "sleep")
        assert (event["sender"]["pid"], event["origin"]) == (os.getpid(), "host")
        assert event["node"] == bed.node


def recordings(bed: Bed) -> Path:
    return bed.root / "recordings"


def is_there(uid: str, name: str) -> bool:
    return any(Path(f"/proc/{pid}/root/tmp", name).exists() for pid in pids(uid))
