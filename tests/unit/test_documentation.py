# SPDX-License-Identifier: Apache-2.0
"""Every page that a page of the documentation leads to is there, and so is the section."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.unit.documents import page
from tracer.cli import root

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links(path: Path) -> None:
    for target, section in LINK.findall(CODE.sub("", path.read_text())):
        led_to = (path.parent / target).resolve() if target else path
        assert led_to.exists(), f"{path.name} leads to {target}"
        if section:
            assert section in _sections(led_to), f"{path.name} leads to {target}#{section}"


def test_the_command_line_has_every_command() -> None:
    told = page("cli.md")
    commands = root.list_commands(click.Context(root))
    assert [name for name in commands if f"ktrace {name}" not in told] == []


def options() -> Iterator[tuple[str, click.Option]]:
    """Of every command, those that its --help shows."""

    def walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Option]]:
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                yield name, parameter
        if isinstance(command, click.Group):
            for word in command.list_commands(click.Context(command)):
                found = command.get_command(click.Context(command), word)
                if found and not found.hidden:
                    yield from walk(found, f"{name} {word}".strip())

    yield from walk(root, "")


def test_the_command_line_has_every_option() -> None:
    """In the tables for all commands, or in a row that names the command."""
    common, _, own = page("cli.md").partition("Options of single commands:")
    rows: dict[str, set[str]] = {}
    for commands, words in re.findall(r"^\| (.*?) \| (.*?) \|", own, re.MULTILINE):
        for command in re.findall(r"`([\w ]+)`", commands):
            rows.setdefault(command, set()).update(_options(words))
    shared = _options(common)
    missing = [
        f"{command} {word}"
        for command, option in options()
        for word in (*option.opts, *option.secondary_opts)
        if word not in shared | rows.get(command, set()) and word != "--version"
    ]
    assert missing == []
    there = {(command, word) for command, option in options() for word in option.opts}
    told = {(command, word) for command, words in rows.items() for word in words}
    assert told - there == set(), "no command has them"


def _options(words: str) -> set[str]:
    return set(re.findall(r"`(--?[a-zA-Z][\w-]*)", words))


def _sections(path: Path) -> set[str]:
    """As the anchors of a rendered page are made: small letters, blanks as hyphens."""
    heads = re.findall(r"^#+ (.*)$", CODE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
