# SPDX-License-Identifier: Apache-2.0
"""The recordings of a history: their names, and what stands in them for the index."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tracer.agent.history.entry import Entries, entries_of
from tracer.model.errors import BadRecording
from tracer.recording import SUFFIX

_NAME = re.compile(r"(\d{8,12})-(\d{8,12})-\d{8}T\d{6}Z" + re.escape(SUFFIX), re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """A recording of a part of a session. `number` grows with each recording, so the order needs no
    clock; `session` is the number of the session's first one."""

    number: int
    session: int
    path: Path


def name_of(number: int, session: int, utc_ns: int) -> str:
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(max(0, utc_ns) // 1_000_000_000))
    return f"{number:08d}-{session:08d}-{moment}{SUFFIX}"


def is_recording(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def segments(directory: Path) -> list[Segment]:
    """The oldest first. Raises OSError."""
    found = []
    for path in directory.iterdir():
        name = _NAME.fullmatch(path.name)
        if name and path.is_file() and not path.is_symlink():
            found.append(Segment(int(name[1]), int(name[2]), path))
    return sorted(found)


def entries_in(path: Path, start: int = 0) -> Iterator[tuple[int, Entries]]:
    """The HISTORY blocks from the byte `start` on, each with the byte behind it, and at the end of
    what is whole an empty one. Other blocks are passed over unread. Raises OSError."""
    from tracer.recording.format import BLOCK_HEADER_BYTES, FILE_HEADER, Block, Kind, block_lengths
    from tracer.recording.format import read_json as json_of

    at = start or FILE_HEADER.size
    with path.open("rb") as file:
        size = file.seek(0, 2)
        while True:
            file.seek(at)
            header = file.read(BLOCK_HEADER_BYTES)
            try:
                if len(header) < BLOCK_HEADER_BYTES:
                    break
                length, summary, crc, about = block_lengths(header)
                if at + BLOCK_HEADER_BYTES + length > size:
                    break
                at += BLOCK_HEADER_BYTES + length
                if about[0] != Kind.HISTORY:
                    continue
                body = file.read(length)
                if zlib.crc32(body) == crc:
                    block = Block(*about, summary=body[:summary], frame=body[summary:])
                    yield at, entries_of(json_of(block.payload))
            except BadRecording:
                break
    yield at, Entries()
