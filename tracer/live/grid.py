# SPDX-License-Identifier: Apache-2.0
"""Rows as columns that fit: each as wide as the values seen in it; the least important ones are
left out if there is no room."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.text import Text

from tracer.live.look import fitted
from tracer.outputs.table import GAP, lay_out
from tracer.outputs.terminal import cells

R = TypeVar("R")


@dataclass(frozen=True)
class GridColumn(Generic[R]):
    """Like `tracer.probes.columns.Column`, for rows of any kind. `value` returns printable text; it
    gets the column's width, for values that can be drawn in any width."""

    title: str
    value: Callable[[R, int], str]
    narrow: int
    width: int
    rank: int = 0
    style: str = ""


class Grid(Generic[R]):
    """`style` applies to the whole row."""

    def __init__(self, columns: Sequence[GridColumn[R]], style: Callable[[R], str]) -> None:
        self._columns = columns
        self._style = style
        self._needs = [cells(column.title) for column in columns]

    def measure(self, rows: Iterable[R]) -> bool:
        """Returns whether columns may have become wider."""
        before = list(self._needs)
        for row in rows:
            for at, column in enumerate(self._columns):
                self._needs[at] = max(self._needs[at], cells(column.value(row, column.narrow)))
        return self._needs != before

    def titles(self, width: int) -> Text:
        return self._line([(c.title, "") for c in self._columns], width, "dim")

    def paint(self, row: R, width: int) -> Text:
        widths = self._widths(width)
        values = [
            ("" if column_width is None else column.value(row, column_width), column.style)
            for column, column_width in zip(self._columns, widths, strict=True)
        ]
        return self._line(values, width, self._style(row))

    def _widths(self, width: int) -> list[int | None]:
        return lay_out(self._columns, self._needs, width)

    def _line(self, values: Sequence[tuple[str, str]], width: int, style: str) -> Text:
        line = Text(style=style, no_wrap=True, end="")
        for (value, own), column_width in zip(values, self._widths(width), strict=True):
            if column_width is not None:
                if line:
                    line.append(GAP)
                line.append_text(fitted(value, column_width, own))
        line.truncate(width, pad=True)
        return line
