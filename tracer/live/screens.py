# SPDX-License-Identifier: Apache-2.0
"""The screens: pods, stream, one pod, one event, and their common frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Generic, TypeVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Static

from tracer.live.anatomy import event_lines, joined
from tracer.live.bars import Keys, Prompt, Status, TimeBar
from tracer.live.grid import Grid, GridColumn
from tracer.live.lines import Lines
from tracer.live.look import ALARM, LOST, TOLD, safe, sparkline, whole
from tracer.live.model import PodRow, Snapshot
from tracer.live.shell import Shell
from tracer.live.words import Words
from tracer.model.event import Event
from tracer.outputs.escape import escape
from tracer.probes import DAMAGE
from tracer.probes.columns import container_name, pod_name

R = TypeVar("R")
NODE = "(in no pod)"


class View(Screen[None], inherit_bindings=False):
    """The frame of every screen: the status above; the time bar, the prompt and the keys below."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("backspace,escape", "back", "Back"),
    ]

    # The number of widgets when all are present.
    _whole = 0

    @property
    def live(self) -> Shell:
        return cast(Shell, self.app)

    def compose(self) -> ComposeResult:
        yield Status()
        yield from self.body()
        if self.live.feed.player:
            yield TimeBar(self.live.feed.player, self.live.times)
        yield Prompt()
        yield Keys()

    def body(self) -> Iterable[Widget]:
        raise NotImplementedError

    @property
    def _composed(self) -> bool:
        """Whether the widgets exist. A snapshot or a resize may come before that, and during the
        teardown."""
        return 0 < self._whole <= len(self.children)

    def on_mount(self) -> None:
        self._whole = len(self.children)
        self.draw(self.live.shown)

    def on_screen_resume(self) -> None:
        self.draw(self.live.shown)

    def on_resize(self) -> None:
        self.draw(self.live.shown)

    def draw(self, snapshot: Snapshot) -> None:
        """Draws the whole screen."""
        self.tell_status()
        if self._composed:
            self.fill(snapshot)

    def fill(self, snapshot: Snapshot) -> None:
        """Draws the body."""

    def tell_status(self) -> None:
        if not self._composed:
            return
        self.query_one(Status).tell(*self.live.status())
        for bar in self.query(TimeBar):
            bar.tell()

    def ask(self, question: str, preset: str, answered: Callable[[str], None]) -> None:
        self.query_one(Prompt).ask(question, preset, answered)

    def selected_events(self) -> list[Event]:
        """The events that `e` saves."""
        raise NotImplementedError

    def selected_line(self) -> str:
        """The line that `y` copies."""
        raise NotImplementedError

    def action_back(self) -> None:
        self.app.pop_screen()

    @property
    def asking(self) -> bool:
        return any(prompt.asking for prompt in self.query(Prompt))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        deeper = action != "back" or len(self.app.screen_stack) > 1
        return deeper and not self.asking


class ListView(View, Generic[R]):
    """A screen that is a list."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Details"),
        Binding("slash", "search", "Search", key_display="/"),
        Binding("n", "again(1)", "Next found", show=False),
        Binding("N", "again(-1)", "Found before", show=False),
    ]

    @property
    def lines(self) -> Lines[R]:
        return self.query_one(Lines)

    def action_open(self) -> None:
        raise NotImplementedError

    def on_lines_opened(self) -> None:
        self.action_open()

    def action_search(self) -> None:
        self.ask("/", "", self._search)

    def action_again(self, step: int) -> None:
        if self.lines.needle and not self.lines.search(self.lines.needle, step):
            self.notify("not found", timeout=2)

    def selected_line(self) -> str:
        row = self.lines.selected
        return "" if row is None else self.lines.text(row)

    def _search(self, needle: str) -> None:
        if not self.lines.search(needle, 1) and needle:
            self.notify("not found", timeout=2)


def event_grid(words: Words, *, with_pod: bool) -> Grid[Event]:
    pod = GridColumn[Event]("POD", lambda e, _: safe(pod_name(e.place)), 14, 40, 2)
    return Grid(
        [
            GridColumn("TIME", lambda e, _: words.time(e), 12, 12, 1, "dim"),
            GridColumn("", lambda e, _: words.sign(e), 1, 1),
            GridColumn("KIND", lambda e, _: e.kind, 12, 18, 3),
            *([pod] if with_pod else []),
            GridColumn("CONTAINER", lambda e, _: safe(container_name(e.place)), 9, 20, 5),
            GridColumn("WHAT", lambda e, _: words.sentence(e), 24, 160),
        ],
        words.style,
    )


def row_name(row: PodRow) -> str:
    """The pod's name, or the container's outside pods."""
    name = pod_name(row.place) or container_name(row.place) or row.key
    return escape(name) or NODE


def _counts(row: PodRow) -> str:
    return " ".join(f"{kind} {whole(count)}" for kind, count in sorted(row.counts.items()))


def pod_grid(words: Words) -> Grid[PodRow]:
    return Grid(
        [
            GridColumn("", lambda r, _: ALARM if r.alarms else "", 1, 1),
            GridColumn("POD", lambda r, _: row_name(r), 16, 44, 1),
            GridColumn("LAST", lambda r, _: words.time(r.last)[:8], 8, 8, 2, "dim"),
            GridColumn("WORST", lambda r, _: words.worst(r), 26, 160),
            GridColumn("RATE", lambda r, width: sparkline(r.rate, width), 10, 10, 4, "cyan"),
            GridColumn("COUNTS", lambda r, _: _counts(r), 24, 60, 3),
        ],
        lambda row: words.alarm_style if row.alarms else "",
    )


Order = Callable[[PodRow], Any]
# The orders, each with the greatest first.
ORDERS: dict[str, Order] = {
    "severity": lambda r: (r.alarms > 0, (r.worst or r.last).boot_ns),
    "last event": lambda r: r.last.boot_ns,
    "events": lambda r: r.total,
    "name": lambda r: [-ord(c) for c in row_name(r)],
}


class PodsView(ListView[PodRow]):
    """One row for each pod with events."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("s", "sort", "Sort")]
    order = "severity"

    def body(self) -> Iterable[Widget]:
        yield Lines(pod_grid(self.live.words))

    def fill(self, snapshot: Snapshot) -> None:
        selected = self.lines.selected
        rows = sorted(snapshot.pods, key=ORDERS[self.order], reverse=True)
        at = self.lines.cursor
        if at and selected:
            at = next((i for i, row in enumerate(rows) if row.key == selected.key), at)
        self.lines.show(rows, at)

    def action_sort(self) -> None:
        names = list(ORDERS)
        self.order = names[(names.index(self.order) + 1) % len(names)]
        self.draw(self.live.shown)
        self.notify(f"sorted by {self.order}", timeout=2)

    def action_open(self) -> None:
        if self.lines.selected:
            self.live.deeper(PodView).tell(self.lines.selected)

    def selected_events(self) -> list[Event]:
        return self.live.shown.known_of(self.lines.selected) if self.lines.selected else []


class StreamView(ListView[Event]):
    """All events, the newest at the bottom."""

    def body(self) -> Iterable[Widget]:
        self._first = 0
        yield Lines(event_grid(self.live.words, with_pod=True), follow=True)

    def fill(self, snapshot: Snapshot) -> None:
        moved = snapshot.first - self._first
        self._first = snapshot.first
        self.lines.show(snapshot.stream, self.lines.cursor - moved)

    def action_open(self) -> None:
        if self.lines.selected:
            self.live.deeper(EventView).tell(self.lines.selected)

    def selected_events(self) -> list[Event]:
        """All listed events, as the filter selects them."""
        return list(self.lines.rows)


class PodView(ListView[Event]):
    """One pod: what is known of it, and its timeline across the probes."""

    DEFAULT_CSS = "PodView #about { height: auto; max-height: 60%; padding: 0 1; }"

    _row: PodRow

    def tell(self, row: PodRow) -> None:
        """Shows another pod."""
        self._row = row
        for lines in self.query(Lines):
            lines.restart()

    def body(self) -> Iterable[Widget]:
        yield Static(id="about")
        yield Lines(event_grid(self.live.words, with_pod=False), follow=True)

    def fill(self, snapshot: Snapshot) -> None:
        found = next((row for row in snapshot.pods if row.key == self._row.key), None)
        self._row = found or self._row
        self.query_one("#about", Static).update(self._about(self._row))
        selected = self.lines.selected
        rows = self._row.timeline()
        at = next((i for i, event in enumerate(rows) if event is selected), self.lines.cursor)
        self.lines.show(rows, at)

    def _about(self, row: PodRow) -> Text:
        pod = row.place.pod if row.place else None
        labels = " ".join(f"{k}={v}" for k, v in sorted(((pod and pod.labels) or {}).items()))
        seen = f"{_counts(row)}   {sparkline(row.rate, 30)}"
        about = Text(joined((row_name(row), escape(labels)), "   ") + "\n", "bold", end="")
        words = self.live.words
        if row.worst or row.verdict:
            about.append(f"{ALARM} {words.worst(row)}\n", words.alarm_style)
        if row.verdict:
            about.append(f"do: {escape(row.verdict.remedy)}\n", "not bold")
        about.append(joined((f"uid {pod.uid}" if pod else "", seen), "   "), "not bold")
        return about

    def action_open(self) -> None:
        if self.lines.selected:
            self.live.deeper(EventView).tell(self.lines.selected)

    def selected_events(self) -> list[Event]:
        return self.live.shown.known_of(self._row)


class Page(VerticalScroll, inherit_bindings=False):
    """Text that may be longer than the screen."""

    DEFAULT_CSS = "Page { padding: 0 1; scrollbar-size-vertical: 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll_up", "Up", show=False),
        Binding("down,j", "scroll_down", "Down", show=False),
        Binding("pageup", "page_up", "Page up", show=False),
        Binding("pagedown", "page_down", "Page down", show=False),
        Binding("home,g", "scroll_home", "First", show=False),
        Binding("end,G", "scroll_end", "Last", show=False),
    ]


class EventView(View):
    """Everything about one event."""

    _event: Event
    _shown: Event | None = None

    def tell(self, event: Event) -> None:
        """Shows another event, or the same one with newer information."""
        self._event, self._shown = event, None

    def body(self) -> Iterable[Widget]:
        with Page():
            yield Static()

    def fill(self, snapshot: Snapshot) -> None:
        if self._event is self._shown:
            return
        self._shown = self._event
        page = self.query_one(Page)
        page.scroll_home(animate=False, force=True)
        page.query_one(Static).update(self._everything())

    def _everything(self) -> Text:
        words, event = self.live.words, self._event
        head = Text(joined((words.sign(event), words.sentence(event)), " "), words.style(event))
        when = f"{event.kind}  {self.live.times.date(event.boot_ns)} {words.time(event)}"
        return Text("\n").join([head, Text(when, "dim"), *self._members()])

    def _members(self) -> list[Text]:
        try:
            return event_lines(self._event)
        except DAMAGE:
            return []

    def selected_events(self) -> list[Event]:
        return [self._event]

    def selected_line(self) -> str:
        return self.live.words.line(self._event)


class HelpView(ModalScreen[None], inherit_bindings=False):
    """All keys that work on the current screen."""

    DEFAULT_CSS = """
    HelpView { align: center middle; }
    HelpView Page { width: auto; max-width: 90%; height: auto; max-height: 90%;
                              border: round $primary; padding: 0 1; background: $surface; }
    HelpView Static { width: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace,question_mark,q,enter", "dismiss", "Close")
    ]

    def tell(self, keys: Sequence[tuple[str, str]]) -> None:
        self._keys = keys
        for page in self.query(Page):
            page.scroll_home(animate=False, force=True)
            page.query_one(Static).update(self._text())

    def compose(self) -> ComposeResult:
        with Page():
            yield Static(self._text())

    def _text(self) -> Text:
        text = Text()
        for key, what in self._keys:
            text.append(f"{key:>14}  ", "bold").append(f"{what}\n")
        text.append(f"\n{ALARM:>14}  ", "bold").append("something that hurts a pod\n")
        text.append(f"{LOST:>14}  ", "bold").append("events that were lost\n")
        return text.append(f"{TOLD:>14}  ", "bold").append("what Kubernetes says")
