# SPDX-License-Identifier: Apache-2.0
"""Like events, combined into one entry of a timeline."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic

from tracer.identity.netns import owner_of
from tracer.model.event import B, Event
from tracer.probes.resets import ResetBody
from tracer.probes.signals import SignalBody
from tracer.why.sorts import End, Sort

MAX_ALIKE = 16  # entries in one group

MAX_GAPS = 8  # between alike events

MAX_FOLDED = 1024  # services of one entry that are told apart

MAX_OTHERS = 16  # kinds of observations at the other ends of an entry's connections

# A kubelet probes at most once a second, with some jitter.
SHORTEST_PERIOD_NS, LATE_NS = 700_000_000, 500_000_000

SIGKILL = 9


@dataclass(slots=True, eq=False)
class Entry(Generic[B]):
    """Like events: the first, the last and their number (for `backlog_drop` the number of
    connection attempts).

    `boot_ns` and `last_ns` are the times of the first and the last. `like_first` and `like_last`
    are these events but for their times: in a storm, most are never looked at. `single` says that
    there was one event.

    `gaps` are the last intervals between them, kept where they may have a rhythm. For resets `sort`
    is the sort of each, `met` the observations at the other ends, and `asked` the end that the
    clients had asked if another one answered. Of what may be folded, `services` are the hashes of
    the services that it is of, up to `MAX_FOLDED`; `folded` marks an entry that several share.
    `size` is roughly its size in bytes. Compared by identity.
    """

    like_first: Event[B]
    boot_ns: int
    like_last: Event[B]
    last_ns: int
    count: int
    gaps: tuple[int, ...] = ()
    sort: Sort | None = None
    met: dict[Hashable, OtherEnd] | None = None
    asked: End | None = None
    folded: bool = False
    services: set[int] | None = None
    size: int = 0
    single: bool = True

    @property
    def event(self) -> Event[B]:
        self.like_first = self.like_first.at(self.boot_ns)
        return self.like_first

    @property
    def last(self) -> Event[B]:
        if self.single:
            return self.event
        self.like_last = self.like_last.at(self.last_ns)
        return self.like_last

    @property
    def others(self) -> Mapping[Hashable, OtherEnd]:
        return self.met or {}

    @property
    def body(self) -> B:
        return self.like_first.body

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

    def repeat(self, like: Event[B], boot_ns: int, count: int) -> None:
        """Adds later events, of which the last is `like` this one but for its time."""
        if self.single or boot_ns >= self.last_ns:
            self.like_last, self.last_ns, self.single = like, boot_ns, False
        self.count += count

    def meet(self, own: Event[ResetBody], other: Event[ResetBody], sort: Sort) -> None:
        """Records that one of its resets was also seen at the other end, where it was of this
        sort."""
        place = other.place
        like = sort, other.body["meaning"]
        key = (*like, owner_of(place) if place else None)
        if key not in self.others and len(self.others) >= MAX_OTHERS:
            key = (*like, None)
        count = self.others[key].count if key in self.others else 0
        self.met = self.met or {}
        self.met[key] = OtherEnd(own, other, sort, count + 1)


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
