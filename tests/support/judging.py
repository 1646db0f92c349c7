# SPDX-License-Identifier: Apache-2.0
"""What was said of an incident against what is true of it: one judge for every table of incidents.
Patterns are regular expressions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import click

from tests.support.markdown import code

Verdict = dict[str, Any]
LOOP = "restart_loop"
NOTHING = "nothing"


class Expected(Protocol):
    """`verdict` is None where nothing happened that needs an explanation; `certainty` where it
    depends on the kernel. `says` is in the verdict's sentence, doubts, hints or remedy, `never` in
    none of them; `also` is true of a later life that goes on, or beside it. A container that is
    restarted may be told as a loop of that verdict; `loop` says that it must."""

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


def faults(row: Expected, verdicts: Sequence[Verdict]) -> Iterator[str]:
    """What is not as the row says."""
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
    """A verdict that is called certain, and is another one than is true."""
    return any(
        verdict["certainty"] == "certain" and not is_true(row, verdict) for verdict in verdicts
    )


def told(row: Expected, verdicts: Sequence[Verdict]) -> Verdict | None:
    """The last that was said of the incident itself, or of anything."""
    main = [verdict for verdict in verdicts if _is_main(row, verdict)]
    return next(reversed(main or list(verdicts)), None)


def words(verdict: Verdict) -> str:
    return "\n".join(
        (verdict["sentence"], *verdict["doubts"], *verdict["hints"], verdict["remedy"])
    )


def said(verdict: Verdict | None) -> str:
    """As a cell of a table in Markdown."""
    if verdict is None:
        return "nothing happened that needs an explanation"
    return f"`{verdict['verdict']}`: {code(verdict['sentence'])}"


def show(verdicts: Iterable[Verdict], found: Iterable[str]) -> None:
    """The last verdict of each kind, and the faults that were found."""
    for verdict, times in alike(verdicts):
        again = f" ({times} alike)" if times > 1 else ""
        click.echo(
            f"    {verdict['verdict']}, {verdict['certainty']}: {verdict['sentence']}{again}"
        )
        for doubt in verdict["doubts"]:
            click.echo(f"      doubt: {doubt}")
        for hint in verdict["hints"]:
            click.echo(f"      hint: {hint}")
        click.echo(f"      do: {verdict['remedy']}")
    for fault in found:
        click.echo(f"    ✘ {fault}")


def alike(verdicts: Iterable[Verdict]) -> Iterator[tuple[Verdict, int]]:
    """The last one of each kind."""
    kinds: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        kinds.setdefault((verdict["verdict"], verdict["certainty"]), []).append(verdict)
    yield from ((found[-1], len(found)) for found in kinds.values())


def print_confusion(counts: Counter[tuple[str, str, str]]) -> None:
    """Each line is what is true, what was said, how sure, and how often."""
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
