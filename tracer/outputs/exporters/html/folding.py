# SPDX-License-Identifier: Apache-2.0
"""Folds alike events, so that a page of a million of them is no larger than one of a thousand.

Events of one key that lie within a short time are one row. When there are too many rows, that time
grows; when there are too many keys, so does what counts as alike. The number of events, and the
first and the last of each row, always stay exact.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from tracer.model.event import Event, Place
from tracer.probes import Alike
from tracer.session.patterns import Pattern, Sighting

# The page's rows: twice as many are held before they are folded again.
MAX_ROWS = 2500
# Patterns of like records of which the group is known.
MAX_PATTERNS = 140_000
# The time that one row may take when rows are folded for the first time.
FIRST_NS = 1_000_000
FOREVER_NS = 1 << 64


@dataclass(slots=True)
class Row:
    """`count` alike events from the first to the last."""

    event: Event
    first_ns: int
    last_ns: int
    alarm: bool
    count: int = 1


class Folding:
    """`alarm` says whether an event must stand out, `alike` how its probe groups it. `events`
    counts all events; `close_ns`, the time that one row may take, and `coarseness` say how much was
    folded."""

    def __init__(
        self,
        alarm: Callable[[Event], bool],
        alike: Callable[[Event], Alike],
        most: int = MAX_ROWS,
    ) -> None:
        self.events = 0
        self.close_ns = 0
        self.coarseness = 0
        self._alarm = alarm
        self._alike = alike
        self._most = most
        self._groups: dict[Hashable, list[Row]] = {}
        self._rows = 0
        self._of_patterns: dict[Pattern, list[Row]] = {}

    def add(self, event: Event) -> None:
        alarm = self._alarm(event)
        group = self._groups.setdefault(self._key(event, alarm), [])
        self._put(group, event, event.boot_ns, alarm)

    def sight(self, sightings: Iterable[Sighting]) -> None:
        """As `add` for each; most are recognised by their pattern."""
        groups, before = self._of_patterns, 0
        for boot_ns, pattern in sightings:
            group = groups.get(pattern)
            if group is not None:
                last = group[-1]
                if 0 <= boot_ns - last.first_ns <= self.close_ns:
                    if boot_ns > last.last_ns:
                        last.last_ns = boot_ns
                    last.count += 1
                    before += 1
                    continue
                self._put(group, pattern.event, boot_ns, last.alarm)
            else:
                self._learn(boot_ns, pattern)
        self.events += before

    def _learn(self, boot_ns: int, pattern: Pattern) -> None:
        alarm = self._alarm(pattern.event)
        key = self._key(pattern.event, alarm)
        group = self._groups.setdefault(key, [])
        self._put(group, pattern.event, boot_ns, alarm)
        if len(self._of_patterns) >= MAX_PATTERNS:
            self._of_patterns.clear()
        if self._groups.get(key) is group:  # else they were folded just now
            self._of_patterns[pattern] = group

    def rows(self) -> list[Row]:
        """In order of time."""
        if self._rows > self._most:
            self._fold()
        every = [row for group in self._groups.values() for row in group]
        return sorted(every, key=lambda row: (row.first_ns, row.last_ns))

    def _put(self, group: list[Row], like: Event, boot_ns: int, alarm: bool) -> None:
        self.events += 1
        last = group[-1] if group else None
        if last is not None and 0 <= boot_ns - last.first_ns <= self.close_ns:
            last.last_ns = max(boot_ns, last.last_ns)
            last.count += 1
            return
        group.append(Row(like.at(boot_ns), boot_ns, boot_ns, alarm))
        self._rows += 1
        if self._rows >= 2 * self._most:
            self._fold()

    def _fold(self) -> None:
        """Until there are few enough."""
        self._of_patterns.clear()
        while self._rows > self._most:
            if len(self._groups) > self._most // 2 and self.coarseness < _COARSEST:
                self.coarseness += 1
            elif self.close_ns >= FOREVER_NS:
                if self.coarseness >= _COARSEST:
                    return
                self.coarseness += 1
            else:
                self.close_ns = min(FOREVER_NS, max(FIRST_NS, self.close_ns * 2))
            self._fold_once()

    def _fold_once(self) -> None:
        rows = sorted(
            (row for group in self._groups.values() for row in group), key=lambda row: row.first_ns
        )
        self._groups, self._rows = {}, 0
        for row in rows:
            group = self._groups.setdefault(self._key(row.event, row.alarm), [])
            last = group[-1] if group else None
            if last is not None and row.last_ns - last.first_ns <= self.close_ns:
                last.last_ns = max(last.last_ns, row.last_ns)
                last.count += row.count
            else:
                group.append(row)
                self._rows += 1

    def _key(self, event: Event, alarm: bool) -> Hashable:
        """What stands out is never folded into what does not."""
        kind, at = event.kind, self.coarseness
        if at >= _COARSEST:
            return kind, alarm
        place, by = _who(event.place), _who(event.by_place)
        if at >= _BY_PLACE:
            return kind, alarm, place
        alike = self._alike(event)
        if at >= _BY_GROUP:
            return kind, alarm, place, alike.group
        return kind, alarm, place, by, alike.group, alike.alike


_BY_GROUP, _BY_PLACE, _COARSEST = 1, 2, 3


def _who(place: Place | None) -> str | None:
    return (place.identity.container_id or place.identity.pod_uid) if place else None
