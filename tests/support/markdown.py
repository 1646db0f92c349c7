# SPDX-License-Identifier: Apache-2.0
"""Tables that a program writes into a document, between two marked lines.

Measured values are written as code, on one line and of limited length, because they may be
anything.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.release.evidence import MEASURED

LONGEST = 300


class PartError(Exception):
    """The document has no place for it, or more than one."""


@dataclass(frozen=True)
class Part:
    """The generated part of a command."""

    command: str

    @property
    def begin(self) -> str:
        return f"<!-- From here on written by {self.command}. -->"

    @property
    def end(self) -> str:
        return f"<!-- Up to here written by {self.command}. -->"

    def replaced(self, text: str, part: str) -> str:
        """The document with this part in place of its old one."""
        marks = rf"^(?:{re.escape(self.begin)}|{re.escape(self.end)})$"
        parts = re.split(marks, text, flags=re.MULTILINE)
        if len(parts) != 3 or text.find(f"{self.end}\n") < text.find(f"{self.begin}\n"):
            raise PartError(
                f"the document needs these two lines, once each: {self.begin} and {self.end}"
            )
        return f"{parts[0]}{self.begin}\n\n{part}\n{self.end}{parts[2]}"


def measured() -> str:
    """The line that ends a part with measurements: what they are of."""
    status = _git("status", "--porcelain", "--untracked-files=no")
    changed = "" if status == "" else ", with changes that are not committed"
    return f"{MEASURED}`{_git('rev-parse', 'HEAD') or 'unknown'}`{changed}.\n"


def _git(*words: str) -> str | None:
    done = subprocess.run(
        ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return None if done.returncode else done.stdout.strip()


def table(rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first row is the title."""
    title, *others = rows
    lines = [title, ["---"] * len(title), *others]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def code(text: str) -> str:
    """The text as code, without Markdown meaning."""
    line = " ".join(text.split())
    plain = "".join(c if c.isprintable() else "�" for c in line)[:LONGEST]
    return f"`{plain.replace('`', chr(39)).replace('|', chr(92) + '|') or '–'}`"
