# SPDX-License-Identifier: Apache-2.0
"""What `ktrace <probe>` and `ktrace trace` have in common: from parsed options to a running
session."""

from __future__ import annotations

import os
import queue
import signal
import sys
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tracer.cli._options import (
    count,
    cri_socket,
    in_colour,
    limits,
    no_argv,
    node_name,
    output,
    selection,
    selectors,
)
from tracer.kernel.limits import check_descriptors, reason
from tracer.model.errors import CannotOnThisKernel, UsageError
from tracer.model.event import Clock, Event
from tracer.model.names import Names
from tracer.model.selection import Mode, Selection
from tracer.outputs.escape import escape
from tracer.probes import Probe
from tracer.session.session import Session, Sink, Summary

if TYPE_CHECKING:
    from tracer.recording.files import Destination
    from tracer.recording.recorder import Recorder

T = TypeVar("T")


def probe_command(probe: Probe) -> click.Command:
    def run(**values: Any) -> None:
        trace([probe], values)

    return command(probe.name, probe.help, probe.examples, [*probe.options], run)


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
    clock = Clock()
    node = node_of(values)
    sink = make_sink(probes, values, clock, node)
    run = Tracing(probes, values, sink, clock, out, node)
    if sys.stderr.isatty():
        questions = ", ".join(probe.name for probe in run.probes)
        click.echo(f"ktrace: tracing {questions} on {node or 'this node'}; Ctrl-C ends", err=True)
    run.to_the_end()


def _say(words: str) -> None:
    click.echo(words, err=True)


def node_of(values: Mapping[str, Any], say: Callable[[str], None] = _say) -> str:
    """What the node is called; empty where nobody knows, and then `say` is told."""
    from tracer.kernel import node

    name = node.name(values["node_name"])
    if not name:
        say("ktrace: in a pod, and nobody tells the node's name: set NODE_NAME from spec.nodeName")
    return name


class Tracing:
    """A session that is attached and has begun, with those of the probes that this node takes. They
    are `probes` then, and `backend` is what runs them; `wanted` is whose events they tell, and
    `state_sources` tell how pods stand.

    Without a sink nothing is decoded. `alone` says that signals are to end it, which only the main
    thread can arrange; `say` is told which probes are left out, why another backend than the first
    was chosen and what takes long, instead of standard error."""

    backend: str
    probes: Sequence[Probe]
    session: Session
    wanted: Selection

    def __init__(
        self,
        probes: Sequence[Probe],
        values: Mapping[str, Any],
        sink: Sink | None,
        clock: Clock,
        out: Destination | None,
        node: str,
        *,
        alone: bool = True,
        say: Callable[[str], None] = _say,
    ) -> None:
        from tracer.backends import Backend, choose, privileges
        from tracer.identity.cri import CriSource
        from tracer.identity.inventory import check_globs, check_labels, check_pids, name_sources
        from tracer.identity.mirror import with_static_pods
        from tracer.identity.names import NameService
        from tracer.kernel import heap
        from tracer.kernel.cgroupfs import has_pods
        from tracer.session.live import LiveSource

        chosen = with_static_pods(selection(values), say)
        if chosen.mode is not Mode.ALL:
            chosen = replace(chosen, without_pods=not has_pods())
        self.wanted = chosen
        limit = values.get("count")
        settings = {probe.name: probe.settings(values) for probe in probes}  # or it is wrong usage
        privileges.check()
        check_descriptors(len(probes))
        if not values["wait"]:
            check_pids(chosen.pids)
        heap.keep_little()
        sources = name_sources(values["cri_socket"])
        if chosen.labels:
            check_labels(sources)
        arrivals: queue.SimpleQueue[Names] = queue.SimpleQueue()
        self.state_sources = [source for source in sources if isinstance(source, CriSource)]
        self._names = names = NameService(sources, arrivals.put)
        names.start()
        if (chosen.globs or chosen.labels) and not values["wait"]:
            for doubt in check_globs(chosen.globs, names, arrivals):
                say(f"ktrace: {escape(doubt)}")

        def attach(wanted: Sequence[Probe]) -> tuple[LiveSource, Backend]:
            backend = choose(values["backend"], wanted, say)
            live = LiveSource(
                *(backend, names, arrivals, clock),
                duration=values["duration"],
                decoding=sink is not None,
                argv=not values["no_argv"],
            )
            self.session = Session(live, wanted, chosen, sink, clock, limit)
            if alone:
                stop_on_signals(self.session, self.session.stop)
            live.attach(wanted, chosen, dict(ChainMap(*(settings[p.name] for p in wanted))))
            self._backend, self.backend, self.probes = backend, backend.name, wanted
            return live, backend

        live, backend = _with_accepted(attach, probes, values, say)
        self.recorder: Recorder | None = None
        if out:
            from tracer.recording.recorder import Recorder, metadata_here

            metadata = metadata_here(node, backend, clock, chosen, limit)
            on_failure = _say_failure if sink else self._end_with
            self.recorder = Recorder(out, metadata, self.probes, on_failure)
            self.session.recorder = self.recorder
        for turn in live.begin():
            self.session.take(turn)
        heap.give_back()
        if values["ready_file"]:
            _create(values["ready_file"])

    @property
    def cannot_tell(self) -> dict[str, tuple[str, ...]]:
        """What cannot be told on this node, of each probe."""
        return {name: point.cannot_tell for name, point in self._backend.attached.items()}

    def to_the_end(self, forgotten: Callable[[], int] = lambda: 0) -> None:
        """`forgotten` tells, at the end, how many timelines were."""
        unrecorded = 0
        try:
            summary = self.session.run()
        finally:  # what was seen before a failure is kept
            if self.recorder:
                self.recorder.close()
                unrecorded = self.recorder.unrecorded
        click.echo(closing_line(summary, unrecorded, forgotten()), err=True)
        if not summary.events and self.wanted.mode is Mode.EITHER and not self._has_containers():
            click.echo(
                "ktrace: nothing on this node was in a pod or container; --all traces the whole"
                " node",
                err=True,
            )
        for what, runs in self._backend.unseen.items():
            click.echo(f"ktrace: {runs} {what} were not looked at, see ktrace doctor", err=True)
        for source, failure in self._names.failures.items():
            click.echo(f"ktrace: names may be missing: {source}: {escape(failure)}", err=True)

    def _has_containers(self) -> bool:
        return any(place.pod or place.container for place in self.session.resolver.places())

    def _end_with(self, error: OSError) -> None:
        """Who only records has nothing left to do."""
        click.echo(f"ktrace: the recording ends here: {reason(error)}", err=True)
        self.session.stop()


def _with_accepted(
    attach: Callable[[Sequence[Probe]], T],
    probes: Sequence[Probe],
    values: Mapping[str, Any],
    say: Callable[[str], None],
) -> T:
    """Attaches all probes together. If the node refuses one, those that it takes, and says which
    are left out. Raises `CannotOnThisKernel` if it takes none."""
    try:
        return attach(probes)
    except CannotOnThisKernel:
        refused = {probe.name: error for probe in probes if (error := _refusal(probe, values))}
        if len(refused) in (0, len(probes)):
            raise
    for error in refused.values():
        say(f"ktrace: without {error.message}")
    return attach([probe for probe in probes if probe.name not in refused])


def _refusal(probe: Probe, values: Mapping[str, Any]) -> CannotOnThisKernel | None:
    """Why this node does not take the probe; None if it does."""
    from tracer.backends import choose

    try:
        backend = choose(values["backend"], [probe], lambda words: None)
        backend.attach([probe], {})
    except CannotOnThisKernel as error:
        return error
    backend.close()
    return None


def _say_failure(error: OSError) -> None:
    words = f"the recording ends here: {reason(error)}; tracing goes on"
    click.echo(f"ktrace: {words}", err=True)


def make_sink(probes: Sequence[Probe], values: Mapping[str, Any], clock: Clock, node: str) -> Sink:
    if values["output"] == "json":
        from tracer.outputs.jsonl import JsonLines

        return JsonLines(sys.stdout.buffer, clock, node)
    from tracer.outputs.stream import stream_columns
    from tracer.outputs.table import Table

    by_kind = {kind: probe for probe in probes for kind in probe.decode}
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


def stop_on_signals(session: Session, stop: Callable[[], None]) -> None:
    """The first signal ends the session in order, a second one at once: somebody may be blocked
    writing to a pipe that nobody reads. Under nohup the end of the terminal stays ignored."""

    def on_signal(number: int, _frame: Any) -> None:
        if session.stopping:
            raise KeyboardInterrupt
        session.stopping = True
        stop()

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        ignored = name == "SIGHUP" and number and signal.getsignal(number) is signal.SIG_IGN
        if number and not ignored:
            signal.signal(number, on_signal)


def _create(path: str) -> None:
    from tracer.recording.files import create_private

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
    """Of those that have ended nothing is said: theirs was told when they ended."""
    timelines = "1 timeline" if number == 1 else f"{number} timelines"
    return f"{timelines} of what still runs had been forgotten, as there was too much of them"
