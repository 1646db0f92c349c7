# SPDX-License-Identifier: Apache-2.0
"""The common part of the commands that trace: from parsed options to a run, and from its end to the
last lines."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from tracer.cli._options import (
    count,
    cri_socket,
    in_colour,
    limits,
    no_argv,
    node_name,
    options_of,
    output,
    probe_options,
    selection,
    selectors,
)
from tracer.kernel.limits import reason
from tracer.model.errors import UsageError
from tracer.model.event import Clock, Event
from tracer.model.selection import Selection
from tracer.outputs.escape import escape
from tracer.probes import Probe

if TYPE_CHECKING:  # slow: not every command traces
    from tracer.kubernetes.access import Access
    from tracer.recording.files import Destination
    from tracer.recording.recorder import Recorder
    from tracer.session.run import Run, TraceRequest
    from tracer.session.session import Sink, Summary


def probe_command(probe: Probe) -> click.Command:
    def run(**values: Any) -> None:
        trace([probe], values)

    return command(probe.name, probe.help, probe.examples, [*probe_options([probe])], run)


def command(
    name: str, summary: str, examples: Sequence[str], options: list[click.Parameter], run: Any
) -> click.Command:
    shared = [*selectors(), *output(), count(), *limits(), record_option(), no_argv()]
    shared += [cri_socket(), node_name()]
    return make_command(name, summary, examples, [*options, *shared], run)


def record_option() -> click.Option:
    return click.Option(
        ["--record", "recording"],
        type=click.Path(),
        metavar="FILE",
        help="Keep everything in FILE, too; ktrace replay shows it again.",
    )


def make_command(
    name: str, summary: str, examples: Sequence[str], params: list[click.Parameter], run: Any
) -> click.Command:
    return click.Command(
        name,
        params=params,
        callback=run,
        help=summary,
        epilog="\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples),
        context_settings={"max_content_width": 110},
    )


def trace(probes: Sequence[Probe], values: Mapping[str, Any]) -> None:
    """Runs the probes until Ctrl-C, SIGTERM or a limit; the summary goes to standard error."""
    out: Destination | None = None
    if values["recording"]:
        from tracer.recording.files import SingleFile

        out = SingleFile(Path(values["recording"]))
    from tracer.session.run import Run

    clock = Clock()
    node = node_of(values["node_name"])
    sink = make_sink(probes, values, clock, node)
    record = recording_to(out, node, tell_failure) if out else None
    with Run(request(probes, values), sink, clock, say, record) as run:
        begin(run, values["ready_file"])
        if sys.stderr.isatty():
            questions = ", ".join(probe.name for probe in run.probes)
            click.echo(
                f"ktrace: tracing {questions} on {node or 'this node'}; Ctrl-C ends", err=True
            )
        to_the_end(run)


def request(
    probes: Sequence[Probe], values: Mapping[str, Any], chosen: Selection | None = None
) -> TraceRequest:
    """The request for these options. `chosen` replaces the selection of the selectors."""
    from tracer.session.run import TraceRequest

    return TraceRequest(
        probes=tuple(probes),
        selection=selection(values) if chosen is None else chosen,
        options={probe.name: options_of(probe, values) for probe in probes},
        backend=values["backend"],
        duration=values["duration"],
        count=values.get("count"),
        argv=not values["no_argv"],
        cri_socket=values["cri_socket"],
        wait=values["wait"],
        kubernetes=_kubernetes(values),
    )


def _kubernetes(values: Mapping[str, Any]) -> tuple[Access, str] | None:
    """The way to its API, and this node's name there; None if it shall not be asked."""
    if not (values.get("kubernetes") or values.get("kubeconfig")):
        return None
    from tracer.kernel import node
    from tracer.kubernetes.access import find

    name = node.name(values["node_name"])
    if not name:
        raise UsageError("this node's name in Kubernetes is not known", "give --node-name NAME")
    return find(values["kubeconfig"]), name


def say(words: str) -> None:
    """Escaped: names in it are untrusted."""
    click.echo(escape(words), err=True)


def node_of(told: str | None) -> str:
    """The node's name. If it is unknown, says so and returns an empty one."""
    from tracer.kernel import node

    name = node.name(told)
    if not name:
        say(f"ktrace: {node.UNTOLD}")
    return name


def recording_to(
    out: Destination, node: str, on_failure: Callable[[Run, OSError], None]
) -> Callable[[Run], Recorder]:
    """Returns the `record` of a `Run`. `on_failure` is called once, when the recording fails."""

    def record(run: Run) -> Recorder:
        from tracer.recording.recorder import recorder_of

        return recorder_of(run, out, node, lambda error: on_failure(run, error))

    return record


def tell_failure(_run: Run, error: OSError) -> None:
    say(f"ktrace: the recording ends here: {reason(error)}; tracing goes on")


def end_with_failure(run: Run, error: OSError) -> None:
    """Ends the run: a command that only records has nothing left to do."""
    say(f"ktrace: the recording ends here: {reason(error)}")
    run.stop()


def begin(run: Run, ready_file: str | None) -> None:
    """Attaches the run. From now on signals end it."""
    run.check()
    stop_on_signals(run)
    run.attach()
    if run.unmatched:
        say(f"ktrace: {run.unmatched}")
    tell_ready(ready_file)


def to_the_end(run: Run, forgotten: Callable[[], int] = lambda: 0) -> None:
    """Runs to the end, then prints the summary. `forgotten` counts the forgotten timelines."""
    summary = run.run()
    unrecorded = run.recorder.unrecorded if run.recorder else 0
    click.echo(closing_line(summary, unrecorded, forgotten()), err=True)
    for what, runs in run.backend.unseen.items():
        say(f"ktrace: {runs} {what} were not looked at, see ktrace doctor")
    for source, failure in run.silent.items():
        say(f"ktrace: names may be missing: {source}: {failure}")


def make_sink(
    probes: Sequence[Probe],
    values: Mapping[str, Any],
    clock: Clock,
    node: str,
    *,
    recorded: bool = False,
) -> Sink:
    """`recorded` if the events come from a file, beside which more memory may be used."""
    if values["output"] == "json":
        from tracer.outputs.jsonl import MAX_LINES, MAX_RECORDED, JsonLines

        most = MAX_RECORDED if recorded else MAX_LINES
        return JsonLines(sys.stdout.buffer, clock, node, most)
    from tracer.outputs.stream import stream_columns
    from tracer.outputs.table import Table

    by_kind = {kind: probe for probe in probes for kind in probe.whose}
    columns = probes[0].columns if len(probes) == 1 else stream_columns(by_kind)

    def alarm(event: Event) -> bool:
        return by_kind[event.kind].alarm(event)

    if values["output"].startswith("rows"):
        from tracer.outputs.rows import Rows

        wide = values["output"] == "rows-wide"
        return Rows(sys.stdout.buffer, clock, columns, alarm, wide=wide)
    return Table(
        sys.stdout,
        clock,
        columns,
        alarm,
        wide=values["output"] == "wide",
        colour=in_colour(values["color"]),
        headers=not values["no_headers"],
        fit=sys.stdout.isatty(),
    )


class Stoppable(Protocol):
    @property
    def stopping(self) -> bool:
        """Whether it is already ending."""

    def stop(self) -> None:
        """Makes it end. May be called from a signal handler."""


def stop_on_signals(what: Stoppable) -> None:
    """The first signal ends it in order, a second one at once, because a write to a pipe may block
    for ever. Under nohup SIGHUP stays ignored."""

    def on_signal(number: int, _frame: Any) -> None:
        if what.stopping:
            raise KeyboardInterrupt
        what.stop()

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        ignored = name == "SIGHUP" and number and signal.getsignal(number) is signal.SIG_IGN
        if number and not ignored:
            signal.signal(number, on_signal)


def tell_ready(path: str | None) -> None:
    """Creates the file that says that tracing has begun, if one is wanted."""
    from tracer.recording.files import create_private

    if not path:
        return
    try:
        os.close(create_private(Path(path)))
    except OSError as error:
        raise UsageError(f"--ready-file {path}: {reason(error)}") from error


def closing_line(summary: Summary, unrecorded: int = 0, forgotten: int = 0) -> str:
    line = f"ktrace: {summary.events} events, {summary.lost} lost, {summary.seconds:.1f} s"
    if summary.undescribed:
        line += f"; {summary.undescribed} descriptions of processes or cgroups were lost too"
    if summary.unknown:
        line += (
            f"; {summary.unknown} times what an event referred to had been forgotten, as there was"
            " too much of it"
        )
    if summary.undecoded:
        line += f"; {summary.undecoded} records mean nothing to this ktrace"
    if summary.nameless:
        line += (
            f"; {summary.nameless} more were left out because the names or labels that the selector"
            " asks for never became known"
        )
    if unrecorded:
        line += f"; {unrecorded} events are not in the recording"
    if forgotten:
        line += f"; {timelines_forgotten(forgotten)}"
    return line


def timelines_forgotten(number: int) -> str:
    """Ended ones are not mentioned: their verdicts were shown when they ended."""
    timelines = "1 timeline" if number == 1 else f"{number} timelines"
    return f"{timelines} of what still runs had been forgotten, as there was too much of them"
