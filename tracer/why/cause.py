# SPDX-License-Identifier: Apache-2.0
"""What each module of `tracer/why/causes/` declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tracer.why.story import Story
from tracer.why.verdict import Verdict

# The verdict id of a container that ends the same way again and again.
RESTART_LOOP = "restart_loop"
ALL_OF_AN_END = frozenset(("signals", "exits", "oom"))


@dataclass(frozen=True)
class Cause:
    """One cause of an end or of harm.

    `specificity` orders causes that hold at the same time: an end outranks harm before it, and
    naming the culprit outranks stating the fact. Without the events of the probes in `rests_on`
    this cause may be wrong. `was_ordered` marks stops that the runtime or the kubelet was told to
    make, so their reasons are looked up. `headline` is a name for the sort of thing, as Kubernetes'
    Events have reasons; empty is the verdict's id in their spelling.
    """

    specificity: int
    judge: Callable[[Story], Verdict | None]
    rests_on: frozenset[str] = ALL_OF_AN_END
    was_ordered: bool = False
    headline: str = ""
