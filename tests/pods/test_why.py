# SPDX-License-Identifier: Apache-2.0
"""`ktrace why` on incidents in real pods, those of `make truth`: the verdict, how sure it is, and
what it says when there is nothing to say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.containerd import Containerd, PodHandle
from tests.support.incidents import INCIDENTS, SLEEP, Incident, mishap, run
from tests.support.ktrace import Ktrace
from tests.support.ktrace import run as ktrace_once


@pytest.fixture(scope="module")
def with_mishap() -> Iterator[Containerd]:
    with Containerd(extra_files={"/mishap": mishap()}) as running:
        yield running


@pytest.mark.parametrize("one", INCIDENTS, ids=lambda one: one.name.replace(" ", "-"))
def test_an_incident(one: Incident, with_mishap: Containerd) -> None:
    verdicts = run(one, with_mishap)
    assert [said["verdict"] for said in verdicts] == [one.verdict], verdicts
    (verdict,) = verdicts
    assert one.certainty in (None, verdict["certainty"]), verdict
    assert bool(verdict["doubts"]) is (verdict["certainty"] != "certain")
    assert (verdict["pod"]["namespace"], verdict["pod"]["name"]) == ("shop", "web-0")
    told = {(line["kind"], line["boot_ns"]) for line in verdict["timeline"]}
    assert verdict["evidence"]
    assert all((event["kind"], event["boot_ns"]) in told for event in verdict["evidence"])
    assert verdict["remedy"]


def test_nothing_happens(web: PodHandle, cri: tuple[str, str]) -> None:
    web.run("app", SLEEP)
    with Ktrace("why", web.uid, *cri) as ktrace:
        assert ktrace.stop() == []
        assert "nothing happened that needs an explanation" in ktrace.stderr
        assert ktrace.summary.lost == 0


def test_a_pod_that_never_existed(cri: tuple[str, str]) -> None:
    failed = ktrace_once("why", "no-such-pod-anywhere", *cri)
    assert failed.returncode == 5
    assert failed.stdout == ""
    assert "--wait" in failed.stderr


def test_the_text(web: PodHandle, cri: tuple[str, str]) -> None:
    with Ktrace("why", web.uid, *cri, output="text") as ktrace:
        container = web.run("app", ["sh", "-c", "exit 3"])
        assert ktrace.exit_code() == 0
        lines = ktrace.output.decode().splitlines()
    assert container.wait_exit() == 3
    assert lines[0].startswith("shop/web-0 app: ended by itself: sh[")
    assert lines[0].endswith("called exit(3)")
    assert lines[1] == "  certain: the kernel said so"
    assert any(line.startswith("  do: ") for line in lines)


def test_the_function_of_a_crash(with_mishap: Containerd) -> None:
    """By the container's own file, through its root that ktrace holds open."""
    (one,) = (one for one in INCIDENTS if one.name == "a fault in a function with a name")
    (verdict,) = run(one, with_mishap)
    assert verdict["sentence"].endswith("; in mishap, function touch_nothing()")
