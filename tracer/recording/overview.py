# SPDX-License-Identifier: Apache-2.0
"""The contents of a recording, from its blocks' headers and summaries. No event is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tracer.model.errors import BadRecording
from tracer.model.names import Names
from tracer.recording.format import Kind, lost_of, names_of, read_json
from tracer.recording.reader import Reader

# Bounds the memory that a made-up recording can take.
MAX_ROWS = 100_000


@dataclass(slots=True)
class Overview:
    """`counts` are by event kind and pod uid, "" for no pod. `first` and `last` are in nanoseconds
    since boot. `lost` is by event name and includes descriptions. `unrecorded` counts events that
    could not be written."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    names: Names = field(default_factory=Names)
    lost: Counter[str] = field(default_factory=Counter)
    first: int | None = None
    last: int | None = None
    unrecorded: int = 0


def overview(reader: Reader) -> Overview:
    """Reads the whole file and checks it."""
    found = Overview()
    for block in reader.blocks():
        if block.kind == Kind.EVENTS:
            found.first = block.first if found.first is None else min(found.first, block.first)
            found.last = max(found.last or 0, block.last)
            if block.summary and len(found.counts) < MAX_ROWS:
                for kind, uid, count in _rows(read_json(block.summary)):
                    found.counts[kind, uid] += count
        elif block.kind == Kind.IDENTITY and len(found.names.pods) < MAX_ROWS:
            names, _ = names_of(read_json(block.payload))
            found.names.pods.update(names.pods)
        elif block.kind == Kind.LOST:
            found.lost.update(lost_of(read_json(block.payload)).counts)
        elif block.kind == Kind.END:
            end = read_json(block.payload)
            unrecorded = end.get("unrecorded", 0) if isinstance(end, dict) else None
            if type(unrecorded) is not int:
                raise BadRecording("the recording's end is not of the form that it should have")
            found.unrecorded = unrecorded
    return found


def _rows(told: Any) -> Iterator[tuple[str, str, int]]:
    try:
        for kind, pods in told.items():
            for uid, count in pods.items():
                if type(count) is not int:
                    raise TypeError
                yield kind, uid, count
    except (AttributeError, TypeError) as error:
        raise BadRecording("a block's summary is not of the form that it should have") from error
