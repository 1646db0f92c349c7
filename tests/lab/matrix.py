# SPDX-License-Identifier: Apache-2.0
"""The matrix kernel × probe, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.lab.results import Results, in_brief

STYLES = {"passed": "green", "failed": "red", "cannot": "yellow"}


def show(everything: Sequence[Results], console: Console) -> None:
    table = Table(show_lines=True)
    table.add_column("")
    for results in everything:
        table.add_column(f"{results.label}\n{results.release or 'lost'}", overflow="fold")
    subjects = sorted({name for results in everything for name in results.subjects()})
    for subject in subjects:
        table.add_row(subject, *(_cell(results, subject) for results in everything))
    table.add_row("all tests", *(_counts(results, None) for results in everything))
    table.add_row("time", *(_time(results) for results in everything))
    console.print(table)
    for line in _reasons(everything):
        console.print(line, markup=False, highlight=False)


def _cell(results: Results, subject: str) -> Text:
    text = Text()
    attached = results.probes.get(subject)
    if attached:
        text.append(f"{attached.point or attached.cannot}\n", "bold" if attached.point else "red")
    return text + _counts(results, subject)


def _counts(results: Results, subject: str | None) -> Text:
    text = Text()
    if results.lost:
        text.append("lost\n", "red bold")
    counts = results.counts(subject)
    found = [(f"{counts[what]} {what}", style) for what, style in STYLES.items() if counts[what]]
    for number, (words, style) in enumerate(found):
        text.append(", " if number else "").append(words, style)
    return text if found or results.lost else Text("no tests", "dim")


def _time(results: Results) -> str:
    again = f", boot {results.boots}" if results.boots > 1 else ""
    return f"boot {results.boot_seconds:.1f} s{again}\nall {results.seconds:.0f} s"


def _reasons(everything: Sequence[Results]) -> Iterable[str]:
    for results in everything:
        for outcome in results.cannots:
            yield f"{results.label}: {outcome.test} cannot: {outcome.why}"
        for outcome in results.repeated:
            why = in_brief(outcome.again)
            yield f"{results.label}: {outcome.test} passed at its second try: {why}"
