# SPDX-License-Identifier: Apache-2.0
"""The wanted part of a recording: selectors, a span of time, a number of events."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from tracer.model.errors import UsageError
from tracer.model.event import Event
from tracer.model.selection import Selection
from tracer.model.units import seconds
from tracer.probes import DAMAGE
from tracer.session.patterns import Sighting
from tracer.session.session import Grouping, Sink

if TYPE_CHECKING:  # slow: imports zstandard
    from tracer.recording.metadata import Metadata


@dataclass(slots=True)
class Window:
    """A span in nanoseconds since boot, without its end."""

    begin: int | None = None
    end: int | None = None

    def holds(self, boot_ns: int) -> bool:
        after = self.begin is None or boot_ns >= self.begin
        return after and (self.end is None or boot_ns < self.end)


class Chosen:
    """A sink that passes on wanted events, and calls `enough` after `count` of them. Losses are
    always passed on. `unshown` counts events that cannot be shown, which a made-up recording may
    contain."""

    def __init__(
        self,
        sink: Sink,
        selection: Selection,
        window: Window,
        count: int | None,
        enough: Callable[[], None],
    ) -> None:
        self.events = self.nameless = self.unshown = 0
        self._sink = sink
        self._selection = selection
        self._window = window
        self._count = count
        self._enough = enough
        everything = selection.everything and not selection.pids
        self._filters = not everything or window != Window() or count is not None

    def event(self, event: Event) -> None:
        if self._filters and not self._passes(event):
            return
        try:
            self._sink.event(event)
        except DAMAGE:
            self.unshown += 1
            return
        if event.kind != "lost":
            self.events += 1
            if self.events == self._count:
                self._enough()

    def sightings(self, sightings: Sequence[Sighting]) -> None:
        """Passes them on together if the sink groups them, and all are wanted."""
        if self._filters or not isinstance(self._sink, Grouping):
            for boot_ns, pattern in sightings:
                self.event(pattern.at(boot_ns))
            return
        rest, unshown = iter(sightings), self.unshown
        while True:
            try:
                self._sink.sightings(rest)
                break
            except DAMAGE:
                self.unshown += 1
        self.events += len(sightings) - (self.unshown - unshown)

    def flush(self) -> None:
        self._sink.flush()

    def _passes(self, event: Event) -> bool:
        if not self._window.holds(event.boot_ns) or self.events == self._count:
            return False
        wanted = event.kind == "lost" or wants(self._selection, event)
        self.nameless += wanted is None
        return bool(wanted)


def wants(selection: Selection, event: Event) -> bool | None:
    """The whole decision, also on processes, which a live session leaves to the kernel."""
    pids = selection.pids
    if pids and (event.about is None or event.about.pid not in pids):
        return False
    return selection.wants(event)


def window(begin: str | None, end: str | None, told: Metadata, names: tuple[str, str]) -> Window:
    """From two times as `moment` takes them. An error names the options by these names."""
    found = Window(moment(begin, told, names[0]), moment(end, told, names[1]))
    if None not in (found.begin, found.end) and not found.holds(found.begin or 0):
        raise UsageError(f"{names[0]} {begin} is not before {names[1]} {end}", "exchange them")
    return found


def moment(text: str | None, told: Metadata, option: str) -> int | None:
    """Nanoseconds since boot, for a time such as 2026-11-21T04:07:04Z, or for +2m after the
    recording's beginning. An error names the `option`."""
    if text is None:
        return None
    try:
        if text.startswith("+"):
            return told.began + int(seconds(text[1:]) * 1e9)
        found = re.fullmatch(r"(.+?:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", text)
        if not found:
            raise ValueError
        when = datetime.fromisoformat(found[1] + (found[3] or "Z").replace("Z", "+00:00"))
    except ValueError as error:
        raise UsageError(
            f"{option} {text!r} is no time", "give 2026-11-21T04:07:04Z, or +2m from the beginning"
        ) from error
    whole = int((when - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds())
    return whole * 1_000_000_000 + int((found[2] or "0").ljust(9, "0")) - told.clock_offset_ns
