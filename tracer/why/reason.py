# SPDX-License-Identifier: Apache-2.0
"""What each module of `tracer/why/reasons/` declares, and the stop that it judges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tracer.model.event import Event
from tracer.probes.exits import ExitBody
from tracer.probes.signals import SignalBody
from tracer.why.entry import LATE_NS, Entry
from tracer.why.story import Story

# A kubelet acts at once on a probe's last failure, unless the machine is busy.
AT_ONCE_NS = 1_000_000_000

# With a longer period, too much else may have happened before the next event.
SHORT_PERIOD_NS = 2_500_000_000


@dataclass(frozen=True, slots=True)
class Reason:
    """`words` go before the verdict. `what` and `inferred_from` form the doubt "that … is told by
    …". `seen` is what the kernel itself saw of it, in a clause, if that says more."""

    id: str
    words: str
    what: str
    inferred_from: str
    evidence: tuple[Entry, ...]
    remedy: str
    seen: str = ""


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop of a container. `first` is its first signal, `hook` a command that ran until then, and
    `decided_ns` the latest moment at which it was decided."""

    story: Story
    first: Entry[SignalBody]
    hook: Event[ExitBody] | None
    decided_ns: int

    def came_just_before(self, entry: Entry) -> bool:
        """Whether the entry's last event came just before the decision."""
        return 0 <= self.decided_ns - entry.last_ns <= AT_ONCE_NS

    def ceased(self, entry: Entry) -> bool:
        """Whether events with a short period stopped coming. A kubelet that has decided probes no
        more, and a busy node carries the decision out late."""
        period = entry.period_ns
        if period is None or period > SHORT_PERIOD_NS:
            return False
        return 0 <= self.decided_ns - entry.last_ns <= period + LATE_NS


@dataclass(frozen=True, slots=True)
class Finder:
    """`order` is the position of the words if several reasons hold."""

    order: int
    find: Callable[[Stop], Reason | None]
