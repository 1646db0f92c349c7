# SPDX-License-Identifier: Apache-2.0
"""Reads a recording up to its first bad block, with the memory of one block.

A cut or damaged block ends the recording; everything before it is used.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.kernel import limits
from tracer.kubernetes.objects import facts
from tracer.model.errors import BadRecording
from tracer.model.kubernetes import Fact
from tracer.model.names import Names
from tracer.model.turn import Lost, Turn
from tracer.recording.format import (
    BLOCK_HEADER_BYTES,
    FILE_HEADER,
    Block,
    Kind,
    block_lengths,
    check_file_header,
    lost_of,
    names_of,
    read_json,
    turns_of,
)
from tracer.recording.metadata import Metadata, metadata_of

if TYPE_CHECKING:
    from typing_extensions import Self

_KNOWN = frozenset(Kind)


class Reader:
    """Opens a recording and reads its metadata. Raises `BadRecording`, also if the file cannot be
    read at all.

    After the end of `blocks`: `cut` says whether the file ends within a block, `damage` what is
    wrong with the first bad block, `ended` whether the recording was ended in order. `used` of the
    file's `size` bytes were good. `skipped` counts blocks of unknown kinds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cut = False
        self.ended = False
        self.damage: str | None = None
        self.skipped = 0
        self.size = self.used = 0
        try:
            self._file = path.open("rb")
        except OSError as error:
            problem = f"{path} cannot be read"
            remedy = "ktrace record -o FILE makes a recording"
            if isinstance(error, PermissionError):
                remedy = "only its owner may read it, root as a rule: sudo ktrace …, or chown it"
            raise limits.reached(problem, error.errno) or BadRecording(
                f"{problem}: {error.strerror}", remedy
            ) from error
        try:
            self.size = path.stat().st_size
            header = self._read(FILE_HEADER.size)
            check_file_header(header)
            self.used = len(header)
            self.metadata = self._metadata()
        except BaseException as error:
            self._file.close()
            if isinstance(error, BadRecording):
                raise BadRecording(f"{path}: {error.message}", error.remedy) from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def blocks(self) -> Iterator[Block]:
        """Every whole block after the first, of any kind."""
        while not self.cut:
            try:
                block = self._next()
            except BadRecording as error:
                self.damage = error.message
                return
            if block is None:
                return
            self.ended = block.kind == Kind.END
            self.skipped += block.kind not in _KNOWN
            yield block

    def turns(self) -> Iterator[Turn]:
        """Raises `BadRecording` if a whole block has invalid content."""
        sizes = {kind: schema.size for kind, schema in self.metadata.schemas.items()}
        names, answered, said = Names(), list[int](), list[Fact]()
        lost: Lost | None = None
        for block in self.blocks():
            if block.kind == Kind.IDENTITY:
                names, answered = names_of(read_json(block.payload))
            elif block.kind == Kind.LOST:
                lost = lost_of(read_json(block.payload))
            elif block.kind == Kind.KUBERNETES:
                said += facts(read_json(block.payload))
            elif block.kind == Kind.EVENTS:
                for turn in turns_of(block.payload, sizes):
                    turn.names, turn.answered, turn.lost, turn.facts = names, answered, lost, said
                    names, answered, lost, said = Names(), [], None, []
                    yield turn

    def _metadata(self) -> Metadata:
        block = self._next()
        if block is None:
            raise BadRecording("the recording is cut within its header: nothing is left of it")
        if block.kind != Kind.META:
            raise BadRecording("the recording does not begin with what it is of")
        return metadata_of(read_json(block.payload))

    def _next(self) -> Block | None:
        """None at the end of the file, or if it is cut there."""
        header = self._read(BLOCK_HEADER_BYTES)
        if len(header) < BLOCK_HEADER_BYTES:
            self.cut = bool(header)
            return None
        length, summary, crc, about = block_lengths(header)
        body = self._read(length)
        if len(body) < length:
            self.cut = True
            return None
        if zlib.crc32(body) != crc:
            raise BadRecording("a block is damaged: its CRC does not match")
        self.used += len(header) + length
        return Block(*about, summary=body[:summary], frame=body[summary:])

    def _read(self, most: int) -> bytes:
        try:
            return self._file.read(most)
        except OSError as error:
            problem = "reading it failed"
            raise limits.reached(problem, error.errno) or BadRecording(
                f"{problem}: {error.strerror}"
            ) from error
