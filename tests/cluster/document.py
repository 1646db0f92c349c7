# SPDX-License-Identifier: Apache-2.0
"""The table of a whole run as Markdown, for docs/verdicts.md. What stands there between two marked
lines is written by the program and by nobody else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.cluster.acceptance import Outcome
from tests.support.judging import said
from tests.support.ktrace import ROOT
from tests.support.markdown import Part, code, table

DOCUMENT = ROOT / "docs" / "verdicts.md"
PART = Part("make truth CLUSTER=1")


def written(text: str, outcomes: Sequence[Outcome]) -> str:
    """The document with these outcomes in place of those that it has."""
    return PART.replaced(text, markdown(outcomes))


def markdown(outcomes: Sequence[Outcome]) -> str:
    wrong = sum(not outcome.right for outcome in outcomes)
    certain = sum(outcome.certainly_wrong for outcome in outcomes)
    return (
        f"{len(outcomes)} incidents, {wrong} not explained as expected; {certain} certain verdicts"
        f" wrong.\n\n{table(_rows(outcomes))}"
    )


def _rows(outcomes: Sequence[Outcome]) -> Iterable[Sequence[str]]:
    yield "incident", "`kubectl` shows", "`ktrace why` says", "how sure"
    for outcome in outcomes:
        told = outcome.told
        mark = "" if outcome.right else "**wrong**: "
        words = f"{mark}{said(told)}{_measured(outcome)}"
        yield outcome.row.what, code(outcome.kubectl), words, told["certainty"] if told else "–"


def _measured(outcome: Outcome) -> str:
    return f" ({outcome.measured})" if outcome.measured else ""
