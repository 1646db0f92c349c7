# SPDX-License-Identifier: Apache-2.0
"""What `ktrace <probe>` and `ktrace trace` have in common: from parsed options to a running
session."""

from __future__ import annotations

import os
import queue
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from tracer.cli._options import cri_socket, limits, output, selection, selectors
from tracer.errors import UsageError
from tracer.event import Clock
from tracer.identity.model import Names
from tracer.probes import Probe
from tracer.session import Session, Sink, Summary


def probe_command(probe: Probe) -> click.Command:
    def run(**values: Any) -> None:
        trace([probe], values)

    return command(probe.name, probe.help, probe.examples, [*probe.options], run)


def command(
    name: str, summary: str, examples: Sequence[str], options: list[click.Parameter], run: Any
) -> click.Command:
    return click.Command(
        name,
        params=[*options, *selectors(), *output(), *limits(), cri_socket()],
        callback=run,
        help=summary,
        epilog="\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples),
        context_settings={"max_content_width": 110},
    )


def trace(probes: Sequence[Probe], values: Mapping[str, Any]) -> None:
    """Runs the probes until Ctrl-C, SIGTERM or a limit; the summary goes to standard error."""
    from tracer.backends.core import CoreBackend, check_machine
    from tracer.identity.inventory import check_globs, name_sources
    from tracer.identity.names import NameService
    from tracer.live import LiveSource

    chosen = selection(values)
    settings = _settings(probes, values)
    check_machine()
    arrivals: queue.SimpleQueue[Names] = queue.SimpleQueue()
    names = NameService(name_sources(values["cri_socket"]), arrivals.put)
    names.start()
    if chosen.globs and not values["wait"]:
        check_globs(chosen.globs, names, arrivals)
    clock = Clock()
    sink = _sink(probes, values, clock)
    live = LiveSource(CoreBackend(), names, arrivals, clock, duration=values["duration"])
    session = Session(live, probes, chosen, sink, clock, values["count"])
    _stop_on_signals(session)
    live.attach(probes, chosen, settings)
    session.take(live.begin())
    if values["ready_file"]:
        _create(values["ready_file"])
    if sys.stderr.isatty():
        questions = ", ".join(probe.name for probe in probes)
        click.echo(f"ktrace: tracing {questions} on {os.uname().nodename}; Ctrl-C ends", err=True)
    summary = session.run()
    click.echo(_closing_line(summary), err=True)


def _settings(probes: Sequence[Probe], values: Mapping[str, Any]) -> dict[str, int]:
    settings: dict[str, int] = {}
    for probe in probes:
        settings |= probe.settings(values)
    return settings


def _sink(probes: Sequence[Probe], values: Mapping[str, Any], clock: Clock) -> Sink:
    if values["output"] == "json":
        from tracer.views.jsonl import JsonLines

        return JsonLines(sys.stdout.buffer, clock, os.uname().nodename)
    from tracer.views.columns import stream_columns
    from tracer.views.table import Table

    by_kind = {kind: probe for probe in probes for kind in probe.decode}
    return Table(
        sys.stdout,
        clock,
        probes[0].columns if len(probes) == 1 else stream_columns(by_kind),
        lambda event: by_kind[event.kind].alarm(event),
        wide=values["output"] == "wide",
        colour=_colour(values["color"]),
        headers=not values["no_headers"],
        fit=sys.stdout.isatty(),
    )


def _colour(choice: str) -> bool:
    if choice != "auto":
        return choice == "always"
    return not os.environ.get("NO_COLOR") and sys.stdout.isatty()


def _stop_on_signals(session: Session) -> None:
    """The first signal ends the session in order, a second one at once: somebody may be blocked
    writing to a pipe that nobody reads."""

    def stop(number: int, _frame: Any) -> None:
        if session.stopping:
            raise KeyboardInterrupt
        session.stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def _create(path: str) -> None:
    try:
        Path(path).write_bytes(b"")
    except OSError as error:
        raise UsageError(f"--ready-file {path}: {error.strerror}") from error


def _closing_line(summary: Summary) -> str:
    line = f"ktrace: {summary.events} events, {summary.lost} lost, {summary.seconds:.1f} s"
    if summary.undescribed:
        line += f"; {summary.undescribed} descriptions of processes or cgroups were lost too"
    if summary.nameless:
        line += (
            f"; {summary.nameless} more were left out because the names or labels that the selector"
            " asks for never became known"
        )
    return line
