# SPDX-License-Identifier: Apache-2.0
"""The table: one line an event, fitted to the terminal, what matters in colour and with a sign.

Columns share the width by what the probe declared. When the terminal is too narrow for all of them
the least important ones go; into a pipe nothing is cut. A line that must stand out begins with `!`,
with or without colour.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from typing import TextIO

import click

from tracer.event import Clock, Event
from tracer.views.columns import UNKNOWN, Column
from tracer.views.escape import escape

GAP = "  "
USUAL_WIDTH = 140
TIME = Column("TIME", lambda e: None, 12, 12)
SIGN = Column("", lambda e: None, 1, 1)


class Table:
    """`width` is the terminal's, or None to cut nothing. `alarm` picks the lines that stand out."""

    def __init__(
        self,
        out: TextIO,
        clock: Clock,
        columns: Sequence[Column],
        alarm: Callable[[Event], bool],
        *,
        wide: bool,
        colour: bool,
        headers: bool,
        fit: bool,
    ) -> None:
        self._out = out
        self._clock = clock
        self._alarm = alarm
        self._colour = colour
        self._headers = headers
        self._fit = fit and not wide
        self._all = [TIME, SIGN] + [c for c in columns if wide or not c.wide]
        self._width: int | None = -1
        self._layout: list[tuple[Column, int]] = []
        self._lines: list[str] = []

    def event(self, event: Event) -> None:
        if event.kind == "lost":
            self._note(event)
            return
        alarm = self._alarm(event)
        cells = []
        for column, width in self._columns():
            if column is TIME:
                value: str | None = _clock_time(self._clock, event.boot_ns)
            elif column is SIGN:
                value = "!" if alarm else ""
            else:
                value = column.value(event)
            cells.append(self._cell(UNKNOWN if value is None else escape(value), width))
        line = GAP.join(cells).rstrip()
        self._lines.append(self._style(line, fg="red", bold=True) if alarm else line)

    def flush(self) -> None:
        if self._headers:
            self._columns()
        if self._lines:
            self._out.write("\n".join(self._lines) + "\n")
            self._out.flush()
            self._lines.clear()

    def _note(self, event: Event) -> None:
        body = event.body
        line = f"!! {body['count']} events of {body['probe']} were lost here: "
        line += "they came faster than they could be read"
        self._lines.append(self._style(line, fg="yellow", bold=True))

    def _style(self, text: str, fg: str | None = None, bold: bool = False) -> str:
        return click.style(text, fg=fg, bold=bold) if self._colour else text

    def _columns(self) -> list[tuple[Column, int]]:
        """Looks at the terminal again whenever lines are due, so that a resized window is
        filled."""
        width = shutil.get_terminal_size().columns if self._fit else None
        if width != self._width:
            self._width = width
            self._layout = lay_out(self._all, width)
            if self._headers:
                titles = [self._cell(c.title, w) for c, w in self._layout]
                self._lines.append(self._style(GAP.join(titles).rstrip(), bold=True))
        return self._layout

    def _cell(self, text: str, width: int) -> str:
        used = cells(text)
        if used > width and self._width is not None:
            text, used = shorten(text, width), width
        return text + " " * (width - used)


def lay_out(columns: Sequence[Column], width: int | None) -> list[tuple[Column, int]]:
    """Which columns fit and how wide each is. With None all stay, aligned as well as a usual width
    allows."""
    kept = list(columns)
    unlimited, width = width is None, width or USUAL_WIDTH
    while not unlimited and sum(c.narrow for c in kept) + len(GAP) * (len(kept) - 1) > width:
        droppable = [c for c in kept if c.rank]
        if not droppable:
            break
        kept.remove(max(droppable, key=lambda c: c.rank))
    widths = [c.narrow for c in kept]
    spare = width - sum(widths) - len(GAP) * (len(kept) - 1)
    while spare > 0:
        growing = [i for i, c in enumerate(kept) if widths[i] < c.width]
        if not growing:
            break
        for i in growing[:spare]:
            widths[i] += 1
        spare -= len(growing[:spare])
    return list(zip(kept, widths, strict=True))


def cells(text: str) -> int:
    """Terminal cells that printable text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def shorten(text: str, width: int) -> str:
    """Cut in the middle: both ends of a pod's name tell something."""
    if width < 2:
        return "…"[:width]
    tail = (width - 1) // 2
    head = width - 1 - tail
    if text.isascii():
        return f"{text[:head]}…{text[-tail:] if tail else ''}"
    while cells(text[:head] + "…" + text[-tail:]) > width and head > 1:
        head -= 1
        tail -= tail > 1
    cut = f"{text[:head]}…{text[-tail:]}"
    return cut + " " * (width - cells(cut))


def _clock_time(clock: Clock, boot_ns: int) -> str:
    """Local time of day to the millisecond."""
    seconds, nanoseconds = divmod(boot_ns + clock.offset_ns, 1_000_000_000)
    return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{nanoseconds // 1_000_000:03d}"
