# SPDX-License-Identifier: Apache-2.0
"""Make a page of a recording: what happened, a timeline, every detail, in one file.

`ktrace report FILE`: the incident as a page, to be passed on.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from tracer.cli._options import no_argv
from tracer.cli._recording import chosen_of_recording
from tracer.cli._tracing import make_command, say
from tracer.cli.export import export
from tracer.model.errors import BadRecording, UsageError
from tracer.model.summary import summary


def run(
    file: str, out: str | None, no_argv: bool, anonymize: bool, open_: bool, **values: Any
) -> None:
    if open_ and out == "-":
        raise UsageError("--open opens a file", f"add -o {Path(file).stem}.html")
    if out is None and (open_ or sys.stdout.isatty()):
        out = _named_after("incident" if anonymize else file)
    argv = not (no_argv or anonymize)
    before = _changed(out)
    try:
        export(file, "html", out, values, argv=argv, anonymous=anonymize)
    except BadRecording:
        if out and _changed(out) != before:  # a page of what could be read
            _tell(out, open_)
        raise
    if out and out != "-":
        _tell(out, open_)


def _named_after(file: str) -> str:
    """In the current directory, where no file is written over that was not named."""
    out = f"{Path(file).name.removesuffix('.ktrace')}.html"
    if Path(out).exists() or Path(out).is_symlink():
        raise UsageError(f"{out} is there already", f"-o {shlex.quote(out)} writes over it")
    return out


def _changed(out: str | None) -> int | None:
    """When a file was last written; None if there is none."""
    found = Path(out) if out else None
    return found.stat().st_mtime_ns if found and found.is_file() else None


def _tell(out: str, open_: bool) -> None:
    say(f"ktrace: the page is in {out}")
    if open_ and click.launch(str(Path(out).resolve())):
        say(f"ktrace: there is nothing here that opens pages; open {out} in a browser")


command = make_command(
    "report",
    summary(__doc__),
    (
        "ktrace report incident.ktrace                         writes incident.html",
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
            help="Default: on a terminal, a file named after the recording, else standard output,"
            " as with -.",
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
