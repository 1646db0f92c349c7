# SPDX-License-Identifier: Apache-2.0
"""`make truth SOFTWARE=1`: what happens to real programs in real pods, and what ktrace says of it.

Prints what was said against what is true, as a confusion table. A whole run writes the table of
rows into docs/verdicts.md. TRUTH="nginx java" chooses rows with one of these words in their name,
and writes nothing. Ends with 1 if a row is not right.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence

import click

from tests.software.build import software
from tests.software.document import DOCUMENT, written
from tests.software.rows import ROWS
from tests.software.staging import Outcome, stage
from tests.support.judging import NOTHING, print_confusion
from tests.support.judging import show as show_verdicts


def main(words: Sequence[str]) -> int:
    began = time.monotonic()
    written(DOCUMENT.read_text(encoding="utf-8"), ())  # it has a place for the table
    rows = [row for row in ROWS if not words or any(word in row.name for word in words)]
    outcomes = []
    for outcome in stage(rows, software(say), say):
        show(outcome)
        outcomes.append(outcome)
    if not words:
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(written(text, outcomes), encoding="utf-8")
    print_confusion(Counter(map(_confusion, outcomes)))
    wrong = sum(not outcome.right for outcome in outcomes)
    certain = sum(outcome.certainly_wrong for outcome in outcomes)
    click.echo(
        f"\n{len(outcomes)} incidents in {time.monotonic() - began:.0f} s, {wrong} not explained as"
        f" expected; {certain} certain verdicts wrong"
    )
    return bool(wrong)


def show(outcome: Outcome) -> None:
    row = outcome.row
    mark = "✔" if outcome.right else "✘"
    click.echo(f"{mark} {row.name} ({outcome.seconds:.0f} s): {row.what}; {outcome.status}")
    show_verdicts(outcome.verdicts, outcome.faults)


def _confusion(outcome: Outcome) -> tuple[str, str, str]:
    true, told = outcome.row.verdict or NOTHING, outcome.told
    return (true, told["verdict"], told["certainty"]) if told else (true, NOTHING, "–")


def say(what: str) -> None:
    click.secho(f"· {what}", dim=True, err=True)


if __name__ == "__main__":
    if os.geteuid():
        raise SystemExit("make truth needs root: it loads BPF programs and starts containers")
    sys.exit(main(sys.argv[1:]))
