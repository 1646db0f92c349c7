# SPDX-License-Identifier: Apache-2.0
"""A table of what is known at once, fitted to the terminal: pods, lives of containers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tracer.outputs.escape import escape
from tracer.outputs.table import fit, lay_out
from tracer.outputs.terminal import cells, terminal_width
from tracer.probes.columns import UNKNOWN

Value = str | int | None


class Column(NamedTuple):
    """A `tracer.outputs.table.Width`."""

    title: str
    narrow: int
    rank: int = 0
    width: int = sys.maxsize


def show(
    columns: Sequence[Column], rows: Iterable[Sequence[Value]], *, wide: bool, headers: bool
) -> None:
    """With `wide` nothing is cut."""
    shown = [[column.title for column in columns]] if headers else []
    shown += [[_shown(value) for value in row] for row in rows]
    if not shown:
        return
    needs = [max(map(cells, texts)) for texts in zip(*shown, strict=True)]
    narrow = [c._replace(narrow=min(c.narrow, n)) for c, n in zip(columns, needs, strict=True)]
    terminal = None if wide else terminal_width()
    widths = lay_out(narrow, needs, terminal)
    for line in shown:
        print(fit(line, widths, terminal))


def _shown(value: Value) -> str:
    return UNKNOWN if value is None else escape(str(value))
