# SPDX-License-Identifier: Apache-2.0
"""`ktrace --help` says the sentence of each command, and runs none of their modules."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from tests.support.ktrace import ROOT
from tracer import cli, probes
from tracer.model.summary import summary, summary_of

HELP = """
import sys
from tracer.cli import root
try:
    root(["--help"])
except SystemExit:
    pass
print([name for name in sys.modules if name.startswith(("tracer.cli.", "tracer.probes."))])
"""
COMMANDS = cli.root.list_commands(click.Context(cli.root))


def test_help_imports_no_command() -> None:
    command = [sys.executable, "-c", HELP]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    *lines, imported = ended.stdout.splitlines()
    assert imported == "[]"
    shown = [line.split()[0] for line in lines if line.startswith("  ") and line.strip()]
    assert set(COMMANDS) <= set(shown)


@pytest.mark.parametrize("name", COMMANDS)
def test_it_is_the_sentence_of_the_commands_own_help(name: str) -> None:
    command = cli.root.get_command(click.Context(cli.root), name)
    assert command and command.help
    room = probes if name in probes.names() else cli
    assert summary_of(f"{room.__name__}.{name}") == command.help


def test_a_summary_is_one_line_of_the_first_paragraph() -> None:
    assert summary("Show this\nand that.\n\nThe rest.\n") == "Show this and that."
