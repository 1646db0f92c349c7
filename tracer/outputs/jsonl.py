# SPDX-License-Identifier: Apache-2.0
"""JSON lines: one object an event, by the contract in docs/events.md."""

from __future__ import annotations

from typing import BinaryIO

from tracer.model.event import Clock, Event, to_json
from tracer.outputs.whole import write_lines

FLUSH_BYTES = 1 << 18


class JsonLines:
    def __init__(self, out: BinaryIO, clock: Clock, node: str) -> None:
        self._out = out
        self._clock = clock
        self._node = node
        self._lines: list[bytes] = []
        self._bytes = 0

    def event(self, event: Event) -> None:
        line = to_json(event, self._clock, self._node)
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._lines:
            write_lines(self._out, self._lines)
            self._lines.clear()
            self._bytes = 0
