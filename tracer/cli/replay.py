# SPDX-License-Identifier: Apache-2.0
"""Show a recording as it was shown live: no privilege, any machine.

`ktrace replay FILE`: shows a recording as it was shown live, on any machine.
"""

from __future__ import annotations

from typing import Any

import click

from tracer.cli._options import output
from tracer.cli._recording import chosen_of_recording, play, wanted_of_recording
from tracer.cli._tracing import make_command, make_sink
from tracer.model.event import MAX_RECORDED_JSON, keep_json
from tracer.model.summary import summary


def run(file: str, speed: str, **values: Any) -> None:
    keep_json(MAX_RECORDED_JSON)
    play(
        file,
        wanted_of_recording(values),
        lambda told, probes, clock, _: make_sink(probes, values, clock, told.node, recorded=True),
        None if speed == "max" else float(speed),
    )


command = make_command(
    "replay",
    summary(__doc__),
    (
        "ktrace replay incident.ktrace -p web        what happened to pod web",
        "ktrace replay incident.ktrace -o json       the same lines as the live run's",
        "ktrace replay incident.ktrace --from +2m --to +3m",
        "ktrace replay incident.ktrace --speed 1     as fast as it happened",
    ),
    [
        click.Argument(["file"], type=click.Path(readable=False), metavar="FILE"),
        *chosen_of_recording(),
        *output(),
        click.Option(
            ["--speed"],
            type=click.Choice(["1", "10", "max"]),
            default="max",
            show_default=True,
            help="1: as fast as it happened; 10: ten times; max: without waiting.",
        ),
    ],
    run,
)
