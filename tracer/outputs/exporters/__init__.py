# SPDX-License-Identifier: Apache-2.0
"""Exporters: each module here writes events in a format of other tools, and describes itself in
`EXPORTER`. A module's name is the format's name; nothing else lists them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    from tracer.model.event import Clock, Event, Place
    from tracer.probes import Probe
    from tracer.recording.metadata import Metadata


class ExportSink(Protocol):
    """A `tracer.session.session.Sink` with an end."""

    def event(self, event: Event) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None:
        """Writes the end of the file."""


@dataclass(slots=True)
class Ending:
    """What is known of a recording only when it has been read: the moment at which its session
    ended (nanoseconds since boot), and what is missing of the file."""

    at_ns: int | None = None
    missing: str | None = None


@dataclass(frozen=True)
class Target:
    """An export's output and its recording's facts. `probes` are by the kinds of their events.
    `places` returns every place known so far. `title` is the recording's name, `chosen` the words
    that selected what is exported. An `anonymous` export must tell no name that the node or a
    container chose."""

    out: BinaryIO
    clock: Clock
    node: str
    probes: Mapping[str, Probe]
    places: Callable[[], Iterable[Place]]
    metadata: Metadata | None = None
    title: str = ""
    chosen: str = ""
    anonymous: bool = False
    ending: Ending = field(default_factory=Ending)

    def sentence(self, event: Event) -> str:
        """The event in words."""
        from tracer.model.event import is_loss
        from tracer.model.verdict import is_verdict

        if is_loss(event):
            return f"{event.body['count']} events of {event.body['probe']} were lost"
        if is_verdict(event):
            return event.body["sentence"]
        return self.probes[event.kind].summary(event)

    def alarm(self, event: Event) -> bool:
        """Whether the event must stand out. A verdict must if one of its evidence must."""
        if event.kind == "verdict":
            return any(map(self.alarm, event.because))
        return event.kind == "lost" or self.probes[event.kind].alarm(event)


@dataclass(frozen=True)
class Exporter:
    """`require` raises `KtraceError` if the format needs something that is not installed."""

    help: str
    suffix: str
    binary: bool
    make: Callable[[Target], ExportSink]
    require: Callable[[], object] = lambda: None


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def get(name: str) -> Exporter:
    exporter = importlib.import_module(f"{__name__}.{name}").EXPORTER
    assert isinstance(exporter, Exporter)
    return exporter
