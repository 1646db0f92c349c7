# SPDX-License-Identifier: Apache-2.0
"""The table: one line an event, fitted to the terminal, with important lines marked and coloured.

Columns are as wide as their contents. If the terminal is too narrow, the least important columns go
first; if that is not enough, lines are folded. In a pipe nothing is cut. A line that must stand out
begins with `!`, with or without colour.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TextIO

import click

from tracer.model.event import Clock, Event, LostBody, is_loss
from tracer.outputs.escape import escape
from tracer.outputs.terminal import cells, folded, shorten
from tracer.outputs.whole import write_text
from tracer.probes.columns import UNKNOWN, Column

GAP = "  "
TIME = Column("TIME", lambda e: None, 12, 12)
SIGN = Column("", lambda e: None, 1, 1)


class Width(Protocol):
    """The attributes of a `Column` that decide its width."""

    @property
    def narrow(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def rank(self) -> int: ...


class Table:
    """`fit` cuts lines to the terminal; otherwise nothing is cut. `alarm` picks the lines that
    stand out. Columns begin narrow and grow with their contents, the important ones first."""

    def __init__(
        self,
        out: TextIO,
        clock: Clock,
        columns: Sequence[Column],
        alarm: Callable[[Event[Any]], bool],
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
        self._titles_due = headers
        self._headers = headers
        self._fit = fit and not wide
        self._columns = [TIME, SIGN] + [c for c in columns if wide or not c.wide]
        self._terminal: int | None = None
        self._needs = [cells(c.title) for c in self._columns]
        self._rows: list[tuple[bool, list[str]]] = []

    def event(self, event: Event) -> None:
        if is_loss(event):
            self._rows.append((True, [_lost_note(event)]))
            return
        alarm = self._alarm(event)
        row = [_clock_time(self._clock, event.boot_ns), "!" if alarm else ""]
        for column in self._columns[2:]:
            value = column.value(event)
            row.append(UNKNOWN if value is None else escape(value))
        self._needs = [max(n, cells(c)) for n, c in zip(self._needs, row, strict=True)]
        self._rows.append((alarm, row))

    def flush(self) -> None:
        """Asks for the terminal's width each time, so that a resized window is filled."""
        if not self._rows:
            return
        terminal = shutil.get_terminal_size().columns if self._fit else None
        widths = lay_out(self._columns, self._needs, terminal)
        if terminal != self._terminal:
            self._terminal, self._titles_due = terminal, self._headers
        lines = []
        if self._titles_due:
            self._titles_due = False
            titles = fit([c.title for c in self._columns], widths, terminal)
            lines.append(self._style(titles, bold=True))
        for alarm, row in self._rows:
            if len(row) == 1:
                note = row[0] if terminal is None else folded(row[0], terminal)
                lines.append(self._style(note, fg="yellow", bold=True))
                continue
            line = fit(row, widths, terminal)
            lines.append(self._style(line, fg="red", bold=True) if alarm else line)
        self._rows.clear()
        write_text(self._out, lines)

    def _style(self, text: str, fg: str | None = None, bold: bool = False) -> str:
        return click.style(text, fg=fg, bold=bold) if self._colour else text


def lay_out(columns: Sequence[Width], needs: Sequence[int], width: int | None) -> list[int | None]:
    """The width of each column, None if it is left out. `needs` are the widths of the widest texts
    so far. Without a `width`, every column gets its need, up to its own width."""
    wanted = [max(c.narrow, min(n, c.width)) for c, n in zip(columns, needs, strict=True)]
    if width is None:
        return list(wanted)
    kept = [i for i, _ in enumerate(columns)]
    while _total(columns[i].narrow for i in kept) > width:
        droppable = [i for i in kept if columns[i].rank]
        if not droppable:
            break
        kept.remove(max(droppable, key=lambda i: columns[i].rank))
    widths: list[int | None] = [c.narrow if i in kept else None for i, c in enumerate(columns)]
    spare = width - _total(columns[i].narrow for i in kept)
    for i in sorted(kept, key=lambda i: columns[i].rank):
        more = max(0, min(spare, wanted[i] - columns[i].narrow))
        widths[i] = columns[i].narrow + more
        spare -= more
    return widths


def _total(widths: Iterable[int]) -> int:
    every = list(widths)
    return sum(every) + len(GAP) * (len(every) - 1)


def fit(texts: Sequence[str], widths: Sequence[int | None], terminal: int | None) -> str:
    """The columns with a width, side by side; folded if even these have no room."""
    if terminal is None or _total(width for width in widths if width is not None) <= terminal:
        return line_of(texts, widths, cut=terminal is not None)
    shown = [text for text, width in zip(texts, widths, strict=True) if width is not None]
    return folded(GAP.join(filter(None, shown)), terminal)


def line_of(texts: Sequence[str], widths: Sequence[int | None], cut: bool) -> str:
    """The columns with a width, side by side."""
    parts = []
    for text, width in zip(texts, widths, strict=True):
        if width is None:
            continue
        used = cells(text)
        if used > width and cut:
            text, used = shorten(text, width), width
        parts.append(text + " " * (width - used))
    return GAP.join(parts).rstrip()


def _lost_note(event: Event[LostBody]) -> str:
    body = event.body
    return f"!! {body['count']} {body['probe']} events lost here: too fast to be read"


def _clock_time(clock: Clock, boot_ns: int) -> str:
    """Local time of day to the millisecond."""
    seconds, nanoseconds = divmod(boot_ns + clock.offset_ns, 1_000_000_000)
    return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{nanoseconds // 1_000_000:03d}"
