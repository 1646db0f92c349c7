# SPDX-License-Identifier: Apache-2.0
"""`make lab`, `python -m tests.lab [KERNEL …]`: the kernel tests on every kernel, as a matrix.

Ends with 0 only if no machine was lost and no test failed, on any kernel.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from rich.console import Console

from deploy.debian import FetchError
from tests.lab import arm64
from tests.lab.document import markdown, part_of, replaced
from tests.lab.guests import SUITES, chosen
from tests.lab.kernels import LabError, Suite
from tests.lab.lab import Lab
from tests.lab.matrix import show
from tests.lab.results import Results, describe_failures
from tests.support.markdown import Part, measured


@click.command()
@click.argument("kernels", nargs=-1, metavar="[KERNEL]…")
@click.option("--test", "tests", multiple=True, help="Instead of all: a file or pytest's node id.")
@click.option("--own/--no-own", default=True, help="Also this machine's own kernel.")
@click.option("--refresh", is_flag=True, help="Fetch the newest kernels, not those kept.")
@click.option(
    "--slowest", type=int, default=0, metavar="N", help="Tell each kernel's slowest tests."
)
@click.option(
    "--write",
    "document",
    type=click.Path(exists=True, dir_okay=False, writable=True, path_type=Path),
    help="Also put the matrix into this document.",
)
def main(
    kernels: tuple[str, ...],
    tests: tuple[str, ...],
    own: bool,
    refresh: bool,
    slowest: int,
    document: Path | None,
) -> None:
    """Run the kernel tests on Debian's kernels, in QEMU, and on this machine's own."""
    started, of_commit = time.monotonic(), measured()
    # ends like Ctrl-C, so that nothing is left behind
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        suites = chosen(kernels)
        if document:
            part = whole(suites, tests, own)
            own = own and suites == list(SUITES)
            replaced(document.read_text(), "", part)  # raises if there is no place for the matrix
        with Lab(suites, say, tests, refresh) as lab:
            everything = [told(lab.results(suite)) for suite in suites]
            if own:
                say("running on this machine's own kernel")
                everything.append(told(lab.own_results()))
    except (LabError, FetchError) as error:
        raise click.ClickException(str(error)) from error
    if slowest:
        show_slowest(everything, slowest)
    if document:
        text = f"{markdown(everything)}\n{of_commit}"
        document.write_text(replaced(document.read_text(), text, part))
    show(everything, Console(width=None if sys.stdout.isatty() else 160))
    say(f"{len(everything)} kernels of {len(SUITES) + 1} in {time.monotonic() - started:.0f} s")
    raise SystemExit(not all(results.good for results in everything))


def whole(suites: Sequence[Suite], tests: Sequence[str], own: bool) -> Part:
    """The part of the document for all guests of an architecture."""
    for every in (SUITES, arm64.SUITES):
        if suites == list(every) and own and not tests:
            return part_of(every[0].architecture)
    raise click.UsageError(
        "--write tells of a whole run: name no kernel and no test, or an architecture"
    )


def told(results: Results) -> Results:
    """Shows failures as soon as they are known."""
    if not results.good:
        click.echo(describe_failures(results))
    return results


def show_slowest(everything: Iterable[Results], number: int) -> None:
    for results in everything:
        for outcome in sorted(results.outcomes, key=lambda o: -o.seconds)[:number]:
            click.echo(f"{results.label} {outcome.seconds:6.1f} s  {outcome.test}")


def say(what: str) -> None:
    click.secho(f"· {what}", dim=True, err=True)


if __name__ == "__main__":
    main(prog_name="python -m tests.lab")
