# SPDX-License-Identifier: Apache-2.0
"""`ktrace replay FILE`: a recording again, as it was shown live, on any machine."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tracer import probes
from tracer.cli._options import Duration, count, output, selection, selectors
from tracer.cli._recording import check_whole
from tracer.cli._tracing import closing_line, make_command, make_sink, stop_on_signals
from tracer.errors import UsageError
from tracer.event import Clock
from tracer.recording.view import Chosen, Window
from tracer.selection import Selection
from tracer.session import Session

if TYPE_CHECKING:
    from tracer.recording.metadata import Metadata


def run(file: str, speed: str, begin: str | None, end: str | None, **values: Any) -> None:
    from tracer.recording.reader import Reader
    from tracer.recording.replay import ReplaySource

    with Reader(Path(file)) as reader:
        told = reader.metadata
        clock = Clock(told.clock_offset_ns)
        known = [probes.get(name) for name in probes.names() if name in told.attached]
        source = ReplaySource(reader, None if speed == "max" else float(speed))
        window = Window(_moment(begin, told, "--from"), _moment(end, told, "--to"))
        sink = make_sink(known or [probes.get("signals")], values, clock, told.node)
        chosen = Chosen(sink, _wanted(values), window, values["count"], source.interrupt)
        session = Session(source, known, told.selection, chosen, clock, told.count)
        stop_on_signals(session, source.interrupt)
        summary = session.run()
        summary.events = chosen.events
        summary.nameless += chosen.nameless
        click.echo(closing_line(summary), err=True)
        check_whole(reader, file)


def _wanted(values: dict[str, Any]) -> Selection:
    """Without selectors everything that was recorded."""
    names = ("pods", "namespaces", "containers", "labels", "sender_pods", "pids", "everything")
    if not any(values[name] for name in names):
        values["everything"] = True
    return selection(values)


def _moment(text: str | None, told: Metadata, option: str) -> int | None:
    """Nanoseconds since boot: of a time such as 2026-11-21T04:07:04Z, or of +2m after the
    recording's beginning."""
    if text is None:
        return None
    if text.startswith("+"):
        return told.began + int(Duration().convert(text[1:], None, None) * 1e9)
    found = re.fullmatch(r"(.+?:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", text)
    try:
        if not found:
            raise ValueError
        moment = datetime.fromisoformat(found[1] + (found[3] or "Z"))
    except ValueError as error:
        raise UsageError(
            f"{option} {text!r} is no time", "give 2026-11-21T04:07:04Z, or +2m from the beginning"
        ) from error
    seconds = int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    return seconds * 1_000_000_000 + int((found[2] or "0").ljust(9, "0")) - told.clock_offset_ns


command = make_command(
    "replay",
    "Show a recording as it was shown live: no privilege, any machine.",
    (
        "ktrace replay incident.ktrace -p web        what happened to pod web",
        "ktrace replay incident.ktrace -o json       the same lines as the live run's",
        "ktrace replay incident.ktrace --from +2m --to +3m",
        "ktrace replay incident.ktrace --speed 1     as fast as it happened",
    ),
    [
        click.Argument(["file"], metavar="FILE"),
        *(option for option in selectors() if option.name != "wait"),
        *output(),
        count(),
        click.Option(
            ["--speed"],
            type=click.Choice(["1", "10", "max"]),
            default="max",
            show_default=True,
            help="1: as fast as it happened; 10: ten times; max: without waiting.",
        ),
        click.Option(
            ["--from", "begin"],
            metavar="TIME",
            help="From this time on: 2026-11-21T04:07:04Z, or +2m after the beginning.",
        ),
        click.Option(["--to", "end"], metavar="TIME", help="Only before this time."),
    ],
    run,
)
