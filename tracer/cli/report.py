# SPDX-License-Identifier: Apache-2.0
"""`ktrace report FILE`: the incident as a page, to be passed on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tracer.cli._options import no_argv
from tracer.cli._recording import chosen_of_recording
from tracer.cli._tracing import make_command, say
from tracer.cli.export import export
from tracer.model.errors import BadRecording, UsageError


def run(
    file: str, out: str | None, no_argv: bool, anonymize: bool, open_: bool, **values: Any
) -> None:
    if open_ and out in (None, "-"):
        raise UsageError("--open opens a file", f"add -o {Path(file).stem}.html")
    argv = not (no_argv or anonymize)
    try:
        export(file, "html", out, values, argv=argv, anonymous=anonymize)
    except BadRecording:
        if open_ and out and Path(out).is_file():
            _show(out)
        raise
    if open_ and out:
        _show(out)


def _show(out: str) -> None:
    if click.launch(str(Path(out).resolve())):
        say(f"ktrace: there is nothing here that opens pages; open {out} in a browser")


command = make_command(
    "report",
    "Make a page of a recording: what happened, a timeline, every detail, in one file.",
    (
        "ktrace report incident.ktrace -o incident.html",
        "ktrace report incident.ktrace -p shop/web-0 -o web-0.html --open",
        "ktrace report incident.ktrace --from +2m --to +3m -o minute.html",
        "ktrace report incident.ktrace --anonymize -o for-the-vendor.html",
    ),
    [
        click.Argument(["file"], type=click.Path(readable=False), metavar="FILE"),
        click.Option(
            ["-o", "--output", "out"],
            type=click.Path(),
            metavar="FILE",
            help="Default, and -: standard output.",
        ),
        *chosen_of_recording(),
        no_argv(),
        click.Option(
            ["--anonymize"],
            is_flag=True,
            help="Aliases for pods, containers, processes, programs, addresses and the node; no"
            " arguments, labels and words of Kubernetes.",
        ),
        click.Option(["--open", "open_"], is_flag=True, help="Show the page in the browser."),
    ],
    run,
)
