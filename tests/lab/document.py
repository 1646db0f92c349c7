# SPDX-License-Identifier: Apache-2.0
"""The matrix of a whole run as Markdown, for docs/compatibility.md.

What stands there between two marked lines is written by the lab and by nobody else. What a guest
told goes in as code, on one line and of limited length: it may be anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tests.lab.kernels import LabError
from tests.lab.results import Outcome, Results, in_brief

BEGIN = "<!-- From here on written by make matrix. -->"
END = "<!-- Up to here written by make matrix. -->"
LONGEST = 300


def replaced(text: str, matrix: str) -> str:
    """The document with this matrix in place of the one it has."""
    parts = re.split(rf"^(?:{re.escape(BEGIN)}|{re.escape(END)})$", text, flags=re.MULTILINE)
    if len(parts) != 3 or text.find(f"{END}\n") < text.find(f"{BEGIN}\n"):
        raise LabError(f"the document needs these two lines, once each: {BEGIN} and {END}")
    return f"{parts[0]}{BEGIN}\n\n{matrix}\n{END}{parts[2]}"


def markdown(everything: Sequence[Results]) -> str:
    sections = [_table(_counts(everything)), _table(_attach_points(everything))]
    if remarks := list(_remarks(everything)):
        sections.append("\n".join(remarks) + "\n")
    return "\n".join(sections)


def _counts(everything: Sequence[Results]) -> Iterable[Sequence[str]]:
    yield "guest", "kernel", "backend", "passed", "failed", "cannot", "second try", "seconds", "all"
    for results in everything:
        counts = results.counts()
        yield (
            results.label,
            _code(results.release) if results.release else "not told",
            ", ".join(results.backends),
            *(str(counts[what]) for what in ("passed", "failed", "cannot")),
            str(len(results.repeated)),
            f"{results.seconds:.0f}",
            _judgement(results),
        )


def _judgement(results: Results) -> str:
    if results.lost:
        return "**lost**"
    return "good" if results.good else "**not good**"


def _attach_points(everything: Sequence[Results]) -> Iterable[Sequence[str]]:
    """Guests that took the same one share a row."""
    yield "probe", "attached at", "guests"
    for probe in sorted({name for results in everything for name in results.probes}):
        rows: dict[str, list[str]] = {}
        for results in everything:
            if words := _attached(results, probe):
                rows.setdefault(words, []).append(results.label)
        for words, labels in rows.items():
            yield probe, words, ", ".join(labels)


def _attached(results: Results, probe: str) -> str | None:
    """None for a probe that the backend does not have."""
    attached = results.probes.get(probe)
    if attached is None:
        return "**lost** before that was told" if results.lost else None
    if attached.point is None:
        return f"**nowhere**: {_code(attached.cannot or '')}"
    return _code(attached.point)


def _remarks(everything: Sequence[Results]) -> Iterable[str]:
    for results in everything:
        if results.lost:
            yield f"- {results.label}: {_code(results.lost)}"
        for test in () if results.lost else results.missing:
            yield f"- {results.label}: {_code(test)} never ran"
        for failure in results.failures:
            yield _remark(results, failure, "failed", failure.why)
        for outcome in results.cannots:
            yield _remark(results, outcome, "cannot", outcome.why)
        for outcome in results.repeated:
            yield _remark(results, outcome, "passed at its second try", outcome.again)


def _remark(results: Results, outcome: Outcome, what: str, why: str) -> str:
    return f"- {results.label}: {_code(outcome.test)} {what}: {_code(in_brief(why))}"


def _table(rows: Iterable[Sequence[str]]) -> str:
    title, *others = rows
    lines = [title, ["---"] * len(title), *others]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _code(text: str) -> str:
    """No word of it means anything in Markdown or in a table's row."""
    line = " ".join(text.split())
    plain = "".join(c if c.isprintable() else "�" for c in line)[:LONGEST]
    return f"`{plain.replace('`', chr(39)).replace('|', chr(92) + '|') or '–'}`"
