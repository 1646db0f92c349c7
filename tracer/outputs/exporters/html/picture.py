# SPDX-License-Identifier: Apache-2.0
"""The timeline as it is without the script, and on paper: the whole span, marks that would cover
each other as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tracer.outputs.exporters.html.lanes import Lane

# In the units of the drawing. The script draws with the same ones.
WIDTH, TOP, LANE, MARGIN = 1000, 26, 34, 10
# Marks closer than this are one.
SLOT = 7
MAX_ARROWS = 60


@dataclass(slots=True)
class Drawn:
    """A lane's title, its life as a bar, and its marks."""

    y: int
    title: str
    bar: tuple[float, float] | None
    marks: list[dict[str, Any]] = field(default_factory=list)


class Picture:
    def __init__(
        self,
        lanes: Sequence[Lane],
        rows: Sequence[Sequence[Any]],
        spans: Sequence[Sequence[Any]],
        verdicts: Sequence[Sequence[int]],
        length: int,
    ) -> None:
        self._length = max(1, length)
        shown = min(len(lanes), max((lane.number for lane in lanes), default=-1) + 1)
        self.width = WIDTH
        self.height = TOP + LANE * max(1, shown)
        self.lanes = [
            Drawn(TOP + LANE * n, lanes[n].title, self._bar(lanes[n])) for n in range(shown)
        ]
        self._mark(rows, verdicts)
        self.spans = [
            {"x": self._x(begin), "width": max(2.0, self._x(end) - self._x(begin)), "title": text}
            for begin, end, text in spans
        ]
        self.arrows = self._arrows(rows)
        self.ends = [(0, MARGIN), (WIDTH - MARGIN, MARGIN)]

    def _x(self, at: float) -> float:
        inside = min(1.0, max(0.0, at / self._length))
        return round(MARGIN + inside * (WIDTH - 2 * MARGIN), 1)

    def _bar(self, lane: Lane) -> tuple[float, float] | None:
        """Its left end and its width."""
        if lane.drawn is None:
            return None
        began, ended = lane.drawn
        begin, end = self._x(began), self._x(self._length if ended is None else ended)
        return begin, max(1.0, round(end - begin, 1))

    def _mark(self, rows: Sequence[Sequence[Any]], verdicts: Sequence[Sequence[int]]) -> None:
        slots: dict[tuple[int, int, int], dict[str, Any]] = {}
        for first, _, count, lane, _, _, alarm, *_ in rows:
            x = self._x(first)
            mark = slots.setdefault((lane, alarm, int(x // SLOT)), {"x": x, "count": 0})
            mark["sign"] = "alarm" if alarm else "event"
            mark["count"] += count
        for at, lane in verdicts:
            mark = {"x": self._x(at), "sign": "verdict", "count": 1}
            slots[lane, 2, len(slots)] = mark
        for (lane, rank, _), mark in sorted(slots.items(), key=lambda one: one[0][1]):
            if 0 <= lane < len(self.lanes):
                self.lanes[lane].marks.append({**mark, "rank": rank})

    def _arrows(self, rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
        found: dict[tuple[int, int, int], dict[str, Any]] = {}
        for first, _, _, lane, source, *_ in rows:
            if source < 0 or len(found) >= MAX_ARROWS:
                continue
            x = self._x(first)
            begin, end = TOP + LANE * source + 22, TOP + LANE * lane + 22
            end += -6 if end > begin else 6
            found.setdefault((lane, source, int(x // SLOT)), {"x": x, "begin": begin, "end": end})
        return list(found.values())
