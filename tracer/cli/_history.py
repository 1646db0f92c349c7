# SPDX-License-Identifier: Apache-2.0
"""What `history` and `why` share: where the history is, and a verdict of the past as text."""

from __future__ import annotations

import click

from tracer.agent.history import DIRECTORY
from tracer.agent.history.entry import Told
from tracer.outputs.escape import escape

_COLOURS = {"certain": "green", "likely": "yellow", "unknown": "red"}
# By how much further lines of a line that begins like this are indented.
_INDENTS = (("  hint: ", 8), ("  do: ", 6), ("  also: ", 8))
_TIMELINE_AT = 13


def directory() -> click.Option:
    return click.Option(
        ["--dir"],
        type=click.Path(),
        default=str(DIRECTORY),
        show_default=True,
        envvar="KTRACE_DIR",
        metavar="DIRECTORY",
        help="Where the agent keeps its history.",
    )


def verdict_text(told: Told, *, colour: bool, width: int | None) -> str:
    """The text as `ktrace why` printed it, wrapped for this terminal."""
    from tracer.outputs.terminal import wrapped

    lines = []
    for at, line in enumerate(told.text.splitlines()):
        indent = 4 if at < 2 else _TIMELINE_AT
        indent = next((by for start, by in _INDENTS if line.startswith(start)), indent)
        text = wrapped(escape(line), indent, width)
        if colour and at == 0:
            text = click.style(text, bold=True)
        if colour and at == 1:
            text = click.style(text, fg=_COLOURS.get(told.certainty))
        lines.append(text)
    return "\n".join(lines) + "\n"
