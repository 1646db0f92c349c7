# SPDX-License-Identifier: Apache-2.0
"""The judge of tests.cluster.churn: what is right, wrong, unnamed and missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.churn import FRESH, SETTLED, SLACK_NS, Asked, Tally, Witness

ADDRESS, HOST, PORT = "198.18.0.2", "198.18.0.1", 40000


@pytest.fixture
def witness() -> Iterator[Witness]:
    """Two pods had the same address, and were asked from the same port."""
    judge = Witness(Path("/nowhere"))
    for uid, began, age in (("first", 1000, SETTLED), ("second", 5 * SLACK_NS, FRESH)):
        asked = Asked(uid, ADDRESS, PORT, began, began + 10, age)
        judge._asked.setdefault((ADDRESS, PORT), []).append(asked)
        judge.tally.asked[age] += 1
    yield judge
    judge.__exit__(None, None, None)


def reset(direction: str, boot_ns: int, **pods: str | None) -> dict[str, Any]:
    """`own`, `pod` and `host` are uids of who is named: whose event it is, and at both ends."""
    named = {side: {"uid": uid} if uid else None for side, uid in pods.items()}
    pod = {"address": ADDRESS, "port": 81, "pod": named.get("pod")}
    host = {"address": HOST, "port": PORT, "pod": named.get("host")}
    sent = direction == "sent"
    ends = {"local": pod, "remote": host} if sent else {"local": host, "remote": pod}
    event = {"kind": "tcp_reset", "direction": direction, "boot_ns": boot_ns}
    return {**event, "pod": named.get("own"), **ends}


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (reset("sent", 1005, own="first", pod="first"), "right"),
        (reset("received", 1005, pod="first"), "right"),
        (reset("sent", 1005), "unnamed"),
        (reset("received", 1005), "unnamed"),
        (reset("sent", 1005, own="second", pod="second"), "wrong"),
        (reset("sent", 1005, own="first", pod="second"), "wrong"),
        (reset("sent", 1005, own="first", pod="first", host="first"), "wrong"),
        (reset("received", 1005, own="first", pod="first"), "wrong"),
        (reset("received", 1005, pod="second"), "wrong"),
    ],
)
def test_what_is_told_of_a_reset(witness: Witness, event: dict[str, Any], told: str) -> None:
    witness._judge(event)
    assert witness.tally.told == {(SETTLED, told): 1}
    assert witness.tally.missing == 3
    assert not witness.tally.good


def test_an_address_that_comes_back_is_told_apart_by_the_time(witness: Witness) -> None:
    for uid, boot_ns in (("first", 1005), ("second", 5 * SLACK_NS + 5)):
        witness._judge(reset("sent", boot_ns, own=uid, pod=uid))
        witness._judge(reset("received", boot_ns, pod=uid))
    assert witness.tally.told == {(SETTLED, "right"): 2, (FRESH, "right"): 2}
    assert witness.tally.good


def test_nobody_else_is_judged(witness: Witness) -> None:
    witness._judge({"kind": "lost", "boot_ns": 1005})
    witness._judge(reset("sent", 3 * SLACK_NS, own="third", pod="third"))
    assert not witness.tally.told


def test_a_fresh_pod_may_be_unnamed_and_a_settled_one_not(witness: Witness) -> None:
    tally = witness.tally
    tally.told.update({(FRESH, "unnamed"): 2, (SETTLED, "right"): 2})
    assert tally.good
    tally.told.update({(SETTLED, "unnamed"): 1, (SETTLED, "right"): -1})
    assert not tally.good


def test_it_comes_through_a_port_as_it_was() -> None:
    tally = Tally(pods=3, late=1, lost=2, mistakes=["x"])
    tally.asked[FRESH] += 4
    tally.told[SETTLED, "wrong"] += 1
    assert Tally.from_facts(tally.as_facts()) == tally
