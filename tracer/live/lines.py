# SPDX-License-Identifier: Apache-2.0
"""A list that draws only its visible lines, with a cursor, a search and mouse support.

A table widget with a cell for every row could not follow thousands of events a second. Here a row
costs nothing until it is visible.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, Generic, Protocol, TypeVar

from rich.segment import Segment
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

R = TypeVar("R")
P = TypeVar("P", contravariant=True)

# The width of a line for searching and copying.
WIDE = 250
# Shown instead of the first row, so that an empty list does not look undrawn.
NOTHING = "nothing yet"


class Painter(Protocol[P]):
    def measure(self, rows: Iterable[P]) -> bool:
        """Called with the rows to be painted; returns whether everything must be painted again."""

    def titles(self, width: int) -> Text: ...

    def paint(self, row: P, width: int) -> Text:
        """Exactly one line of this width."""


class Lines(ScrollView, Generic[R], can_focus=True, inherit_bindings=False):
    """The first line holds the titles. With `follow`, the cursor stays on the last row once it is
    there."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home,g", "top", "First", show=False),
        Binding("end,G", "bottom", "Last, and follow", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"lines--cursor", "lines--found"}
    DEFAULT_CSS = """
    Lines { height: 1fr; overflow-x: hidden; scrollbar-size-vertical: 1; }
    Lines > .lines--cursor { background: $block-cursor-blurred-background;
                             color: $block-cursor-blurred-foreground; }
    Lines:focus > .lines--cursor { background: $block-cursor-background;
                                   color: $block-cursor-foreground; text-style: bold; }
    Lines > .lines--found { text-style: underline reverse; }
    """

    class Opened(Message):
        """Enter, or a second click on a row."""

    def __init__(self, painter: Painter[R], *, follow: bool = False) -> None:
        super().__init__()
        self.rows: Sequence[R] = ()
        self.cursor = 0
        self.needle = ""
        self.following = follow
        self._painter = painter
        self._follow = follow

    @property
    def selected(self) -> R | None:
        return self.rows[self.cursor] if self.rows else None

    def text(self, row: R) -> str:
        return self._painter.paint(row, WIDE).plain.rstrip()

    @property
    def page(self) -> int:
        """The number of rows on the screen."""
        return max(1, self.size.height - 1)

    def restart(self) -> None:
        """Clears the list for a different set of rows."""
        self.rows = ()
        self.cursor = 0
        self.needle = ""
        self.following = self._follow

    def show(self, rows: Sequence[R], cursor: int) -> None:
        """Draws new rows. The row under the cursor keeps its place on the screen, unless the list
        follows its end."""
        offset = self.cursor - round(self.scroll_y)
        self.rows = rows
        self.virtual_size = Size(self.scrollable_content_region.width, len(rows) + 1)
        last = max(0, len(rows) - 1)
        self.cursor = last if self.following else max(0, min(cursor, last))
        if self.following:
            self.scroll_end(animate=False, force=True, immediate=True)
        elif 0 <= offset < self.page:
            self.scroll_to(y=self.cursor - offset, animate=False, force=True, immediate=True)
        self.refresh()

    def move_to(self, row: int) -> None:
        self.cursor = max(0, min(row, len(self.rows) - 1))
        self.following = self._follow and self.cursor >= len(self.rows) - 1
        top, height = round(self.scroll_y), self.page
        if self.cursor < top:
            top = self.cursor
        elif self.cursor >= top + height:
            top = self.cursor - height + 1
        self.scroll_to(y=top, animate=False, force=True, immediate=True)
        self.refresh()

    def search(self, needle: str, step: int) -> bool:
        """Goes to the next match, or with -1 to the previous one."""
        self.needle = needle
        self.refresh()
        at = range(1, len(self.rows) + 1)
        for distance in at if needle else ():
            row = (self.cursor + step * distance) % len(self.rows)
            if self._where(self.text(self.rows[row])) >= 0:
                self.move_to(row)
                return True
        return False

    def render_lines(self, crop: Region) -> list[Strip]:
        top = round(self.scroll_y)
        if self._painter.measure(self.rows[top : top + self.page]):
            self.refresh()
        return super().render_lines(crop)

    def render_line(self, y: int) -> Strip:
        row, width = round(self.scroll_y) + y - 1, self.scrollable_content_region.width
        if y == 0:
            return self._strip(self._painter.titles(width))
        if y == 1 and not self.rows:
            return self._strip(Text(f"   {NOTHING}", "dim", no_wrap=True, end=""))
        if row >= len(self.rows):
            return Strip.blank(width, self.rich_style)
        text = self._painter.paint(self.rows[row], width)
        at = self._where(text.plain) if self.needle else -1
        if at >= 0:
            found = self.get_component_rich_style("lines--found", partial=True)
            text.stylize(found, at, at + len(self.needle))
        return self._strip(text, "lines--cursor" if row == self.cursor else None)

    def _strip(self, text: Text, component: str | None = None) -> Strip:
        over = self.get_component_rich_style(component, partial=True) if component else None
        drawn = text.render(self.app.console)
        return Strip(Segment.apply_style(drawn, self.rich_style, over), text.cell_len)

    def action_move(self, step: int) -> None:
        self.move_to(self.cursor + step)

    def action_page(self, step: int) -> None:
        self.move_to(self.cursor + step * self.page)

    def action_top(self) -> None:
        self.move_to(0)

    def action_bottom(self) -> None:
        self.move_to(len(self.rows) - 1)

    def on_click(self, event: events.Click) -> None:
        row = round(self.scroll_y) + event.y - 1
        if not 0 <= row < len(self.rows) or not event.y:
            return
        again = row == self.cursor
        self.move_to(row)
        if again:
            self.post_message(self.Opened())

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.action_move(-3)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.action_move(3)

    def _where(self, line: str) -> int:
        """The position of the match. The case matters only if the search has capital letters."""
        if self.needle.islower():
            line = line.lower()
        return line.find(self.needle)
