# SPDX-License-Identifier: Apache-2.0
"""The matrix of a whole run as Markdown, for docs/compatibility.md.

The lab alone writes the text between the two marked lines. Guests' output is written as code, on
one line and of limited length, because it may be anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.lab.kernels import OWN, LabError
from tests.lab.results import Outcome, Results, in_brief
from tests.support.markdown import Part, PartError, code, table

PART = Part("make matrix")


def part_of(architecture: str) -> Part:
    return PART if architecture == OWN else Part(f"{PART.command} LAB={architecture}")


def replaced(text: str, matrix: str, part: Part = PART) -> str:
    """The document with this matrix in place of its old one."""
    try:
        return part.replaced(text, matrix)
    except PartError as error:
        raise LabError(str(error)) from error


def markdown(everything: Sequence[Results]) -> str:
    sections = [table(_counts(everything)), table(_attach_points(everything))]
    if remarks := list(_remarks(everything)):
        sections.append("\n".join(remarks) + "\n")
    return "\n".join(sections)


def _counts(everything: Sequence[Results]) -> Iterable[Sequence[str]]:
    yield (
        *("guest", "kernel", "architecture", "form", "backend"),
        *("passed", "failed", "cannot", "second try", "seconds", "all"),
    )
    for results in everything:
        counts = results.counts()
        yield (
            results.label,
            code(results.release) if results.release else "not told",
            results.architecture,
            results.form,
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
    """Guests with the same attach points share a row."""
    yield "probe", "attached at", "guests"
    for probe in sorted({name for results in everything for name in results.probes}):
        rows: dict[str, list[str]] = {}
        for results in everything:
            if words := _attached(results, probe):
                rows.setdefault(words, []).append(results.label)
        for words, labels in rows.items():
            yield probe, words, ", ".join(labels)


def _attached(results: Results, probe: str) -> str | None:
    """None for probes that the backend lacks."""
    attached = results.probes.get(probe)
    if attached is None:
        return "**lost** before that was told" if results.lost else None
    if attached.point is None:
        return f"**nowhere**: {code(attached.cannot or '')}"
    return code(attached.point)


def _remarks(everything: Sequence[Results]) -> Iterable[str]:
    for results in everything:
        if results.lost:
            yield f"- {results.label}: {code(results.lost)}"
        for test in () if results.lost else results.missing:
            yield f"- {results.label}: {code(test)} never ran"
        for failure in results.failures:
            yield _remark(results, failure, "failed", failure.why)
        for outcome in results.cannots:
            yield _remark(results, outcome, "cannot", outcome.why)
        for outcome in results.repeated:
            yield _remark(results, outcome, "passed at its second try", outcome.again)


def _remark(results: Results, outcome: Outcome, what: str, why: str) -> str:
    return f"- {results.label}: {code(outcome.test)} {what}: {code(in_brief(why))}"
