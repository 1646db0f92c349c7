# SPDX-License-Identifier: Apache-2.0
"""Recordings that come from a node one behind the other, as `ktrace history --cut` writes them for
each session of the agent: here each gets a file of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tracer.kubectl.show import path_of
from tracer.model.errors import BadRecording, KtraceError
from tracer.recording.files import RecordingFile
from tracer.recording.format import BLOCK_HEADER_BYTES, FILE_HEADER, Kind, block_lengths

MAX_FILES = 1000


class Pieces:
    """A `tracer.kubectl.stream.Sink`. It keeps everything received, also what is no recording."""

    enough = False

    def __init__(self, nodes: Sequence[str], path: Path) -> None:
        self._splits = {node: _Split(path_of(path, node, len(nodes))) for node in nodes}

    @property
    def paths(self) -> dict[str, list[Path]]:
        return {node: split.paths for node, split in self._splits.items()}

    def take(self, node: str, data: bytes) -> None:
        self._splits[node].take(data)

    def idle(self) -> None: ...

    def gone(self, node: str) -> None:
        self._splits[node].close()

    def close(self) -> None: ...


class _Split:
    """Files are found by walking from block to block: the block of an end is a file's last."""

    def __init__(self, path: Path) -> None:
        self.paths: list[Path] = []
        self._path = path
        self._file: RecordingFile | None = None
        self._begun = b""  # of a header
        self._left = 0  # bytes of the block
        self._is_end = False

    def take(self, data: bytes) -> None:
        data, self._begun = self._begun + data, b""
        while data:
            size = self._left or (BLOCK_HEADER_BYTES if self._file else FILE_HEADER.size)
            if not self._left and len(data) < size:
                self._begun = data
                return
            some, data = data[:size], data[size:]
            if self._left:
                self._left -= len(some)
            elif self._file:
                self._left, self._is_end = _block(some)
            self._write(some)
            if self._is_end and not self._left:
                self.close()

    def close(self) -> None:
        if self._begun:
            self._write(self._begun)
        if self._file:
            try:
                self._file.close()
            except OSError as error:
                raise KtraceError(f"{self.paths[-1]}: {error.strerror}") from error
        self._file, self._begun, self._left, self._is_end = None, b"", 0, False

    def _write(self, data: bytes) -> None:
        if self._file is None:
            number = len(self.paths) + 1
            if number > MAX_FILES:
                raise KtraceError(f"more than {MAX_FILES} recordings came for {self._path}")
            numbered = self._path.with_name(f"{self._path.stem}-{number}{self._path.suffix}")
            self.paths.append(self._path if number == 1 else numbered)
            self._file = RecordingFile(self.paths[-1])
        try:
            self._file.write(data)
        except OSError as error:
            raise KtraceError(
                f"{self.paths[-1]}: {error.strerror}", "what had come until then is in the file"
            ) from error


def _block(header: bytes) -> tuple[int, bool]:
    """The block's length and whether it is an end. Behind what is no block, all belongs to it."""
    try:
        length, *_, (kind, *_) = block_lengths(header)
    except BadRecording:
        return sys.maxsize, False
    return length, kind == Kind.END
