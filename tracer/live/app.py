# SPDX-License-Identifier: Apache-2.0
"""The application: takes snapshots, handles the keys that work everywhere, and ends in order."""

from __future__ import annotations

import asyncio
import gc
import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import tzinfo
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from rich.console import RenderableType
from textual.app import App
from textual.binding import Binding, BindingType
from textual.drivers.linux_driver import LinuxDriver
from textual.message import Message
from textual.screen import Screen

from tracer.kernel import limits
from tracer.live.bars import Part, part
from tracer.live.feed import Feed
from tracer.live.look import ALARM, Times, whole
from tracer.live.model import Snapshot
from tracer.live.screens import HelpView, PodsView, StreamView, View
from tracer.live.words import Words
from tracer.model.errors import KtraceError, UsageError
from tracer.model.event import Event, to_json
from tracer.model.selection import Selection
from tracer.outputs.escape import escape
from tracer.probes import Probe
from tracer.probes.columns import UNKNOWN
from tracer.recording.files import RecordingFile

# How long the session may hold the interpreter while a key waits: a fifth of Python's default.
SWITCH_SECONDS = 0.001
# How often the garbage collector runs, because each picture leaves reference cycles; and its share
# of the time, one part in so many.
SWEEP_SECONDS, SWEEP_SHARE = 1.0, 20
SEEK_SECONDS = 10
FAR_SECONDS = 60
NS = 1_000_000_000
# The only failure without an exception that Textual keeps is in the thread that reads the keys.
NO_KEYS = "what the terminal sends cannot be read", "only UTF-8 can be: see its locale"
SELECTORS = "-p -n -c -l --pid --sender-pod"

V = TypeVar("V", bound=Screen[Any])

# Turns the command line's selectors into a selection. Raises `UsageError`.
ParseSelectors = Callable[[Sequence[str]], Selection]


class Told(Message):
    """A new snapshot. Only the newest one matters."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.snapshot = snapshot

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, Told)


class Noted(Message):
    """A note for the user from another thread."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words


class OnStandardOutput(LinuxDriver):
    """Textual draws on standard error, which may be redirected to a file."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._file = sys.__stdout__


class LiveApp(App[None], inherit_bindings=False):
    """Runs `feed` in a thread once the first picture stands. `failure` is the first error, here or
    in that thread; the application has ended then."""

    TITLE = "ktrace live"
    ENABLE_COMMAND_PALETTE = False
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        "pods": PodsView,
        "stream": StreamView,
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "leave", "Quit"),
        Binding("ctrl+c", "leave", "Quit", show=False, priority=True),
        Binding("space", "pause", "Pause"),
        Binding("tab", "other", "Screen"),
        Binding("1", "screen('pods')", "Pods", show=False),
        Binding("2", "screen('stream')", "Stream", show=False),
        Binding("f", "filter", "Filter"),
        Binding("r", "record", "Record"),
        Binding("left", "seek(-1)", "-10 s"),
        Binding("right", "seek(1)", "+10 s"),
        Binding("shift+left", "far(-1)", "-1 min", show=False),
        Binding("shift+right", "far(1)", "+1 min", show=False),
        Binding("left_square_bracket", "speed(-1)", "Slower", key_display="["),
        Binding("right_square_bracket", "speed(1)", "Faster", key_display="]"),
        Binding("e", "save", "Save"),
        Binding("y", "copy", "Copy"),
        Binding("d", "dark", "Dark or light", show=False),
    ]

    def __init__(
        self,
        make_feed: Callable[[Callable[[Snapshot], None], Callable[[str], None]], Feed],
        probes: Mapping[str, Probe],
        parse: ParseSelectors,
        zone: tzinfo | None,
    ) -> None:
        """`make_feed` gets the callbacks for snapshots and notes; `probes` are keyed by kind of
        event."""
        super().__init__(driver_class=OnStandardOutput)
        self.feed = make_feed(self._post, self._note)
        self.times = Times(self.feed.clock, zone)
        self.words = Words(probes, self.times, colour=not self.no_color)
        self.shown = self.latest = Snapshot(now=self.feed.clock.now())
        self.paused = False
        self.failure: BaseException | None = None
        self._parse = parse
        self._filter = ""
        self._loop_running: asyncio.AbstractEventLoop | None = None
        self._leaving = self._begun = False
        self._next_sweep = 0.0
        self._worker = threading.Thread(target=self._run, name="ktrace-session", daemon=True)

    # From the first picture to the last

    def on_mount(self) -> None:
        self._loop_running = asyncio.get_running_loop()
        self.switch_mode("pods")
        self.call_after_refresh(self._begin)

    def leave(self) -> None:
        """Ends the application in order, now or as soon as it has begun. Safe in signal handlers
        and other threads. The session ends even if a terminal blocks the drawing."""
        self._leaving = True
        self.feed.stop()
        if self._loop_running:
            with suppress(RuntimeError):  # it has already ended
                self._loop_running.call_soon_threadsafe(self.action_leave)

    def _begin(self) -> None:
        if self._leaving:
            self.action_leave()
        else:
            self._answer_keys_soon()
            self._worker.start()

    def _answer_keys_soon(self) -> None:
        """Under load, everything that delays a keypress is capped: the session's turns at the
        interpreter, and garbage collection, which only looks at objects made since `_set_aside`."""
        sys.setswitchinterval(SWITCH_SECONDS)
        gc.freeze()
        self.set_interval(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        began = time.monotonic()
        if began >= self._next_sweep:
            gc.collect()
            ended = time.monotonic()
            self._next_sweep = ended + SWEEP_SHARE * (ended - began)

    def _set_aside(self) -> None:
        """Excludes everything loaded until the first snapshot from garbage collection, because it
        stays to the end. Later objects are events, which reference counting frees, and pictures."""
        gc.collect()
        gc.freeze()

    def wait(self) -> None:
        """Waits for the session's end. Call after the application."""
        self.feed.stop()
        if self._worker.ident:
            self._worker.join()
        gc.unfreeze()

    def abandon(self, error: Exception) -> None:
        """Gives the terminal back if the application could not be ended."""
        self.failure = self.failure or error
        if self._driver:
            self._driver.disable_input()
            self._driver.close()

    def panic(self, *renderables: RenderableType) -> None:
        """Handles uncaught exceptions. Textual would print them with the values of all variables,
        which include untrusted bytes; here the caller examines `failure`."""
        self.failure = self.failure or self._exception or KtraceError(*NO_KEYS)
        super().panic()

    def _fatal_error(self) -> None:
        self.panic()

    def _run(self) -> None:
        try:
            self.feed.run()
        except BaseException as error:
            self.failure = self.failure or error
        self.leave()

    def _post(self, snapshot: Snapshot) -> None:
        self.post_message(Told(snapshot))

    def _note(self, words: str) -> None:
        self.post_message(Noted(words))

    def on_noted(self, message: Noted) -> None:
        self.notify(message.words, markup=False, severity="warning")

    def on_told(self, message: Told) -> None:
        if not self._begun:
            self._begun = True
            self._set_aside()
        self.latest = message.snapshot
        if not self.paused:
            self.shown = self.latest
        if view := self._seen():
            if self.paused:
                view.tell_status()
            else:
                view.draw(self.shown)

    def deeper(self, kind: type[V]) -> V:
        """Opens the screen of this type. Each mode has one and reuses it, because Textual never
        frees all of a drawn screen."""
        name = f"{self.current_mode} {kind.__name__}"
        if not self.is_screen_installed(name):
            self.install_screen(kind(), name)
        view = self.get_screen(name, kind)
        self.push_screen(view)
        return view

    # The status line

    def status(self) -> tuple[Sequence[Part], Sequence[Part]]:
        feed, now = self.feed, self.latest
        when = feed.player.position if feed.player else now.now
        recording = ""
        if feed.switch:
            recording = (
                f"● {escape(feed.switch.path.name)}" if feed.switch.path else "not recording"
            )
        waiting = self.latest.events - self.shown.events
        recorded = bool(feed.switch and feed.switch.path)
        questions = (escape(" ".join(feed.probes)), f"{len(feed.probes)} probes")
        first = (
            part(5, "bold", "ktrace live"),
            part(1, "bold", escape(feed.node or UNKNOWN)),
            part(0, "", f"{self.times.of_day(when)[:8]} {self.times.zone(when)}"),
            part(7, "dim", self.times.date(when)),
            part(3, "dim", escape(feed.source)),
            part(4, "dim", *(questions if feed.probes else ("attaching …",))),
            part(2, "bold red" if recorded else "dim", recording),
        )
        second = (
            part(0, "bold reverse", f"PAUSED, {whole(waiting)} wait" if self.paused else ""),
            part(2, "", f"{whole(now.rate)}/s"),
            part(3, "", f"{whole(now.events)} events"),
            part(0, self.words.alarm_style, f"{ALARM} {whole(now.lost)} lost")
            if now.lost
            else part(0, "dim", "0 lost"),
            part(1, "bold cyan", f"filter {self._filter}" if self._filter else ""),
            part(4, "dim", f"{whole(now.left)} quiet pods left out" if now.left else ""),
        )
        return first, second

    # Keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        view = self._seen()
        if action != "leave" and view and view.asking:
            return False
        if action in ("seek", "far", "speed"):
            return self.feed.player is not None
        if action == "record":
            return self.feed.switch is not None
        return True

    def action_leave(self) -> None:
        self.feed.stop()
        self.exit()

    def action_help(self) -> None:
        bindings = [
            binding
            for _, binding, enabled, _ in self.screen.active_bindings.values()
            if enabled and binding.description
        ]
        keys: dict[str, list[str]] = {}
        for binding in bindings:
            keys.setdefault(binding.description, []).append(self.get_key_display(binding))
        self.deeper(HelpView).tell([(" ".join(k), what) for what, k in keys.items()])

    def action_pause(self) -> None:
        """Pauses the playback of a recording, or only the picture of the running system."""
        if self.feed.player:
            self.feed.player.toggle()
            return
        self.paused = not self.paused
        self.shown = self.latest
        self._redraw()

    def action_other(self) -> None:
        self.switch_mode("stream" if self.current_mode == "pods" else "pods")

    def action_screen(self, name: str) -> None:
        self.switch_mode(name)

    def action_dark(self) -> None:
        self.theme = "textual-light" if self.current_theme.dark else "textual-dark"

    def action_seek(self, step: int) -> None:
        self._seek(step * SEEK_SECONDS)

    def action_far(self, step: int) -> None:
        self._seek(step * FAR_SECONDS)

    def action_speed(self, step: int) -> None:
        if self.feed.player:
            self.feed.player.change_speed(step)
            self._redraw()

    def action_filter(self) -> None:
        self._view().ask(f"filter ({SELECTORS}):", self._filter, self._choose)

    def action_record(self) -> None:
        switch = self.feed.switch
        if switch is None:
            return
        if switch.path:
            self.notify(f"recorded to {escape(str(switch.path))}", markup=False)
            switch.stop()
            self._redraw()
        else:
            self._view().ask("record to:", f"{self._file_name()}.ktrace", self._record)

    def action_copy(self) -> None:
        line = self._view().selected_line()
        if line:
            self.copy_to_clipboard(line)
            self.notify("copied", timeout=2)

    def action_save(self) -> None:
        events = self._view().selected_events()
        if not events:
            return

        def save(name: str) -> None:
            self._save(Path(name), events)

        self._view().ask(
            f"save {whole(len(events))} events to:", f"{self._file_name()}.jsonl", save
        )

    def _view(self) -> View:
        assert isinstance(self.screen, View)
        return self.screen

    def _seen(self) -> View | None:
        """The screen in front; None while help is shown and while the application ends."""
        screens = self.screen_stack
        return screens[-1] if screens and isinstance(screens[-1], View) else None

    def _redraw(self) -> None:
        if view := self._seen():
            view.draw(self.shown)

    def _seek(self, seconds: int) -> None:
        player = self.feed.player
        if player:
            player.seek(player.position + seconds * NS)

    def _choose(self, words: str) -> None:
        try:
            parts = shlex.split(words)
        except ValueError as error:
            raise UsageError("a quotation mark is missing") from error
        self.feed.model.choose(self._parse(parts) if parts else None)
        self._filter = escape(words.strip())

    def _record(self, name: str) -> None:
        if self.feed.switch:
            self.feed.switch.start(Path(name))
            self._redraw()

    def _save(self, path: Path, events: Sequence[Event]) -> None:
        file = RecordingFile(path)
        lines = (to_json(event, self.feed.clock, self.feed.node) for event in events)
        try:
            file.write(b"".join(lines))
            file.close()
        except OSError as error:
            raise KtraceError(f"{path}: {limits.reason(error)}") from error
        self.notify(f"{whole(len(events))} events in {escape(str(path))}", markup=False)

    def _file_name(self) -> str:
        when = self.times.of_day(self.latest.now)[:8].replace(":", "")
        return f"ktrace-{self.times.date(self.latest.now)}-{when}"
