# SPDX-License-Identifier: Apache-2.0
"""What the recordings of a history say and its index lacks."""

from __future__ import annotations

from pathlib import Path

from tracer.agent.history.entry import Entries
from tracer.agent.history.index import Index
from tracer.agent.history.segments import entries_in, segments


def take_in(index: Index, directory: Path) -> None:
    """Takes in what the recordings say and the index lacks. Raises OSError and `sqlite3.Error`."""
    taken = index.taken()
    for segment in segments(directory):
        start = taken.get(segment.number, 0)
        if start >= segment.path.stat().st_size:
            continue
        for until, entries in entries_in(segment.path, start):
            if entries != Entries() or until > start:
                seen_ns = segment.path.stat().st_mtime_ns
                index.take(segment.number, segment.session, until, entries, seen_ns)


def lacks(index: Index, directory: Path) -> bool:
    """Whether the recordings say more than the index knows: it is a moment behind, and after a
    fault for longer. Raises OSError and `sqlite3.Error`."""
    taken = index.taken()
    return any(
        entries != Entries()
        for segment in segments(directory)
        for _, entries in entries_in(segment.path, taken.get(segment.number, 0))
    )
