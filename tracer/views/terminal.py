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
    """Broken between words; what follows is indented."""
    if width is None or len(line) <= width:
        return line
    return textwrap.fill(
        line,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
