# SPDX-License-Identifier: Apache-2.0
"""Takes a text line by line, and gives the answers of the kinds and blocks."""

from __future__ import annotations

from collections.abc import Iterable

from tracer.decode import kinds
from tracer.decode.kind import Answer, FlagNames, Kernel
from tracer.decode.lines import read


class Decoder:
    """Takes a text line by line and returns answers as soon as they are complete."""

    def __init__(self, names: FlagNames) -> None:
        self._kernel = Kernel(names)
        self._blocks = [blocks.make(self._kernel) for blocks in kinds.blocks()]
        self.unknown = 0

    def feed(self, raw: str) -> list[Answer]:
        line = read(raw)
        if not line.text:
            return []
        heard = self._kernel.hear(line.text)
        answers: list[Answer] = []
        if any(block.take(line, answers) for block in self._blocks):
            return answers
        answer = kinds.explain(line, self._kernel)
        if answer:
            answers.append(answer)
        elif not heard and not any(block.swallows for block in self._blocks):
            self.unknown += 1
        return answers

    def pause(self) -> list[Answer]:
        """Call this when no line has come for a while."""
        answers: list[Answer] = []
        for block in self._blocks:
            block.pause(answers)
        return answers

    def end(self) -> list[Answer]:
        answers: list[Answer] = []
        for block in self._blocks:
            block.end(answers)
        return answers


def decode(text: str, names: FlagNames) -> list[str] | None:
    """The meaning of one argument, of one line or many; None if nothing here knows it."""
    decoder = Decoder(names)
    answers = [answer for line in _lines(text) for answer in decoder.feed(line)]
    sentences = [sentence for answer in answers + decoder.end() for sentence in answer]
    return sentences or None


def _lines(text: str) -> Iterable[str]:
    """Splits at line ends only, not at every character that is a line break in Unicode."""
    return text.replace("\r\n", "\n").split("\n")
