# SPDX-License-Identifier: Apache-2.0
"""Pages of the documentation that are compared with the code. A probe may have a page of its own,
docs/events/x.md, with its command, its options, its kinds of events and its metric, and so may a
command or a publisher, docs/cli/x.md: a new one edits no other page."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def page(name: str) -> str:
    """That page, and behind it those of single probes and commands."""
    own = (path for folder in ("events", "cli") for path in sorted((DOCS / folder).glob("*.md")))
    return "\n".join(path.read_text() for path in (DOCS / name, *own))
