# SPDX-License-Identifier: Apache-2.0
"""The evidence for a release, gathered from the documentation: the matrix of kernels, verdicts on
incidents against the truth, costs. Each part names the commit that last changed it, and the one
that was measured, as far as the page says it.

A part written by a program is found by the marked lines around it.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy import ROOT, BuildError

MEASURED = "Measured at commit "
BEGIN = re.compile(r"^<!-- From here on written by (.+)\. -->$")
END = re.compile(r"^<!-- Up to here written by (.+)\. -->$")
UNSAID = "The page does not say which commit was measured: that one or an earlier one."
# Sections with manual measurements: page and title.
SECTIONS = (("docs/compatibility.md", "What they cost"),)


@dataclass(frozen=True)
class Piece:
    """Lines of a page, beginning with number `first`, counted from 1."""

    page: str
    title: str
    first: int
    lines: tuple[str, ...]

    def written_at(self, root: Path) -> str:
        """The newest commit of any of its lines."""
        span = f"{self.first},{self.first + len(self.lines) - 1}:{self.page}"
        return _git(root, "log", "-1", "--no-patch", "--format=%H", f"-L{span}").strip()


def evidence(root: Path = ROOT) -> str:
    """As one page."""
    texts = []
    for piece in pieces(root):
        commit = piece.written_at(root)
        day = _git(root, "show", "--no-patch", "--format=%cs", commit).strip()
        body = "\n".join(piece.lines).strip()
        known = "" if MEASURED in body else f" {UNSAID}"
        texts.append(
            f"## {piece.title}\n\n{piece.page}, last changed by commit `{commit}` ({day})."
            f"{known}\n\n{body}\n"
        )
    return "\n".join(texts)


def pieces(root: Path) -> Iterator[Piece]:
    for page in sorted((root / "docs").rglob("*.md")):
        name, lines = str(page.relative_to(root)), page.read_text().splitlines()
        yield from _marked(name, lines)
        yield from (_section(name, lines, title) for where, title in SECTIONS if where == name)


def _marked(page: str, lines: list[str]) -> Iterator[Piece]:
    ends = (number for number, line in enumerate(lines) if END.match(line))
    for number, line in enumerate(lines):
        if found := BEGIN.match(line):
            end = next(end for end in ends if end > number)
            yield Piece(page, f"Written by {found[1]}", number + 2, tuple(lines[number + 1 : end]))


def _section(page: str, lines: list[str], title: str) -> Piece:
    if f"## {title}" not in lines:
        raise BuildError(f"{page} has no section {title!r}")
    first = lines.index(f"## {title}") + 1
    rest = (number for number in range(first, len(lines)) if lines[number].startswith("## "))
    end = next(rest, len(lines))
    return Piece(page, title, first + 1, tuple(lines[first:end]))


def sizes(files: Iterable[Path]) -> str:
    rows = [f"| `{file.name}` | {file.stat().st_size / 1e6:.1f} MB |\n" for file in files]
    return "".join(["## Sizes\n\n| file | size |\n| --- | --- |\n", *rows])


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
