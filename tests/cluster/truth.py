# SPDX-License-Identifier: Apache-2.0
"""`make truth CLUSTER=1`: the incidents of the table happen in a real cluster, and what ktrace says
of each is judged.

A whole run writes the table into docs/verdicts.md. TRUTH="oom grace" chooses rows with one of these
words in their name, and writes nothing. Ends with 1 if a row is not right.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

import click

from tests.cluster.acceptance import Outcome, stage
from tests.cluster.bed import Bed
from tests.cluster.document import DOCUMENT, written
from tests.cluster.incidents import ROWS
from tests.support.judging import show as show_verdicts


def main(words: Sequence[str]) -> int:
    began = time.monotonic()
    written(DOCUMENT.read_text(encoding="utf-8"), ())  # it has a place for the table
    rows = [row for row in ROWS if not words or any(word in row.name for word in words)]
    outcomes = []
    with Bed(say) as bed:
        for outcome in stage(bed, rows, say):
            show(outcome)
            outcomes.append(outcome)
    if not words:
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(written(text, outcomes), encoding="utf-8")
    wrong = sum(not outcome.right for outcome in outcomes)
    certain = sum(outcome.certainly_wrong for outcome in outcomes)
    click.echo(
        f"{len(outcomes)} incidents in {time.monotonic() - began:.0f} s, {wrong} not explained as"
        f" expected; {certain} certain verdicts wrong"
    )
    return bool(wrong)


def show(outcome: Outcome) -> None:
    row = outcome.row
    click.echo(f"{'✔' if outcome.right else '✘'} {row.name} ({outcome.seconds:.0f} s): {row.what}")
    click.echo(f"    kubectl: {outcome.kubectl}")
    show_verdicts(outcome.verdicts, outcome.faults)
    if outcome.measured:
        click.echo(f"    measured: {outcome.measured}")


def say(what: str) -> None:
    click.secho(f"· {what}", dim=True, err=True)


if __name__ == "__main__":
    if os.geteuid():
        raise SystemExit("make truth needs root: it loads BPF programs and starts containers")
    sys.exit(main(sys.argv[1:]))
