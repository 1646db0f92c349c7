# SPDX-License-Identifier: Apache-2.0
"""Whose reset it was, while pods are replaced; `python -m tests.cluster.churn` replaces more."""

from __future__ import annotations

from tests.cluster.churn import churn
from tests.support.containerd import Containerd

PODS = 53


def test_resets_of_pods_that_are_replaced() -> None:
    with Containerd() as containerd:
        tally = churn(containerd, PODS)
    assert tally.pods == PODS
    assert tally.good, (tally.in_words(), tally.mistakes[:3])
