# SPDX-License-Identifier: Apache-2.0
"""What is fitted to a terminal, and only there: in a pipe or a file nothing is cut or broken."""

from __future__ import annotations

import shutil
import sys
import textwrap


def terminal_width() -> int | None:
    """Of standard output, in cells; None where it is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wrapped(line: str, indent: int, width: int | None) -> str:
    """Broken between words; what follows is indented, on a narrow terminal by less."""
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
    """Broken wherever it has to be: no line is longer, and nothing of it is missing."""
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
    """Terminal cells that printable text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def shorten(text: str, width: int) -> str:
    """Cut in the middle: both ends of a pod's name tell something."""
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
