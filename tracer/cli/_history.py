# SPDX-License-Identifier: Apache-2.0
"""What `history` and `why` share: where the history is, and what it holds as text: a verdict of the
past, or a life in which nothing needed one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from tracer.agent.history import DIRECTORY
from tracer.agent.history.entry import Told
from tracer.model.units import span
from tracer.outputs.escape import escape

if TYPE_CHECKING:
    from tracer.agent.history.query import Row

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


def life_text(row: Row, now_ns: int, *, width: int | None) -> str:
    """What is known of a life in which nothing needed a verdict."""
    from tracer.outputs.terminal import wrapped

    life = row.life
    subject = " ".join(dict.fromkeys(part for part in (life.title, life.container) if part))
    lines = [f"{subject}: {_quiet(row)}"]
    if life.began_ns is not None and life.ended_ns is not None:
        lines.append(f"  it lived for {span(max(0, life.ended_ns - life.began_ns))}")
    if life.ended_ns is not None:
        age = span(max(0, now_ns - life.ended_ns))
        lines.append(f"  it ended at {_moment(life.ended_ns)}, {age} ago")
    return "\n".join(wrapped(escape(line), 4, width) for line in lines) + "\n"


def _quiet(row: Row) -> str:
    life = row.life
    if row.running:
        since = "before the agent began" if life.began_ns is None else _moment(life.began_ns)
        return f"lives since {since}; nothing was seen that needs an explanation"
    if row.running is None:
        return "its end was not seen: no agent ran then; nothing needed an explanation before"
    if life.exit_code is None:
        return "ended, and how was not seen"
    from tracer.decode.exitcodes import describe_exit_code
    from tracer.decode.signals import signal_name

    if life.signal is not None:
        return f"{signal_name(life.signal)} ended it, and no verdict was made"
    if life.exit_code:
        code = describe_exit_code(life.exit_code)
        return f"ended with {code}, and no verdict was made"
    return "nothing killed it: ended with 0"


def _moment(ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(ns // 1_000_000_000))
