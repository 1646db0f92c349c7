# SPDX-License-Identifier: Apache-2.0
"""The common part of the commands that read a recording."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tracer import probes
from tracer.cli._options import count, selection, selectors
from tracer.cli._tracing import closing_line, stop_on_signals
from tracer.model.errors import BadRecording, NoSuchPod
from tracer.model.event import Clock, Place
from tracer.model.kubernetes import Facts
from tracer.model.selection import Selection, pod_matches
from tracer.model.units import counted
from tracer.probes import Probe
from tracer.probes.columns import pod_name
from tracer.recording.view import Chosen, window
from tracer.session.session import Session, Sink

if TYPE_CHECKING:
    from tracer.outputs.exporters import Ending
    from tracer.recording.metadata import Metadata
    from tracer.recording.reader import Reader
    from tracer.recording.replay import ReplaySource
    from tracer.why.explained import Explained

# Bytes of patterns of a recording: about 67,000 pairs of processes that signal each other. An
# export may take more memory than `why`, which runs beside an incident.
PATTERNS, EXPORTED_PATTERNS = 48 << 20, 96 << 20

Places = Callable[[], list[Place]]


@dataclass(frozen=True)
class Wanted:
    """The wanted part of a recording: a selection, a span in the user's words, a number of
    events."""

    selection: Selection
    begin: str | None = None
    end: str | None = None
    count: int | None = None


class Playback:
    """Lets signals stop a session that plays a recording."""

    def __init__(self, session: Session, source: ReplaySource) -> None:
        self._session = session
        self._source = source

    @property
    def stopping(self) -> bool:
        return self._session.stopping

    def stop(self) -> None:
        self._session.stopping = True
        self._source.interrupt()


def play(
    file: str,
    wanted: Wanted,
    make: Callable[[Metadata, list[Probe], Clock, Places], Sink],
    speed: float | None = None,
    *,
    explain: bool = False,
    facts: Facts | None = None,
    patterns: int = PATTERNS,
    argv: bool = True,
    ending: Ending | None = None,
) -> None:
    """Plays a recording into the sink that `make` returns; with `explain`, also a verdict on each
    container. The `Places` passed to `make` return all places known so far. `facts` takes what
    Kubernetes said. `patterns` is the session's. Without `argv`, processes have no arguments.
    `ending` is told how the recording ends. The summary goes to standard error."""
    said = Facts() if facts is None else facts
    from tracer.recording.reader import Reader
    from tracer.recording.replay import ReplaySource

    with Reader(Path(file)) as reader:
        told = reader.metadata
        clock = Clock(told.clock_offset_ns)
        known = [probes.get(name) for name in probes.names() if name in told.attached]
        source = ReplaySource(reader, speed, argv)
        span = window(wanted.begin, wanted.end, told, ("--from", "--to"))
        sink = make(told, known, clock, lambda: session.resolver.places())
        chosen = Chosen(sink, wanted.selection, span, wanted.count, source.interrupt)
        explained = _explained(chosen, told, clock, said) if explain else None
        shown = explained or chosen
        limits = told.count, said, patterns
        session = Session(source, known, told.selection, shown, clock, *limits)
        playback = Playback(session, source)
        stop_on_signals(playback)
        summary = session.run()
        if explained:
            explained.explain()
        held, summary.events = summary.events, chosen.events
        summary.nameless += chosen.nameless
        summary.undecoded += chosen.unshown
        click.echo(closing_line(summary), err=True)
        if ending:
            ending.at_ns = source.now
            ending.missing = reader.damage or ("it is cut" if reader.cut else None)
        check_whole(reader, file)
        if held and not chosen.events and not playback.stopping:
            check_pods(wanted.selection.globs, session.resolver.places())
            click.echo(
                f"ktrace: none of its {held} events is what was asked for; ktrace info tells what"
                " it holds",
                err=True,
            )


def check_pods(globs: Sequence[str], places: Iterable[Place]) -> None:
    """Raises `NoSuchPod` for a pod that the recording does not know."""
    known = {pod_name(place): place.pod for place in places if place.pod}
    for glob in globs:
        if any(pod and pod_matches(pod, glob) for pod in known.values()):
            continue
        near = difflib.get_close_matches(glob, [name for name in known if name], 3, 0.4)
        hint = f"it knows of {counted(len(known), 'pod')}"
        if near:
            hint = f"the nearest: {', '.join(near)}"
        raise NoSuchPod(
            f"nothing is recorded of a pod {glob!r}; {hint}",
            "it may never have existed, or nothing happened to it: ktrace info FILE lists the pods",
        )


def _explained(chosen: Chosen, told: Metadata, clock: Clock, facts: Facts) -> Explained:
    from tracer.why.explained import Explained

    return Explained(chosen, told, clock, facts)


def chosen_of_recording() -> list[click.Option]:
    """Options that choose the shown part of a recording."""
    return [
        *(option for option in selectors() if option.name != "wait"),
        count(),
        click.Option(
            ["--from", "begin"],
            metavar="TIME",
            help="From this time on: 2026-11-21T04:07:04Z, or +2m after the beginning.",
        ),
        click.Option(["--to", "end"], metavar="TIME", help="Only before this time."),
    ]


def check_whole(reader: Reader, file: str) -> None:
    """Reports the missing part of a cut recording; raises `BadRecording` if it is damaged."""
    left = f"{reader.size - reader.used} of {reader.size} bytes could not be used"
    if reader.damage:
        raise BadRecording(
            f"{file}: {reader.damage} at byte {reader.used}; {left}",
            "everything before it was used",
        )
    if reader.cut:
        click.echo(f"ktrace: {file} is cut: {left}", err=True)


def wanted_of_recording(values: Mapping[str, Any]) -> Wanted:
    """From the options of `chosen_of_recording`."""
    return Wanted(selection_of_recording(values), values["begin"], values["end"], values["count"])


def selection_of_recording(values: Mapping[str, Any]) -> Selection:
    """Everything recorded if there are no selectors."""
    chosen = selection(values)
    return replace(chosen, everything=True) if chosen == Selection() else chosen
