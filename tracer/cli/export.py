# SPDX-License-Identifier: Apache-2.0
"""`ktrace export FILE`: a recording for other tools."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import click

from tracer.cli._recording import chosen_of_recording, play
from tracer.cli._tracing import make_command
from tracer.errors import UsageError
from tracer.recording import exporters
from tracer.recording.exporters import ExportSink, Target


def run(file: str, format_: str, out: str | None, **values: Any) -> None:
    exporter = exporters.get(format_)
    exporter.require()
    if out is None and exporter.binary and sys.stdout.isatty():
        raise UsageError(
            f"{format_} is nothing for a terminal", f"add -o {Path(file).stem}{exporter.suffix}"
        )
    sinks: list[ExportSink] = []
    with ExitStack() as stack:

        def make(told: Any, probes: Any, clock: Any, places: Any) -> ExportSink:
            """Only now, or a recording that cannot be read would cost the export before it."""
            stream = stack.enter_context(_open(out, file)) if out else sys.stdout.buffer
            kinds = {kind: probe for probe in probes for kind in probe.decode}
            sinks.append(exporter.make(Target(stream, clock, told.node, kinds, places)))
            return sinks[0]

        try:
            play(file, values, make, explain=True)
        finally:
            for sink in sinks:
                sink.close()


def _open(out: str, recording: str) -> BinaryIO:
    if Path(out).exists() and Path(out).samefile(recording):
        raise UsageError(f"{out} is the recording itself", "give another file with -o")
    return Path(out).open("wb")


command = make_command(
    "export",
    "Turn a recording into what other tools read, verdicts included.",
    (
        "ktrace export incident.ktrace -f parquet -o incident.parquet",
        "ktrace export incident.ktrace -f perfetto -o incident.perfetto-trace",
        "ktrace export incident.ktrace -f otlp -p web | gzip > web.otlp.jsonl.gz",
        "ktrace export incident.ktrace | jq -r .kind | sort | uniq -c",
    ),
    [
        click.Argument(["file"], type=click.Path(), metavar="FILE"),
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
            help="Default: standard output.",
        ),
        *chosen_of_recording(),
    ],
    run,
)
