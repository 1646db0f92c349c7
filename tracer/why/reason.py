# SPDX-License-Identifier: Apache-2.0
"""What a module of `tracer/why/reasons/` says of itself, and what it is asked about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tracer.model.event import Event
from tracer.why.entry import LATE_NS, Entry
from tracer.why.story import Story

# A kubelet acts on the last failure of a probe at once; it may wait for a busy machine.
AT_ONCE_NS = 1_000_000_000

# Of a longer rhythm too much else may have happened before the next time.
SHORT_PERIOD_NS = 2_500_000_000


@dataclass(frozen=True, slots=True)
class Reason:
    """`words` go before the verdict; `what` and `inferred_from` make the doubt: that … is told
    by …."""

    id: str
    words: str
    what: str
    inferred_from: str
    evidence: tuple[Entry, ...]
    remedy: str


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop of a container: `first` is the signal that it began with, `hook` a command that ran
    until then, and `decided_ns` when it was decided at the latest."""

    story: Story
    first: Entry
    hook: Event | None
    decided_ns: int

    def came_just_before(self, entry: Entry) -> bool:
        """Of alike events the last."""
        return 0 <= self.decided_ns - entry.last.boot_ns <= AT_ONCE_NS

    def ceased(self, entry: Entry) -> bool:
        """What had come in a short rhythm has not come again since: a kubelet asks no more when it
        has decided, and a busy node carries that out late."""
        period = entry.period_ns
        if period is None or period > SHORT_PERIOD_NS:
            return False
        return 0 <= self.decided_ns - entry.last.boot_ns <= period + LATE_NS


@dataclass(frozen=True, slots=True)
class Finder:
    """`order` is that of the words, if several reasons hold."""

    order: int
    find: Callable[[Stop], Reason | None]
