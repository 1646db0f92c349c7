# SPDX-License-Identifier: Apache-2.0
"""Whose reset it was, while pods are replaced; `python -m tests.cluster.churn` replaces more."""

from __future__ import annotations

from collections import Counter

from tests.cluster.churn import FRESH, SETTLED, Tally, churn
from tests.support.containerd import Containerd

PODS = 53


def test_resets_of_pods_that_are_replaced() -> None:
    with Containerd() as containerd:
        tally = churn(containerd, PODS)
    assert tally.pods == PODS
    assert tally.good, (tally.in_words(), tally.mistakes[:3])


def test_tallies_of_several_guests_are_one() -> None:
    one = Tally(2, Counter({FRESH: 4}), Counter({(FRESH, "right"): 8}), lost=1)
    other = Tally(3, Counter({SETTLED: 6}), Counter({(FRESH, "wrong"): 1}), 2, mistakes=["that"])
    both = sum((one, other), Tally())
    assert both == Tally(
        5,
        Counter({FRESH: 4, SETTLED: 6}),
        Counter({(FRESH, "right"): 8, (FRESH, "wrong"): 1}),
        late=2,
        lost=1,
        mistakes=["that"],
    )
    assert Tally.from_facts(both.as_facts()) == both
