# SPDX-License-Identifier: Apache-2.0
"""Every page that a page of the documentation leads to is there, and so is the section."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from tracer.cli import root

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    for target, section in LINK.findall(CODE.sub("", page.read_text())):
        led_to = (page.parent / target).resolve() if target else page
        assert led_to.exists(), f"{page.name} leads to {target}"
        if section:
            assert section in _sections(led_to), f"{page.name} leads to {target}#{section}"


def test_the_command_line_has_every_command() -> None:
    told = (ROOT / "docs" / "cli.md").read_text()
    commands = root.list_commands(click.Context(root))
    assert [name for name in commands if f"ktrace {name}" not in told] == []


def _sections(page: Path) -> set[str]:
    """As the anchors of a rendered page are made: small letters, blanks as hyphens."""
    heads = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
