# SPDX-License-Identifier: Apache-2.0
"""What a module of `tracer/why/causes/` says of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tracer.why.story import Story
from tracer.why.verdict import Verdict

# Of the verdict that an end is like those before it.
RESTART_LOOP = "restart_loop"
ALL_OF_AN_END = frozenset(("signals", "exits", "oom"))


@dataclass(frozen=True)
class Cause:
    """`specificity` orders causes that hold at the same time: an end counts more than what hurt
    before it, and who did it more than that it was done. `rests_on` are the probes without whose
    events this cause may be the wrong one. `was_ordered` says that somebody told the runtime or the
    kubelet to do it, so that the reason is looked for."""

    specificity: int
    judge: Callable[[Story], Verdict | None]
    rests_on: frozenset[str] = ALL_OF_AN_END
    was_ordered: bool = False
