# SPDX-License-Identifier: Apache-2.0
"""The lines above and below a screen: the status, a recording's time bar, the prompt and the
keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input, Static

from tracer.live.look import Times, fitted, span
from tracer.model.errors import KtraceError
from tracer.outputs.terminal import cells

if TYPE_CHECKING:
    from tracer.live.player import Player

NS = 1_000_000_000


@dataclass(frozen=True)
class Part:
    """A part of a line. Where there is no room, the highest `rank` is shortened first and then left
    out; 0 never is. `words` are its texts, longest first."""

    rank: int
    style: str
    words: tuple[str, ...]


def part(rank: int, style: str, *words: str) -> Part:
    return Part(rank, style, tuple(filter(None, words)))


def fitting(parts: Sequence[Part], width: int, gap: str = "  ") -> Text:
    """One line with the parts that fit, in the given order."""
    kept = [part for part in parts if part.words]
    while _width(kept, gap) > width and any(part.rank for part in kept):
        at = max(range(len(kept)), key=lambda i: kept[i].rank)
        shorter = replace(kept[at], words=kept[at].words[1:])
        kept[at : at + 1] = [shorter] if shorter.words else []
    line = Text(gap, no_wrap=True, end="").join(Text(p.words[0], p.style) for p in kept)
    line.truncate(width, overflow="ellipsis")
    return line


def _width(parts: Sequence[Part], gap: str) -> int:
    return sum(cells(part.words[0]) + len(gap) for part in parts) - len(gap)


class Status(Static):
    """Two lines of parts, as far as they fit."""

    DEFAULT_CSS = "Status { height: 2; background: $panel; color: $foreground; }"

    def tell(self, first: Sequence[Part], second: Sequence[Part]) -> None:
        lines = [fitting(parts, max(1, self.app.size.width - 2)) for parts in (first, second)]
        self.update(Text("\n", no_wrap=True).join(Text(" ") + line for line in lines), layout=False)


class TimeBar(Static):
    """The position in a recording. A click jumps there."""

    DEFAULT_CSS = "TimeBar { height: 1; background: $panel; color: $foreground; }"

    def __init__(self, player: Player, times: Times) -> None:
        super().__init__()
        self._player = player
        self._times = times
        self._bar = 0, 1

    def tell(self) -> None:
        player, position = self._player, self._player.position
        left = f" {self._pace()} {self._times.of_day(position)[:8]} "
        passed, whole = position - player.begin, player.end - player.begin
        right = f" {span(passed / NS)} of {span(whole / NS)} "
        width = max(1, self.app.size.width - len(left) - len(right))
        done = min(width, width * passed // whole) if whole > 0 else 0
        self._bar = len(left), width
        line = Text(left, no_wrap=True, end="")
        line.append("━" * done, "bold cyan")
        line.append("─" * (width - done), "dim")
        self.update(line.append(right), layout=False)

    def _pace(self) -> str:
        """The playback state, or the progress of a jump: jumping back replays from the beginning,
        which may take long."""
        player, progress = self._player, self._player.progress
        if progress is not None:
            return f"» {progress:<4.0%}"
        sign = "■" if player.ended else "▶" if player.playing else "‖"
        speed = "max" if player.speed is None else f"{player.speed:g}×"
        return f"{sign} {speed:<4}"

    def on_click(self, event: events.Click) -> None:
        begin, width = self._bar
        if begin <= event.x < begin + width:
            whole = self._player.end - self._player.begin
            self._player.seek(self._player.begin + whole * (event.x - begin) // width)


class Prompt(Horizontal):
    """Asks one question at the foot of the screen; typing replaces the proposed answer. Errors in
    an answer are shown there."""

    DEFAULT_CSS = """
    Prompt { height: 1; display: none; }
    Prompt Static { width: auto; color: $accent; }
    Prompt Input { width: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "Cancel")]

    def compose(self) -> ComposeResult:
        yield Static(markup=False)
        yield Input(compact=True)

    @property
    def asking(self) -> bool:
        return bool(self.display)

    def ask(self, question: str, preset: str, answered: Callable[[str], None]) -> None:
        """If `answered` raises `KtraceError`, the question stays."""
        self._question, self._answered = question, answered
        self.query_one(Static).update(f"{question} ")
        field = self.query_one(Input)
        field.value = preset
        self.display = True
        self.screen.set_focus(field)  # at once, so that the next key goes to it
        self.refresh_bindings()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        try:
            self._answered(event.value)
        except KtraceError as error:
            told = fitted(error.message, min(len(error.message), self.size.width // 2)).plain
            self.query_one(Static).update(f"{told}: ")
            return
        self.action_cancel()

    def action_cancel(self) -> None:
        self.display = False
        self.screen.set_focus(self.screen.query("Lines, Page").first())
        self.refresh_bindings()


class Keys(Widget):
    """The keys that work now, as far as they fit; a click presses one.

    Textual's own footer makes a widget for each key whenever the keys change. That takes longer
    than a picture, and as of version 8.2 it never frees them.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"keys--key"}
    DEFAULT_CSS = """
    Keys { height: 1; background: $footer-background; color: $footer-foreground; }
    Keys > .keys--key { color: $footer-key-foreground; text-style: bold; }
    """
    _ends: Sequence[tuple[int, str]] = ()

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._changed)

    def render(self) -> Text:
        bindings = self._listed()
        line, ends = self._line(bindings, "  ")
        if len(ends) < len(bindings):
            line, ends = self._line(bindings, " ")
        self._ends = ends
        return line

    def _line(self, bindings: Sequence[Binding], gap: str) -> tuple[Text, list[tuple[int, str]]]:
        """The keys that fit whole, and the end of each."""
        style = self.get_component_rich_style("keys--key", partial=True)
        line = Text(no_wrap=True, end="")
        ends: list[tuple[int, str]] = []
        for binding in bindings:
            key = (self.app.get_key_display(binding), style)
            told = Text.assemble(gap if ends else " ", key, f" {binding.description}")
            if line.cell_len + told.cell_len > self.size.width:
                break
            line.append_text(told)
            ends.append((line.cell_len, binding.key))
        return line, ends

    def on_click(self, event: events.Click) -> None:
        for end, key in self._ends:
            if event.x < end:
                self.app.simulate_key(key)
                return

    def _changed(self, _screen: Screen[Any]) -> None:
        self.refresh()

    def _listed(self) -> Sequence[Binding]:
        """One key for each action; the help lists the others."""
        first: dict[str, Binding] = {}
        for _, binding, enabled, _ in self.screen.active_bindings.values():
            if enabled and binding.show:
                first.setdefault(binding.action, binding)
        return list(first.values())
