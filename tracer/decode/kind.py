# SPDX-License-Identifier: Apache-2.0
"""The interface of a kind of text, and the facts about the kernel that wrote the text.

A module in `tracer/decode/kinds/` knows one kind. Its `KIND` reads one line; its `BLOCK` makes an
object that gathers several lines into one answer. Nothing else lists them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tracer.decode import gfp
from tracer.decode.lines import Line

# Sentences, the main thing first.
Answer = list[str]

THIS_KERNEL = "this kernel"


@dataclass(frozen=True)
class FlagNames:
    """The table of one kernel's GFP flags and its source: `this kernel`, or a file."""

    table: gfp.Table
    source: str

    @property
    def chosen(self) -> bool:
        """Whether the user chose it; then it applies to any text."""
        return self.source != THIS_KERNEL


@dataclass
class Kernel:
    """The kernel that wrote the text, as far as the text has named it so far."""

    names: FlagNames
    release: str | None = None

    @property
    def version(self) -> tuple[int, int, int] | None:
        """`5.4.0-42-generic` as (5, 4, 0). Distributions choose the third number themselves."""
        found = _VERSION.match(self.release or "")
        return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None

    def hear(self, text: str) -> bool:
        """Reads the release from a boot's banner, or from the line with CPU and process above each
        call trace."""
        if "ainted" not in text and "Linux version" not in text:
            return False
        found = _RELEASE.search(text)
        if found:
            self.release = found[1]
        return found is not None


_VERSION = re.compile(r"(\d{1,3})\.(\d{1,3})(?:\.(\d{1,5}))?")
_RELEASE = re.compile(
    r"(?:Linux version|Not tainted:?|Tainted: [^\n]{1,120}?) {1,4}\(?"
    r"(\d{1,2}\.\d{1,3}[\w.+~-]{0,80})"
)


@dataclass(frozen=True)
class Kind:
    """A kind of text. One of the words in `marks` must be in the text, so most texts need no closer
    look; no marks if the form decides. Kinds are asked in the order of `rank`: kinds with a fixed
    form first, mere resemblances last."""

    read: Callable[[Line, Kernel], Answer | None]
    marks: tuple[str, ...] = ()
    rank: int = 50

    def concerns(self, text: str) -> bool:
        """Called for every line and kind: a loop costs a third of any()."""
        for mark in self.marks:
            if mark in text:
                return True
        return not self.marks


class Block(Protocol):
    """Gathers lines that belong together. Complete answers are appended to `answers`."""

    # Whether lines that no kind knows are part of it.
    swallows: bool

    def take(self, line: Line, answers: list[Answer]) -> bool:
        """Takes the line if it is the block's own; returns whether it is."""
        ...

    def pause(self, answers: list[Answer]) -> None:
        """No line has come for a while: the block answers if it is complete."""
        ...

    def end(self, answers: list[Answer]) -> None:
        """The text has ended."""
        ...


@dataclass(frozen=True)
class Blocks:
    """`make` makes a block for a text. Blocks are asked in the order of `rank`, before kinds."""

    make: Callable[[Kernel], Block]
    rank: int = 50
