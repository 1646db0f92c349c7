# SPDX-License-Identifier: Apache-2.0
"""`ktrace record -o FILE`: keeps what happens, without looking at it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from tracer import probes
from tracer.cli._options import cri_socket, limits, no_argv, selectors
from tracer.cli._tracing import Tracing, make_command
from tracer.cli.trace import chosen_probes
from tracer.errors import KtraceError
from tracer.event import Clock
from tracer.recording.files import SingleFile


def run(names: str | None, file: str, **values: Any) -> None:
    chosen = chosen_probes(names or ",".join(probes.names()))
    tracing = Tracing(chosen, values, None, Clock(), SingleFile(Path(file)))
    if sys.stderr.isatty():
        questions = ", ".join(probe.name for probe in chosen)
        click.echo(f"ktrace: recording {questions} to {file}; Ctrl-C ends", err=True)
    tracing.to_the_end()
    if tracing.recorder and tracing.recorder.failure:
        raise KtraceError(f"{file}: not everything was recorded", "make room and record again")


command = make_command(
    "record",
    "Record what happens, to be replayed anywhere.",
    (
        "ktrace record -o node.ktrace                       every probe, every pod",
        "ktrace record -o node.ktrace signals,exits -n shop",
        "ktrace record -o node.ktrace --all --duration 10m",
        "ktrace replay node.ktrace                          later, on a laptop",
    ),
    [
        click.Argument(["names"], metavar="[PROBE[,PROBE…]]", required=False),
        click.Option(["-o", "--output", "file"], required=True, metavar="FILE", help="Where to."),
        *(option for name in probes.names() for option in probes.get(name).options),
        *selectors(),
        *limits(),
        no_argv(),
        cri_socket(),
    ],
    run,
)
