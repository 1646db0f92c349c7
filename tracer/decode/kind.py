# SPDX-License-Identifier: Apache-2.0
"""What a kind of text is to the decoder, and what is known of the kernel that wrote the text.

A module in `tracer/decode/kinds/` knows one kind. `KIND` reads one line; `BLOCK` makes something
that gathers several lines into one answer. Nothing else lists them.
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
    """The table of one kernel's GFP flags, and whose it is: `this kernel`, or a file."""

    table: gfp.Table
    source: str

    @property
    def chosen(self) -> bool:
        """By the user, so that it holds whatever wrote the text."""
        return self.source != THIS_KERNEL


@dataclass
class Kernel:
    """The kernel that wrote the text, as far as the text has said so until now."""

    names: FlagNames
    release: str | None = None

    @property
    def version(self) -> tuple[int, int, int] | None:
        """`5.4.0-42-generic` as (5, 4, 0). The third number is the distribution's affair."""
        found = _VERSION.match(self.release or "")
        return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None

    def hear(self, text: str) -> bool:
        """The banner of a boot, and the line with CPU and process above each call trace."""
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
    """`marks` are words of which one must be in the text, so that most texts need no closer look;
    none if the form decides. Kinds are asked by `rank`: what is told by a fixed form first, what
    only resembles something last."""

    read: Callable[[Line, Kernel], Answer | None]
    marks: tuple[str, ...] = ()
    rank: int = 50

    def concerns(self, text: str) -> bool:
        """Asked of every line by every kind: a loop costs a third of what any() does."""
        for mark in self.marks:
            if mark in text:
                return True
        return not self.marks


class Block(Protocol):
    """Gathers lines that are one thing together. `answers` takes what is complete."""

    # Lines that nobody knows are part of it.
    swallows: bool

    def take(self, line: Line, answers: list[Answer]) -> bool:
        """Whether the line is its own."""
        ...

    def pause(self, answers: list[Answer]) -> None:
        """Nothing has come for a while: what is complete is told."""
        ...

    def end(self, answers: list[Answer]) -> None:
        """Nothing more comes."""
        ...


@dataclass(frozen=True)
class Blocks:
    """Makes one for a text. Blocks are asked by `rank`, and before kinds."""

    make: Callable[[Kernel], Block]
    rank: int = 50
