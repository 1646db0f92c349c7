# SPDX-License-Identifier: Apache-2.0
"""That the comparison of backends finds what differs, and lets only the documented pass."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.same_events import Staged, counts, differences, undocumented

STAGED = Staged(pids={7}, ports={80})
OOM = {"kind": "oom", "time": "1", "boot_ns": 1, "victim": {"pid": 7}, "scope": "cgroup"}
DROP = {"kind": "backlog_drop", "time": "1", "local": {"port": 80}, "queue": "syn", "stage": "syn"}
FAILURE = {
    **{"kind": "page_alloc_failure", "process": {"pid": 7}, "order": 10},
    "buddyinfo": [{"node": 0, "zone": "DMA", "free": [1, 2]}],
    "reading": "order 10: 5 MiB free, none of it in blocks of 4 MiB or more: fragmented",
}


def found(here: list[dict[str, Any]], there: list[dict[str, Any]]) -> list[str]:
    kinds = {event["kind"] for event in [*here, *there]}
    return differences(here, there, STAGED, kinds)


def test_the_moment_is_no_difference() -> None:
    assert found([OOM], [{**OOM, "time": "2", "boot_ns": 2}]) == []


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({"scope": "node"}, "oom.scope: 'cgroup' here, 'node' there"),
        ({"scope": None}, "oom.scope: 'cgroup' here, None there"),
        ({"victim": {"pid": 7, "comm": "x"}}, "oom.victim: {'pid': 7} here, "),
    ],
)
def test_each_key_is_compared(there: dict[str, Any], said: str) -> None:
    (only,) = found([OOM, OOM], [OOM, {**OOM, **there}])
    assert only.startswith(said)


def test_a_key_more_is_a_difference() -> None:
    (only,) = found([OOM], [{**OOM, "more": None}])
    assert "the keys" in only


def test_a_missing_event_is_a_difference() -> None:
    assert found([OOM, OOM], [OOM]) == ["oom: 2 here, 1 there"]
    assert found([], [OOM]) == ["oom: 0 here, 1 there"]


def test_others_are_not_compared() -> None:
    assert found([OOM, {**OOM, "victim": {"pid": 8}}], [OOM]) == []


def test_only_a_documented_null_is_let_pass() -> None:
    null = found([OOM], [{**OOM, "scope": None}])
    assert undocumented(null, "stap") == []
    assert undocumented(null, "bcc") == null
    for there in ({"scope": "node"}, {"victim": None}):
        wrong = found([OOM], [{**OOM, **there}])
        assert wrong and undocumented(wrong, "stap") == wrong
    told_there_alone = found([{**OOM, "scope": None}], [OOM])
    assert undocumented(told_there_alone, "stap") == told_there_alone


def test_drops_at_a_queue_are_added_up() -> None:
    one, two, other = ({**DROP, "count": 1}, {**DROP, "count": 2}, {**DROP, "count": 5})
    other["queue"] = "accept"
    assert found([one, two, other], [{**DROP, "count": 3}, other]) == []
    assert found([one, two], [one]) == ["backlog_drop.count: 3 here, 1 there"]
    assert counts([one, two, other], STAGED) == {"backlog_drop": 2}
    assert one["count"] == 1


def test_free_lists_are_compared_but_for_their_numbers() -> None:
    later = {
        "buddyinfo": [{"node": 0, "zone": "DMA", "free": [3, 4]}],
        "reading": "order 10: 9 MiB free, 4 MiB of it in blocks of 4 MiB or more: kept back",
    }
    assert found([FAILURE], [{**FAILURE, **later}]) == []
    assert found([FAILURE], [{**FAILURE, "buddyinfo": None, "reading": None}]) == []
    for wrong in (
        {"buddyinfo": [{"node": 1, "zone": "DMA", "free": [1, 2]}]},
        {"buddyinfo": [{"node": 0, "zone": "DMA", "free": [1]}]},
        {"reading": "order 9: 5 MiB free"},
    ):
        assert len(found([FAILURE], [{**FAILURE, **wrong}])) == 1
