# SPDX-License-Identifier: Apache-2.0
"""Compares the verdicts on incidents with the truth: one judge for every table of incidents, and
the common part of programs that stage such tables. Patterns are regular expressions."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import click

from tests.support.ktrace import ROOT
from tests.support.markdown import Part, code, measured, table

Verdict = dict[str, Any]
LOOP = "restart_loop"
NOTHING = "nothing"
DOCUMENT = ROOT / "docs" / "verdicts.md"


class Expected(Protocol):
    """`name` selects the row; `what` describes the incident. `verdict` is None if nothing needs an
    explanation, `certainty` if it depends on the kernel. `says` must be in the verdict's sentence,
    doubts, hints or remedy, `never` must not. `also` are true verdicts about a later life that goes
    on, or beside it. A restarted container may be reported as a loop of that verdict; with `loop`
    it must be."""

    @property
    def name(self) -> str: ...
    @property
    def what(self) -> str: ...
    @property
    def verdict(self) -> str | None: ...
    @property
    def certainty(self) -> str | None: ...
    @property
    def says(self) -> tuple[str, ...]: ...
    @property
    def never(self) -> tuple[str, ...]: ...
    @property
    def also(self) -> tuple[str, ...]: ...
    @property
    def loop(self) -> bool: ...
    @property
    def container(self) -> str: ...


R = TypeVar("R", bound=Expected)


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """The result of a row. `shown` is the report of the runtime or kubectl; `measured` the
    staging's own finding; `failed` why it could not be staged."""

    row: R
    verdicts: Sequence[Verdict]
    shown: str
    seconds: float
    failed: str = ""
    measured: str = ""

    @property
    def right(self) -> bool:
        return not self.faults

    @property
    def faults(self) -> list[str]:
        """The differences from the row's expectations."""
        if self.failed:
            return [f"could not be staged: {self.failed}"]
        return list(faults(self.row, self.verdicts))

    @property
    def certainly_wrong(self) -> bool:
        return certainly_wrong(self.row, self.verdicts)

    @property
    def told(self) -> Verdict | None:
        return told(self.row, self.verdicts)


@dataclass(frozen=True)
class Table(Generic[R]):
    """A table of incidents that `command` stages. A whole run writes its results into the document;
    `columns` are the titles for the incidents and for the other tools' reports. The text between
    the two marked lines is generated."""

    command: str
    rows: Sequence[R]
    columns: tuple[str, str]

    @property
    def part(self) -> Part:
        return Part(self.command)

    def judge(
        self, words: Sequence[str], stage: Callable[[Sequence[R]], Iterator[Outcome[R]]]
    ) -> int:
        """Stages the rows whose name contains one of the words, or all. Returns 1 if any is
        wrong."""
        began, of_commit = time.monotonic(), measured()
        self.written(DOCUMENT.read_text(encoding="utf-8"), ())  # fails early without a place
        rows = [row for row in self.rows if not words or any(word in row.name for word in words)]
        outcomes = []
        for outcome in stage(rows):
            show_outcome(outcome)
            outcomes.append(outcome)
        if not words:
            text = DOCUMENT.read_text(encoding="utf-8")
            DOCUMENT.write_text(self.written(text, outcomes, of_commit), encoding="utf-8")
        print_confusion(Counter(map(_confusion, outcomes)))
        click.echo(f"\n{_counted(outcomes, f' in {time.monotonic() - began:.0f} s')}")
        return int(any(not outcome.right for outcome in outcomes))

    def written(self, text: str, outcomes: Sequence[Outcome[R]], of_commit: str = "") -> str:
        """The document with these outcomes in place of its old ones."""
        return self.part.replaced(text, f"{self.markdown(outcomes)}\n{of_commit}")

    def markdown(self, outcomes: Sequence[Outcome[R]]) -> str:
        rows = [(*self.columns, "`ktrace why` says", "how sure"), *map(_as_row, outcomes)]
        return f"{_counted(outcomes)}.\n\n{table(rows)}"


def say(what: str) -> None:
    """Reports the staging's progress to the user."""
    click.secho(f"· {what}", dim=True, err=True)


def faults(row: Expected, verdicts: Sequence[Verdict]) -> Iterator[str]:
    """The differences from the row's expectations."""
    if row.verdict and not any(_is_main(row, verdict) for verdict in verdicts):
        yield f"{row.verdict} is not said"
    if row.loop and LOOP not in [verdict["verdict"] for verdict in verdicts]:
        yield "it is not told as a loop"
    for verdict in verdicts:
        if not is_true(row, verdict):
            yield f"{verdict['verdict']} is said, and it is {row.verdict or NOTHING}"
        if not _is_main(row, verdict):
            continue
        if row.certainty not in (None, verdict["certainty"]):
            yield f"is called {verdict['certainty']}"
        container = (verdict["container"] or {}).get("name")
        if container not in (row.container, None):
            yield f"speaks of container {container}"
        text = words(verdict)
        for pattern in row.says:
            if not re.search(pattern, text, re.S):
                yield f"does not say {pattern!r}"
        for pattern in row.never:
            if found := re.search(pattern, text, re.S):
                yield f"says {found[0]!r}"


def is_true(row: Expected, verdict: Verdict) -> bool:
    return _is_main(row, verdict) or verdict["verdict"] in row.also


def certainly_wrong(row: Expected, verdicts: Iterable[Verdict]) -> bool:
    """Whether a verdict is called certain but is not the true one."""
    return any(
        verdict["certainty"] == "certain" and not is_true(row, verdict) for verdict in verdicts
    )


def told(row: Expected, verdicts: Sequence[Verdict]) -> Verdict | None:
    """The last verdict on the incident itself, else the last of all."""
    main = [verdict for verdict in verdicts if _is_main(row, verdict)]
    return next(reversed(main or list(verdicts)), None)


def words(verdict: Verdict) -> str:
    return "\n".join(
        (verdict["sentence"], *verdict["doubts"], *verdict["hints"], verdict["remedy"])
    )


def _counted(outcomes: Sequence[Outcome[R]], taken: str = "") -> str:
    wrong = sum(not outcome.right for outcome in outcomes)
    certain = sum(outcome.certainly_wrong for outcome in outcomes)
    return (
        f"{len(outcomes)} incidents{taken}, {wrong} not explained as expected; {certain} certain"
        " verdicts wrong"
    )


def _confusion(outcome: Outcome[R]) -> tuple[str, str, str]:
    true, found = outcome.row.verdict or NOTHING, outcome.told
    return (true, found["verdict"], found["certainty"]) if found else (true, NOTHING, "–")


def _as_row(outcome: Outcome[R]) -> Sequence[str]:
    """A row of a Markdown table."""
    found = outcome.told
    words = "nothing happened that needs an explanation"
    if found is not None:
        words = f"`{found['verdict']}`: {code(found['sentence'])}"
    mark = "" if outcome.right else "**wrong**: "
    measured = f" ({outcome.measured})" if outcome.measured else ""
    sure = found["certainty"] if found else "–"
    return outcome.row.what, code(outcome.shown), f"{mark}{words}{measured}", sure


def show_outcome(outcome: Outcome[R]) -> None:
    """Prints the last verdict of each kind, and the faults."""
    row = outcome.row
    click.echo(f"{'✔' if outcome.right else '✘'} {row.name} ({outcome.seconds:.0f} s): {row.what}")
    click.echo(f"    shown: {outcome.shown}")
    for verdict, times in alike(outcome.verdicts):
        again = f" ({times} alike)" if times > 1 else ""
        click.echo(
            f"    {verdict['verdict']}, {verdict['certainty']}: {verdict['sentence']}{again}"
        )
        for doubt in verdict["doubts"]:
            click.echo(f"      doubt: {doubt}")
        for hint in verdict["hints"]:
            click.echo(f"      hint: {hint}")
        click.echo(f"      do: {verdict['remedy']}")
    if outcome.measured:
        click.echo(f"    measured: {outcome.measured}")
    for fault in outcome.faults:
        click.echo(f"    ✘ {fault}")


def alike(verdicts: Iterable[Verdict]) -> Iterator[tuple[Verdict, int]]:
    """The last verdict of each kind, and how many there were."""
    kinds: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        kinds.setdefault((verdict["verdict"], verdict["certainty"]), []).append(verdict)
    yield from ((found[-1], len(found)) for found in kinds.values())


def print_confusion(counts: Counter[tuple[str, str, str]]) -> None:
    """Each line holds the truth, the verdict, its certainty and the count."""
    rows = [("TRUE", "SAID", "CERTAINTY", "TIMES")]
    rows += [(*key, str(count)) for key, count in sorted(counts.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    click.echo()
    for row in rows:
        mark = " " if row[0] == row[1] or row[0] == "TRUE" else "✘"
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        click.echo(f"{mark} {'  '.join(cells).rstrip()}")


def _is_main(row: Expected, verdict: Verdict) -> bool:
    return verdict["verdict"] in (row.verdict, row.verdict and LOOP)
