# SPDX-License-Identifier: Apache-2.0
"""What a number, a path, a line of the kernel log or a whole report means, in sentences: `ktrace
decode`.

Everything is read from text alone, so that it works for what somebody pasted from another machine.
Where the text cannot be read for certain, the answer says so: cgroups and processes are named by
whoever runs in them, and a name may imitate the line that it stands in.

    lines    takes off what log daemons put in front
    kinds/   one module for each kind of text, found by listing the folder
    eras     gfp flags of the kernels' releases

A text is never held: kinds look at one line, blocks keep what they have found, within bounds.
"""

from __future__ import annotations

from collections.abc import Iterable

from tracer.decode import kinds
from tracer.decode.freelists import decode_buddyinfo
from tracer.decode.kind import Answer, FlagNames, Kernel
from tracer.decode.lines import read

__all__ = ["Decoder", "FlagNames", "decode", "decode_buddyinfo"]


class Decoder:
    """Takes a text line by line and gives its answers as soon as they are complete."""

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
        """Nothing has come for a while."""
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
    """Only where a line ends, not at every character that Unicode would break at."""
    return text.replace("\r\n", "\n").split("\n")
