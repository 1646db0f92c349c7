# SPDX-License-Identifier: Apache-2.0
"""Events that are alike, as one entry of a timeline."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic

from tracer.identity.netns import owner_of
from tracer.model.event import B, Event
from tracer.why.sorts import End, Sort

MAX_ALIKE = 16  # entries in one group

MAX_GAPS = 8  # between alike events

MAX_OTHERS = 16  # sorts of what was seen at the other ends of an entry's connections

# A kubelet probes once a second or less often, and each time a little earlier or later.
SHORTEST_PERIOD_NS, LATE_NS = 700_000_000, 500_000_000

SIGKILL = 9


@dataclass(slots=True, eq=False)
class Entry(Generic[B]):
    """Events that are alike: the first one, the last one, and how many (for `backlog_drop` how many
    attempts to connect). `gaps` are the last times between them, where they may have a rhythm. Of
    resets `sort` is that of each, `others` what was seen at the other ends, `asked` whom the
    clients had asked where somebody else answered; `folded` says that they are of several services.
    An entry equals only itself. `size` is about how many bytes it takes."""

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
        """After how long they come again, if that is regular and no faster than a kubelet probes.
        Now and then one may be late."""
        if len(self.gaps) < 2:
            return None
        period = sorted(self.gaps)[len(self.gaps) // 2]
        near = [gap for gap in self.gaps if abs(gap - period) <= max(period // 4, LATE_NS)]
        regular = len(near) * 3 >= len(self.gaps) * 2
        return period if regular and period >= SHORTEST_PERIOD_NS else None

    def meet(self, own: Event, other: Event, sort: Sort) -> None:
        """One of its resets was seen at the other end, too, and was of this sort there."""
        place = other.place
        like = sort, other.body["meaning"]
        key = (*like, owner_of(place) if place else None)
        if key not in self.others and len(self.others) >= MAX_OTHERS:
            key = (*like, None)
        count = self.others[key].count if key in self.others else 0
        self.others[key] = OtherEnd(own, other, sort, count + 1)


@dataclass(frozen=True, slots=True)
class OtherEnd:
    """Resets that were seen at both ends: the last one as it was told here and there, of what sort
    it was there, and how many."""

    own: Event
    event: Event
    sort: Sort
    count: int


def target_state(event: Event) -> str | None:
    """What the target of a signal was in. Older recordings and some backends do not tell."""
    state: str | None = event.body.get("target_state")
    return state


def took_effect(entry: Entry) -> bool:
    """Whether a signal was not ignored or refused."""
    return entry.body["signal"]["result"] in ("delivered", "lost_info", None)
