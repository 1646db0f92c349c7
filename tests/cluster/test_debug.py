# SPDX-License-Identifier: Apache-2.0
"""`kubectl debug node/NAME --profile=sysadmin`: a container with all rights and none of the mounts.
ktrace in it sees the node as if it had been started there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.bed import Bed
from tests.support.wait import wait_for

TIMES = 23
SECONDS = 120.0


@contextmanager
def debugging(bed: Bed, image: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """What ktrace says in the pod, which is taken away: kubectl leaves it behind. kubectl attaches
    too late to see the first lines, and they are in the pod's log."""
    options = ["--profile=sysadmin", f"--image={image}"]
    before = pods(bed)
    command = ("debug", f"node/{bed.node}", *options, "--", "ktrace", *words)
    bed.run_kubectl(bed.new_kubectl, *command)
    (made,) = pods(bed) - before
    try:
        asked = ("get", "pod", made, "--output=jsonpath={.status.phase}")
        wait_for("ktrace's pod", lambda: bed.kubectl(*asked) not in ("", "Pending"), SECONDS)
        process = bed.start_kubectl("logs", "--follow", made)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()
    finally:
        bed.kubectl("delete", "pod", made, "--now", "--wait=false")


def pods(bed: Bed) -> set[str]:
    return {pod["metadata"]["name"] for pod in bed.get("pods")["items"]}


def test_what_it_finds_there(bed: Bed, ktrace_image: str) -> None:
    with debugging(bed, ktrace_image, "doctor", "-o", "json") as asking:
        out, err = asking.communicate(timeout=SECONDS)
    findings = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert findings, err
    assert [one for one in findings if one["state"] == "problem"] == []
    by_name = {finding["what"]: finding for finding in findings}
    assert by_name["pod"]["state"] == by_name["kernel log"]["state"] == "ok"
    assert any("cri /run/containerd" in one["found"] for one in findings)


def test_who_signals_a_pod(bed: Bed, ktrace_image: str, victim: int, tmp_path: Path) -> None:
    """The file that says that it is ready lies on the node."""
    ready = bed.root / "log" / "ktrace-asked"
    asked = ["signals", "-p", "default/victim", "--signal", "all", "-o", "json"]
    asked += ["--count", str(TIMES), "--ready-file", "/var/log/ktrace-asked"]
    with debugging(bed, ktrace_image, *asked) as asking:
        wait_for("ktrace", lambda: ready.exists() or asking.poll() is not None, SECONDS)
        assert asking.poll() is None, asking.communicate()
        for _ in range(TIMES):
            os.kill(victim, signal.SIGWINCH)
        out, err = asking.communicate(timeout=SECONDS)
    events = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert len(events) == TIMES, err
    for event in events:
        assert (event["pod"]["namespace"], event["pod"]["name"]) == ("default", "victim")
        assert (event["target"]["pid"], event["target"]["comm"]) == (victim, "sleep")
        assert (event["sender"]["pid"], event["origin"]) == (os.getpid(), "host")


@pytest.fixture(autouse=True, scope="module")
def nothing_stays(bed: Bed) -> Iterator[None]:
    yield
    wait_for("no pod of kubectl debug", lambda: "node-debugger" not in " ".join(pods(bed)), SECONDS)
