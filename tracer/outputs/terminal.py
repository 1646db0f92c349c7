# SPDX-License-Identifier: Apache-2.0
"""Fitting text to a terminal. In a pipe or a file nothing is cut or wrapped."""

from __future__ import annotations

import shutil
import sys
import textwrap


def terminal_width() -> int | None:
    """Standard output's width in cells; None if it is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wrapped(line: str, indent: int, width: int | None) -> str:
    """Wrapped between words. Further lines are indented, on a narrow terminal by less."""
    if width is None or len(line) <= width:
        return line
    return textwrap.fill(
        line,
        width,
        subsequent_indent=" " * (indent if 2 * indent <= width else width // 4),
        break_long_words=False,
        break_on_hyphens=False,
    )


def folded(line: str, width: int) -> str:
    """Wrapped, within words if necessary: no line is longer than `width`, and nothing is cut."""
    from tracer.outputs.terminal import cells

    indent = " " * min(2, width // 4)
    if all(cells(character) == 1 for character in line):
        return textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False)
    parts, used = [""], 0
    for character in line:
        size = cells(character)
        if used + size > width and used > len(indent):
            parts.append(indent)
            used = len(indent)
        parts[-1] += character
        used += size
    return "\n".join(parts)


def cells(text: str) -> int:
    """The number of terminal cells of printable text."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def shorten(text: str, width: int) -> str:
    """Cut in the middle, because both ends of a pod's name are informative."""
    if width < 2:
        return "…"[:width]
    tail = (width - 1) // 2
    head = width - 1 - tail
    if text.isascii():
        return f"{text[:head]}…{text[-tail:] if tail else ''}"
    while cells(cut := f"{text[:head]}…{text[-tail:] if tail else ''}") > width and head:
        head -= 1
        tail = max(0, tail - 1)
    return cut + " " * (width - cells(cut))
