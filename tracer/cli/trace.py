# SPDX-License-Identifier: Apache-2.0
"""Run several probes in one stream.

`ktrace trace A,B,…`: several probes in one stream.
"""

from __future__ import annotations

from typing import Any

import click

from tracer import probes
from tracer.cli._options import complete_probes, every_probe, probe_options
from tracer.cli._tracing import command as tracing_command
from tracer.cli._tracing import trace
from tracer.model.errors import UsageError
from tracer.model.summary import summary
from tracer.probes import Probe


def run(names: str, **values: Any) -> None:
    trace(chosen_probes(names), values)


def chosen_probes(names: str) -> list[Probe]:
    """The probes of `A,B,…`, each once."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in probes.names()]
    if unknown or not wanted:
        raise UsageError(
            f"no probe is called {', '.join(map(repr, unknown)) or repr(names)}",
            f"the probes are {', '.join(probes.names())}",
        )
    return [probes.get(name) for name in dict.fromkeys(wanted)]


command = tracing_command(
    "trace",
    summary(__doc__),
    (
        "ktrace trace signals,exits            both, ordered by time",
        "ktrace trace signals,exits -p web -o json",
    ),
    [
        click.Argument(["names"], metavar="PROBE[,PROBE…]", shell_complete=complete_probes),
        *probe_options(every_probe()),
    ],
    run,
)
