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
    if out is None and exporter.binary and sys.stdout.isatty():
        raise UsageError(
            f"{format_} is nothing for a terminal", f"add -o {Path(file).stem}{exporter.suffix}"
        )
    sinks: list[ExportSink] = []
    with ExitStack() as stack:
        stream: BinaryIO = sys.stdout.buffer
        if out is not None:
            if Path(out).exists() and Path(out).samefile(file):
                raise UsageError(f"{out} is the recording itself", "give another file with -o")
            stream = stack.enter_context(Path(out).open("wb"))

        def make(told: Any, probes: Any, clock: Any, places: Any) -> ExportSink:
            kinds = {kind: probe for probe in probes for kind in probe.decode}
            sinks.append(exporter.make(Target(stream, clock, told.node, kinds, places)))
            return sinks[0]

        try:
            play(file, values, make, explain=True)
        finally:
            for sink in sinks:
                sink.close()


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
        click.Argument(["file"], metavar="FILE"),
        click.Option(
            ["-f", "--format", "format_"],
            type=click.Choice(exporters.names()),
            default="jsonl",
            show_default=True,
            help="The format.",
        ),
        click.Option(["-o", "--output", "out"], metavar="FILE", help="Default: standard output."),
        *chosen_of_recording(),
    ],
    run,
)
