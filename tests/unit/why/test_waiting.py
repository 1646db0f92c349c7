# SPDX-License-Identifier: Apache-2.0
"""Pods in which nothing happens, because nothing runs: states of a runtime made by hand."""

from __future__ import annotations

import time
from typing import cast

import pytest

from tests.unit.why.world import CLOCK
from tracer.identity.states import ContainerState, PodState, States, StateService
from tracer.model.names import Pod
from tracer.model.selection import Selection
from tracer.why.engine import explain_all
from tracer.why.render import to_event, to_text
from tracer.why.verdict import Certainty
from tracer.why.waiting import MAX_NOTES, PATIENCE_SECONDS, Waiting

UID = "5016bc16-7c78-4389-a89c-9c971211370b"
WEB = Pod(UID, "shop", "web-0", {"app": "web"})
MINUTE = 60_000_000_000


class Service:
    asks_somebody = True
    latest: States | None = None


def container(name: str, state: str, **more: object) -> ContainerState:
    created = time.time_ns() - MINUTE
    return ContainerState(name * 4, name, state, created, **more)  # type: ignore[arg-type]


def ready(*containers: ContainerState, minutes: int = 48) -> PodState:
    return PodState(WEB, time.time_ns() - minutes * MINUTE, containers)


class Node:
    """Somebody watches `shop/web-0` on it."""

    def __init__(self, pods: str = "shop/web-0") -> None:
        self.service = Service()
        self.waiting = Waiting(cast(StateService, self.service), Selection(pods=(pods,)))

    def verdicts(
        self,
        *states: PodState,
        empty: tuple[str, ...] = (),
        seconds: float = PATIENCE_SECONDS,
        silent: str | None = None,
    ) -> list[str]:
        """After so long of this."""
        for asked in (100.0, 100.0 + seconds):
            pods = {state.pod.uid: state for state in states}
            self.service.latest = States(asked, pods, frozenset(empty), silent)
            stories = self.waiting.stories({UID: WEB}, CLOCK.now())
        self.told = explain_all(stories)
        return [one.verdict.id for one in self.told]


def test_no_container() -> None:
    node = Node()
    assert node.verdicts(ready()) == ["no_container"]
    (one,) = node.told
    assert one.verdict.certainty is Certainty.UNKNOWN
    assert one.verdict.sentence.startswith("waiting: its sandbox is ready for 48 min, and")
    assert one.verdict.remedy.startswith("kubectl describe pod -n shop web-0 says what")
    assert " UTC is 0" not in to_text(one, CLOCK)
    body = to_event(one, CLOCK).body
    assert (body["verdict"], body["evidence"], body["timeline"]) == ("no_container", [], [])


def test_one_that_is_not_started() -> None:
    node = Node()
    assert node.verdicts(ready(container("app", "created"))) == ["not_started"]
    assert "made app 1 min ago, and it was not started" in node.told[0].verdict.sentence


def test_no_sandbox() -> None:
    node = Node()
    assert node.verdicts(empty=(UID,)) == ["no_sandbox"]
    assert node.told[0].verdict.sentence.startswith("waiting, for 10 s at least")
    assert "kubectl describe pod -n shop web-0" in node.told[0].verdict.remedy


def test_a_runtimes_code_of_a_signal() -> None:
    """It does not tell whether a signal ended it or exit(137)."""
    node = Node()
    ended = container("app", "exited", ended_ns=time.time_ns() - 2 * MINUTE, exit_code=137)
    node.service.latest = States(100.0, {UID: ready(ended)})
    (note,) = node.waiting.notes()
    assert note.endswith("app ended 2 min ago with exit code 137, as of SIGKILL")


def test_a_name_is_quoted() -> None:
    odd = PodState(Pod(UID, "shop", "a;reboot", {}), time.time_ns())
    node = Node("*")
    assert node.verdicts(odd) == ["no_container"]
    assert "kubectl describe pod -n shop 'a;reboot' says" in node.told[0].verdict.remedy


@pytest.mark.parametrize(
    "state",
    {
        "one that runs": ready(container("app", "running")),
        "one of two that runs": ready(container("app", "running"), container("b", "created")),
        "one that has ended": ready(container("app", "exited", exit_code=1)),
        "a dead pod": PodState(WEB),
        "a dead pod's container": PodState(WEB, None, (container("app", "exited"),)),
    }.items(),
    ids=lambda item: item[0],
)
def test_what_does_not_wait(state: tuple[str, PodState]) -> None:
    assert Node().verdicts(state[1]) == []


def test_what_may_still_come() -> None:
    assert Node().verdicts(ready(), seconds=PATIENCE_SECONDS - 1) == []
    assert Node().verdicts(empty=(UID,), seconds=PATIENCE_SECONDS - 1) == []


def test_a_start_that_makes_progress() -> None:
    """Each step has its own patience."""
    node = Node()
    node.verdicts(ready(), seconds=9)
    node.service.latest = States(110, {UID: ready(container("app", "created"))})
    assert node.waiting.stories({}, 0) == []


def test_empty_is_not_what_a_silent_runtime_leaves_unsaid() -> None:
    assert Node().verdicts(empty=(UID,), silent="did not answer in time") == []
    node = Node()
    node.service.asks_somebody = False
    assert node.verdicts(empty=(UID,)) == []


def test_a_dead_pod_whose_cgroup_remains() -> None:
    assert Node().verdicts(PodState(WEB), empty=(UID,)) == []


def test_other_pods() -> None:
    assert Node("shop/db").verdicts(empty=(UID,)) == []


def notes(*states: PodState) -> list[str]:
    node = Node()
    node.verdicts(*states)
    return node.waiting.notes()


def test_notes() -> None:
    ended = container(
        "app", "exited", ended_ns=time.time_ns() - 2 * MINUTE, exit_code=127, message="no such file"
    )
    assert notes(ready(ended)) == [
        "shop/web-0 runs no container: app ended 2 min ago with exit code 127, command not found"
        " (no such file)"
    ]
    assert notes(PodState(WEB, None, (ended,)))[0].startswith(
        "shop/web-0 is gone or has ended: app"
    )
    assert notes(ready()) == ["shop/web-0 has a sandbox for 48 min, and no container in it"]
    assert notes(ready(ended, container("app", "running"))) == []
    # a dead one says nothing of the pod that came after it
    assert notes(ready(container("app", "running")), PodState(Pod("old", "shop", "web-0"))) == []


def test_many_notes() -> None:
    many = [PodState(Pod(str(n), "shop", f"web-{n}"), time.time_ns()) for n in range(30)]
    assert len(told := notes(*many)) == MAX_NOTES + 1
    assert told[-1] == "22 other pods run nothing either"


def test_whether_it_is_gone() -> None:
    node = Node()
    node.verdicts(ready(), PodState(Pod("dead")))
    assert not node.waiting.is_gone(UID, 0)
    assert node.waiting.is_gone("dead", 0)
    assert node.waiting.is_gone("never seen", 0)
    assert not node.waiting.is_gone("dead", 1e9)  # nobody has been asked since
    node.verdicts(silent="did not answer")
    assert not node.waiting.is_gone(UID, 0)


def test_the_message_of_an_end() -> None:
    node = Node()
    node.verdicts(ready(container("app", "exited", message="no such file")))
    assert node.waiting.message("appappappapp") == "no such file"
    assert node.waiting.message("other") is None
