# SPDX-License-Identifier: Apache-2.0
"""Turn a recording into what other tools read, verdicts included.

`ktrace export FILE`: a recording for other tools.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

import click

from tracer.cli._recording import (
    EXPORTED_PATTERNS,
    chosen_of_recording,
    play,
    wanted_of_recording,
)
from tracer.cli._tracing import make_command
from tracer.model.errors import BadRecording, UsageError
from tracer.model.event import MAX_RECORDED_JSON, Event, keep_json
from tracer.model.summary import summary
from tracer.outputs import exporters
from tracer.outputs.exporters import Ending, ExportSink, Target
from tracer.probes import DAMAGE
from tracer.recording.files import create_output
from tracer.session.patterns import Sighting
from tracer.session.session import Grouping


def run(file: str, format_: str, out: str | None, **values: Any) -> None:
    export(file, format_, out, values)


def export(
    file: str,
    format_: str,
    out: str | None,
    values: Mapping[str, Any],
    *,
    argv: bool = True,
    anonymous: bool = False,
) -> None:
    """Writes the part of a recording that the options of `chosen_of_recording` choose."""
    exporter = exporters.get(format_)
    exporter.require()
    keep_json(MAX_RECORDED_JSON)
    out = None if out == "-" else out
    if out is None and exporter.binary and sys.stdout.isatty():
        raise UsageError(
            f"{format_} is nothing for a terminal", f"add -o {Path(file).stem}{exporter.suffix}"
        )
    sinks: list[ExportSink] = []
    ending = Ending()
    with ExitStack() as stack:

        def make(told: Any, probes: Any, clock: Any, places: Any) -> ExportSink:
            """Opens the output only now, so that an unreadable recording does not empty an earlier
            export."""
            stream = stack.enter_context(_open(out, file)) if out else sys.stdout.buffer
            kinds = {kind: probe for probe in probes for kind in probe.whose}
            about = told, Path(file).name, _words(values), anonymous, ending
            sink = exporter.make(Target(stream, clock, told.node, kinds, places, *about))
            guarded = _GuardedGroups if isinstance(sink, Grouping) else _Guarded
            sinks.append(guarded(sink, format_))
            return sinks[0]

        try:
            wanted = wanted_of_recording(values)
            play(
                *(file, wanted, make),
                explain=True,
                patterns=EXPORTED_PATTERNS,
                argv=argv,
                ending=ending,
            )
        finally:
            for sink in sinks:
                sink.close()


def _words(values: Mapping[str, Any]) -> str:
    """The options that choose, as they are written."""
    words = []
    for option in chosen_of_recording():
        value = values.get(option.name or "")
        for one in value if isinstance(value, tuple) else [value]:
            if one is not None and one is not False:
                words += [option.opts[-1]] if one is True else [option.opts[-1], str(one)]
    return shlex.join(words)


class _Guarded:
    """Reports a format's errors over damaged content as `BadRecording`."""

    def __init__(self, sink: ExportSink, format_: str) -> None:
        self._sink = sink
        self._format = format_
        self._failed = False

    def event(self, event: Event) -> None:
        self._do(lambda: self._sink.event(event))

    def flush(self) -> None:
        self._do(self._sink.flush)

    def close(self) -> None:
        if self._failed:
            with suppress(*DAMAGE):
                self._sink.close()
        else:
            self._do(self._sink.close)

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except DAMAGE as error:
            self._failed = True
            raise BadRecording(
                f"the recording holds what {self._format} cannot: {error}",
                "ktrace info tells what it holds; -f jsonl may go further",
            ) from error


class _GuardedGroups(_Guarded):
    """The same of a sink that groups like events."""

    def sightings(self, sightings: Iterable[Sighting]) -> None:
        sink = self._sink
        assert isinstance(sink, Grouping)
        self._do(lambda: sink.sightings(sightings))


def _open(out: str, recording: str) -> BinaryIO:
    """Readable only by its owner, like the recording."""
    if Path(out).exists() and Path(out).samefile(recording):
        raise UsageError(f"{out} is the recording itself", "give another file with -o")
    return os.fdopen(create_output(Path(out), devices=True), "wb")


command = make_command(
    "export",
    summary(__doc__),
    (
        "ktrace export incident.ktrace -f parquet -o incident.parquet",
        "ktrace export incident.ktrace -f perfetto -o incident.perfetto-trace",
        "ktrace export incident.ktrace -f otlp -p web | gzip > web.otlp.jsonl.gz",
        "ktrace export incident.ktrace | jq -r .kind | sort | uniq -c",
    ),
    [
        click.Argument(["file"], type=click.Path(readable=False), metavar="FILE"),
        click.Option(
            ["-f", "--format", "format_"],
            type=click.Choice(exporters.names()),
            default="jsonl",
            show_default=True,
            help="The format.",
        ),
        click.Option(
            ["-o", "--output", "out"],
            type=click.Path(),
            metavar="FILE",
            help="Default, and -: standard output.",
        ),
        *chosen_of_recording(),
    ],
    run,
)
