# SPDX-License-Identifier: Apache-2.0
"""Like events, combined into one entry of a timeline."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic

from tracer.identity.netns import owner_of
from tracer.model.event import B, Event
from tracer.probes.resets import ResetBody
from tracer.probes.signals import SignalBody
from tracer.why.sorts import End, Sort

MAX_ALIKE = 16  # entries in one group

MAX_GAPS = 8  # between alike events

MAX_OTHERS = 16  # kinds of observations at the other ends of an entry's connections

# A kubelet probes at most once a second, with some jitter.
SHORTEST_PERIOD_NS, LATE_NS = 700_000_000, 500_000_000

SIGKILL = 9


@dataclass(slots=True, eq=False)
class Entry(Generic[B]):
    """Like events: the first, the last and their number (for `backlog_drop` the number of
    connection attempts).

    `gaps` are the last intervals between them, kept where they may have a rhythm. For resets `sort`
    is the sort of each, `others` the observations at the other ends, and `asked` the end that the
    clients had asked if another one answered; `folded` marks an entry of several services. `size`
    is roughly its size in bytes. Compared by identity.
    """

    event: Event[B]
    last: Event[B]
    count: int
    gaps: tuple[int, ...] = ()
    sort: Sort | None = None
    others: dict[Hashable, OtherEnd] = field(default_factory=dict)
    asked: End | None = None
    folded: bool = False
    size: int = 0

    @property
    def boot_ns(self) -> int:
        return self.event.boot_ns

    @property
    def body(self) -> B:
        return self.event.body

    @property
    def period_ns(self) -> int | None:
        """The period of the events, if they are regular and no faster than a kubelet's probes.
        Single late events are tolerated."""
        if len(self.gaps) < 2:
            return None
        period = sorted(self.gaps)[len(self.gaps) // 2]
        near = [gap for gap in self.gaps if abs(gap - period) <= max(period // 4, LATE_NS)]
        regular = len(near) * 3 >= len(self.gaps) * 2
        return period if regular and period >= SHORTEST_PERIOD_NS else None

    def meet(self, own: Event[ResetBody], other: Event[ResetBody], sort: Sort) -> None:
        """Records that one of its resets was also seen at the other end, where it was of this
        sort."""
        place = other.place
        like = sort, other.body["meaning"]
        key = (*like, owner_of(place) if place else None)
        if key not in self.others and len(self.others) >= MAX_OTHERS:
            key = (*like, None)
        count = self.others[key].count if key in self.others else 0
        self.others[key] = OtherEnd(own, other, sort, count + 1)


@dataclass(frozen=True, slots=True)
class OtherEnd:
    """Resets seen at both ends: the last one as reported here and there, its sort there, and their
    number."""

    own: Event[ResetBody]
    event: Event[ResetBody]
    sort: Sort
    count: int


def target_state(event: Event[SignalBody]) -> str | None:
    """The state of a signal's target. Older recordings and some backends do not have it."""
    return event.body.get("target_state")


def took_effect(entry: Entry[SignalBody]) -> bool:
    """Whether a signal was neither ignored nor refused."""
    return entry.body["signal"]["result"] in ("delivered", "lost_info", None)
