# SPDX-License-Identifier: Apache-2.0
"""Record what happens, to be replayed anywhere.

`ktrace record -o FILE`: records events without decoding them.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from tracer import probes
from tracer.cli._options import (
    Duration,
    Size,
    complete_probes,
    cri_socket,
    every_probe,
    kubernetes,
    limits,
    no_argv,
    node_name,
    probe_options,
    selectors,
)
from tracer.cli._tracing import (
    begin,
    end_with_failure,
    make_command,
    node_of,
    recording_to,
    request,
    say,
    tell_failure,
    to_the_end,
)
from tracer.cli.trace import chosen_probes
from tracer.model.errors import KtraceError, UsageError
from tracer.model.event import Clock, Event, to_json
from tracer.model.expression import Condition
from tracer.model.summary import summary
from tracer.probes import Probe
from tracer.recording.files import Destination, Full, RotatingFiles, SingleFile, Stream
from tracer.recording.flight import BY_HAND, FlightRecorder, Trigger
from tracer.session.run import Run
from tracer.session.session import Summary

# The size of all flight recordings together.
MAX_FLIGHTS = 1 << 30


def run(names: str | None, file: str, **values: Any) -> None:
    chosen = chosen_probes(names or ",".join(probes.names()))
    path, clock, node = Path(file), Clock(), node_of(values["node_name"])
    asked = request(chosen, values)
    if values["flight"] is None:
        if values["triggers"]:
            raise UsageError("--trigger needs a window", "add --flight 10m")
        progress = Progress(_files(path, values))
        _record(
            Run(asked, None, clock, say, recording_to(progress, node, end_with_failure)),
            file,
            values,
            progress,
        )
    else:
        recorder, trigger = _flight(chosen, values, clock, path, node)
        _record(
            Run(asked, trigger, clock, say, recording_to(recorder, node, tell_failure)),
            file,
            values,
        )


def _record(
    run: Run, file: str, values: Mapping[str, Any], progress: Progress | None = None
) -> None:
    with run:
        begin(run, values["ready_file"])
        if progress:
            progress.summary = run.session.summary
        if sys.stderr.isatty():
            questions = ", ".join(probe.name for probe in run.probes)
            click.echo(f"ktrace: recording {questions} to {file}; Ctrl-C ends", err=True)
        to_the_end(run)
    failure = run.recorder and run.recorder.failure
    if failure and not isinstance(failure, Full):
        raise KtraceError(f"{file}: not everything was recorded", "make room and record again")


class Progress:
    """A destination that also shows the progress, once a second and only on a terminal."""

    def __init__(self, out: Destination) -> None:
        self.summary: Summary | None = None
        self.resumes, self.idle = out.resumes, out.idle
        self.begin, self.write = out.begin, out.write
        self._out = out
        self._next = 0
        self._shown = False

    def tick(self, now: int) -> None:
        self._out.tick(now)
        if self.summary and now >= self._next and sys.stderr.isatty():
            self._next = now + 1_000_000_000
            self._shown = True
            seen = self.summary
            line = f"\r{seen.events} events, {seen.lost} lost, {seen.seconds:.0f} s "
            click.echo(line, err=True, nl=False)

    def close(self, end: bytes) -> None:
        if self._shown:
            click.echo(err=True)
        self._out.close(end)


def _files(path: Path, values: Mapping[str, Any]) -> Destination:
    if str(path) == "-":
        if sys.stdout.isatty() or values["rotate"] is not None:
            raise UsageError("-o - takes one recording, and no terminal", "give a file with -o")
        return Stream(sys.stdout.fileno(), values["max_size"])
    if values["rotate"] is None:
        return SingleFile(path, values["max_size"])
    if values["max_size"] is None:
        raise UsageError("--rotate needs a size", "add --max-size 100M")
    return RotatingFiles(path, values["max_size"], values["rotate"])


def _flight(
    chosen: Sequence[Probe], values: Mapping[str, Any], clock: Clock, path: Path, node: str
) -> tuple[FlightRecorder, Trigger]:
    """Events are decoded only for the triggers."""
    if values["rotate"] is not None:
        raise UsageError("--flight and --rotate exclude each other", "leave out --rotate")
    if not values["flight"]:
        raise UsageError("--flight needs a window", "such as --flight 10m")
    shorthands = {kind: probe.shorthand for probe in chosen for kind in probe.whose}
    conditions = {words: Condition(words, shorthands) for words in values["triggers"]}
    recorder = FlightRecorder(
        *(path, clock, lambda words: click.echo(f"ktrace: {words}", err=True)),
        seconds=values["flight"],
        after=values["after"],
        cool_down=values["cool_down"],
        max_size=values["max_size"] or MAX_FLIGHTS,
    )
    signal.signal(signal.SIGUSR1, lambda number, frame: recorder.fire(BY_HAND))
    tests = {words: _test(condition, clock, node) for words, condition in conditions.items()}
    return recorder, Trigger(tests, recorder.fire)


def _test(condition: Condition, clock: Clock, node: str) -> Callable[[Event], bool]:

    def holds(event: Event) -> bool:
        possible = condition.kind in (None, event.kind)
        return possible and condition.holds(orjson.loads(to_json(event, clock, node)))

    return holds


command = make_command(
    "record",
    summary(__doc__),
    (
        "ktrace record -o node.ktrace                       every probe, every pod",
        "ktrace record -o node.ktrace signals,exits -n shop",
        "ktrace record -o node.ktrace --all --duration 10m",
        "ktrace record -o node.ktrace --max-size 100M --rotate 5",
        "ktrace record -o /var/lib/ktrace --flight 10m --trigger oom --trigger 'exit:code!=0'",
        "ktrace replay node.ktrace                          later, on a laptop",
    ),
    [
        click.Argument(
            ["names"],
            metavar="[PROBE[,PROBE…]]",
            required=False,
            shell_complete=complete_probes,
        ),
        click.Option(
            ["-o", "--output", "file"],
            type=click.Path(),
            required=True,
            metavar="FILE",
            help="Where to; - is standard output.",
        ),
        *probe_options(every_probe()),
        *selectors(),
        *limits(),
        click.Option(
            ["--max-size"],
            type=Size(),
            metavar="SIZE",
            help="Stop at this size, such as 100M; with --rotate begin the next file; with --flight"
            " of all recordings together, default 1G.",
        ),
        click.Option(
            ["--rotate"],
            type=click.IntRange(1),
            metavar="N",
            help="Keep the last N files: FILE, FILE.1 …",
        ),
        click.Option(
            ["--flight"],
            type=Duration(),
            metavar="TIME",
            help="Keep only the last 10m …, until a trigger or SIGUSR1 has them written"
            " to a recording in the directory -o.",
        ),
        click.Option(
            ["--trigger", "triggers"],
            multiple=True,
            metavar="CONDITION",
            help="oom, signal:KILL, 'exit:code!=0', or any comparison of an event's keys."
            " Repeatable.",
        ),
        click.Option(
            ["--after"],
            type=Duration(),
            default=30,
            metavar="TIME",
            help="How long a flight recording goes on after its trigger; default: 30s.",
        ),
        click.Option(
            ["--cool-down"],
            type=Duration(),
            default=300,
            metavar="TIME",
            help="How long after a flight recording there is no other; default: 5m.",
        ),
        no_argv(),
        *kubernetes(),
        cri_socket(),
        node_name(),
    ],
    run,
)
