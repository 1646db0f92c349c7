# SPDX-License-Identifier: Apache-2.0
"""`ktrace why` on incidents in real pods, those of `make truth`: the verdict, how sure it is, and
what it says when there is nothing to say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.containerd import Containerd, PodHandle
from tests.support.incidents import INCIDENTS, SLEEP, Incident, SideBySide, check, mishap
from tests.support.ktrace import Ktrace
from tests.support.ktrace import run as ktrace_once


@pytest.fixture(scope="module")
def staged(request: pytest.FixtureRequest) -> Iterator[SideBySide]:
    """Those whose tests were chosen, in the order of the tests."""
    items = (item for item in request.session.items if item.path == request.path)
    params = [item.callspec.params for item in items if hasattr(item, "callspec")]
    chosen = [one for each in params for one in each.values() if isinstance(one, Incident)]
    with (
        Containerd(extra_files={"/mishap": mishap()}) as containerd,
        SideBySide(containerd, chosen) as staged,
    ):
        yield staged


@pytest.mark.parametrize("one", INCIDENTS, ids=lambda one: one.name.replace(" ", "-"))
def test_an_incident(one: Incident, staged: SideBySide) -> None:
    check(one, staged.verdicts(one))


@pytest.mark.parametrize(
    "one", [one for one in INCIDENTS if one.name == "a fault in a function with a name"]
)
def test_the_function_of_a_crash(one: Incident, staged: SideBySide) -> None:
    """By the container's own file, through its root that ktrace holds open."""
    (verdict,) = staged.verdicts(one)
    assert verdict["sentence"].endswith("; in mishap, function touch_nothing()")


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
