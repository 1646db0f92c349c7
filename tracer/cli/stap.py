# SPDX-License-Identifier: Apache-2.0
"""Make kernel modules for --backend stap.

`ktrace stap …`: builds kernel modules for the SystemTap backend, where there is a compiler.
"""

from __future__ import annotations

import platform
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tracer import probes
from tracer.model.errors import KtraceError, UsageError
from tracer.model.summary import summary

if TYPE_CHECKING:
    from tracer.backends.stap.modules import Script


@click.group(
    name="stap",
    help=summary(__doc__),
    epilog="\b\nExamples:\n  ktrace stap build\n  ktrace stap build --help",
)
def command() -> None:
    pass


def build(wanted: tuple[str, ...], kernel: str | None, output: Path | None) -> None:
    from tracer.backends.stap.modules import build as build_module
    from tracer.backends.stap.modules import cache

    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that a partial module is removed
    release, directory = kernel or platform.release(), output or cache()
    if "/" in release or release.startswith("."):
        raise UsageError(f"{release!r} is no kernel release", "it is what uname -r prints there")
    failed, remedy = 0, None
    for script in _chosen(wanted):
        click.echo(f"{script.probe}: building for {release} …", err=True)
        began = time.monotonic()
        try:
            module = build_module(script, release, directory)
        except KtraceError as error:
            failed, remedy = failed + 1, error.remedy
            click.echo(f"{script.probe}: {error.message}", err=True)
        else:
            click.echo(f"{script.probe}: done in {time.monotonic() - began:.0f} s", err=True)
            click.echo(module)
    if failed:
        raise KtraceError(
            f"{failed} of the modules could not be built",
            remedy or "docs/compatibility.md tells which SystemTap builds modules for which kernel",
        )


def _chosen(wanted: tuple[str, ...]) -> list[Script]:
    from tracer.backends.stap.modules import Script

    every = [script for script in map(Script, probes.names()) if script.exists]
    chosen = [script for script in every if not wanted or script.probe in wanted]
    if unknown := set(wanted) - {script.probe for script in chosen}:
        raise UsageError(
            f"there is no SystemTap script for {', '.join(sorted(unknown))}",
            f"there is one for {', '.join(script.probe for script in every)}",
        )
    return chosen


command.add_command(
    click.Command(
        "build",
        params=[
            click.Argument(["wanted"], nargs=-1, metavar="[PROBE]…"),
            click.Option(
                ["--kernel"],
                metavar="RELEASE",
                help="What uname -r prints there; its headers must be here. Default: this one's.",
            ),
            click.Option(
                ["-o", "--output"],
                type=click.Path(file_okay=False, path_type=Path),
                metavar="DIR",
                help="Put them below this directory; default: where ktrace itself looks.",
            ),
        ],
        callback=build,
        help="Build the modules of all probes that have a script, or of some.\n\n"
        "A node without a compiler needs only staprun, and what is below DIR in its own directory "
        "/var/lib/ktrace/stap (the environment variable KTRACE_STAP_MODULES can name another). The "
        "paths of the modules are printed.",
        epilog="\b\nExamples:\n"
        "  ktrace stap build                             for this machine's kernel\n"
        "  ktrace stap build signals oom --kernel 5.10.0-32-amd64 -o modules\n"
        "  rsync -r modules/ node:/var/lib/ktrace/stap/",
        context_settings={"max_content_width": 110},
    )
)
