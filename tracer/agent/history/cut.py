# SPDX-License-Identifier: Apache-2.0
"""Cuts a piece out of a history: a recording that replays by itself, with the context that its
events refer to. Sessions of the agent do not mix: each gives a file of its own."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path

from tracer import probes
from tracer.agent.history.segments import Segment, segments
from tracer.kernel.limits import reason
from tracer.model.errors import BadRecording, KtraceError
from tracer.model.event import Clock
from tracer.model.turn import Turn
from tracer.recording.files import Beginning, Destination, SingleFile
from tracer.recording.reader import Reader
from tracer.recording.recorder import Recorder
from tracer.recording.replay import ReplaySource
from tracer.session.session import Session

Say = Callable[[str], None]


def cut(
    directory: Path,
    begin_ns: int,
    end_ns: int,
    out: Path,
    say: Say = lambda words: None,
    destination: Callable[[Path], Destination] = SingleFile,
) -> list[Path]:
    """Writes what happened between two moments (since 1970); returns the files. The piece begins
    and ends with a whole block, which is up to a second. `say` is told of recordings that are
    damaged; the others count. `destination` makes what a file is written to. Raises
    `KtraceError`."""
    try:
        every = segments(directory)
    except OSError as error:
        raise KtraceError(f"the history in {directory}: {reason(error)}") from error
    written: list[Path] = []
    for _, session in groupby(every, key=attrgetter("session")):
        path = out if not written else out.with_name(f"{out.stem}-{len(written) + 1}{out.suffix}")
        piece = _Piece(path, destination(path), begin_ns, end_ns)
        if _cut_session([*session], piece, say):
            written.append(path)
    return written


def _cut_session(pieces: Sequence[Segment], piece_of: _Piece, say: Say) -> bool:
    """Whether there was anything of this session to write."""
    readers: list[Reader] = []
    try:
        for piece in pieces:
            try:
                readers.append(Reader(piece.path))
            except BadRecording as error:
                if piece.path.stat().st_size:  # else the agent has just made it
                    say(str(error))
        readers = _overlapping(readers, piece_of.begin_ns, piece_of.end_ns)
        if not readers:
            return False
        metadata = readers[0].metadata
        # the wall clock may have been set between two recordings
        offset = readers[-1].metadata.clock_offset_ns
        piece_of.offset_ns = offset
        known = [probes.get(name) for name in probes.names() if name in metadata.attached]
        source = _Chain(readers, say)
        clock = Clock(offset)
        session = Session(source, known, metadata.selection, None, clock, metadata.count)
        recorder = Recorder(piece_of, metadata, known, piece_of.failed, clock)
        session.recorder = recorder
        session.run()
        recorder.close()
        return piece_of.begun
    finally:
        for reader in readers:
            reader.__exit__(None, None, None)


def _overlapping(readers: list[Reader], begin_ns: int, end_ns: int) -> list[Reader]:
    """A recording lasts until the next one of its session begins."""
    began = [reader.metadata.began + reader.metadata.clock_offset_ns for reader in readers]
    until = [*began, end_ns + 1][1:]
    kept = []
    for reader, first, last in zip(readers, began, until, strict=True):
        if first <= end_ns and last >= begin_ns:
            kept.append(reader)
        else:
            reader.__exit__(None, None, None)
    return kept


class _Chain(ReplaySource):
    """The turns of several recordings of one session."""

    def __init__(self, readers: Sequence[Reader], say: Say) -> None:
        super().__init__(readers[0])
        self._turns = chain.from_iterable(_turns(reader, say) for reader in readers)


def _turns(reader: Reader, say: Say) -> Iterator[Turn]:
    """All but the end, which only the last recording may have, and what is behind a damage."""
    try:
        for turn in reader.turns():
            turn.last = False
            yield turn
    except BadRecording as error:
        reader.damage = error.message
    if reader.damage:
        say(f"{reader.path}: {reader.damage}")


class _Piece:
    """A `Destination` that begins another one with the first block that reaches into the span. The
    span is since 1970, which is `offset_ns` later than a block's times."""

    resumes, idle = True, False

    def __init__(self, path: Path, out: Destination, begin_ns: int, end_ns: int) -> None:
        self.begin_ns, self.end_ns = begin_ns, end_ns
        self.offset_ns = 0
        self.begun = False
        self._path = path
        self._out = out

    def begin(self, beginning: Beginning, now: int) -> None:
        self._beginning = beginning

    def write(self, blocks: bytes, first: int, last: int) -> None:
        if last + self.offset_ns < self.begin_ns or first + self.offset_ns > self.end_ns:
            return
        if not self.begun:
            self._out.begin(self._beginning, first)
            self.begun = True
        self._out.write(blocks, first, last)

    def tick(self, now: int) -> None: ...

    def close(self, end: bytes) -> None:
        if self.begun:
            self._out.close(end)

    def failed(self, error: OSError) -> None:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "make room, or give another file" if full else "give another file with -o"
        raise KtraceError(f"{self._path} cannot be written: {reason(error)}", remedy)
