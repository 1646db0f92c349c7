# SPDX-License-Identifier: Apache-2.0
"""`make truth`: incidents are staged in real pods, and `ktrace why` says what happened. Those that
take a whole machine with them are staged in a guest.

Prints what was said of each against what is true, as a confusion table. Ends with 1 if a verdict
that was called certain is wrong, or if any other is.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import click

from tests.lab.pods import small_machine
from tests.support.containerd import Containerd
from tests.support.incidents import INCIDENTS, SMALL_MACHINE, Incident, SideBySide, mishap
from tests.support.judging import print_confusion

Verdicts = list[dict[str, Any]]


def main(words: list[str]) -> int:
    counts: Counter[tuple[str, str, str]] = Counter()
    wrong = 0
    for one, verdicts in _explained(words):
        said, certainty, sentence = _said(verdicts)
        right = said == one.verdict and one.certainty in (None, certainty)
        wrong += not right
        counts[one.verdict, said, certainty] += 1
        click.echo(f"{'✔' if right else '✘'} {one.name}: {certainty} · {sentence}")
    print_confusion(counts)
    certain = {key: count for key, count in counts.items() if key[2] == "certain"}
    errors = sum(count for (true, said, _), count in certain.items() if true != said)
    click.echo(f"\n{sum(certain.values())} certain verdicts, {errors} of them wrong;")
    click.echo(f"{counts.total()} incidents, {wrong} not explained as expected")
    return bool(wrong)


def _explained(words: list[str]) -> Iterator[tuple[Incident, Verdicts]]:
    """Of the incidents with these words in their name."""
    here, in_guest = (
        [one for one in incidents if all(word in one.name for word in words)]
        for incidents in (INCIDENTS, SMALL_MACHINE)
    )
    with (
        Containerd(extra_files={"/mishap": mishap()}) as containerd,
        SideBySide(containerd, here) as staged,
    ):
        for one in here:
            yield one, staged.verdicts(one)
    if in_guest:
        verdicts = small_machine(partial(click.echo, err=True))
        for one in in_guest:
            yield one, verdicts[one.name]


def _said(verdicts: Verdicts) -> tuple[str, str, str]:
    if len(verdicts) != 1:
        return f"{len(verdicts)} verdicts", "–", "; ".join(v["sentence"] for v in verdicts)
    (verdict,) = verdicts
    return verdict["verdict"], verdict["certainty"], verdict["sentence"]


if __name__ == "__main__":
    if os.geteuid():
        raise SystemExit("make truth needs root: it loads BPF programs and starts containers")
    sys.exit(main(sys.argv[1:]))
