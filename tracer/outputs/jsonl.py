# SPDX-License-Identifier: Apache-2.0
"""JSON lines: one object an event, by the contract in docs/events.md.

In a storm, most events differ in their time only. What stands around the time is made once for
them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

from tracer.model.event import Clock, Event, Place, around_time, to_json
from tracer.outputs.whole import write_lines
from tracer.session.patterns import PATTERN_BYTES, Pattern, Sighting

FLUSH_BYTES = 1 << 18
# Bytes of lines that may come again at another time: while tracing, and of a recording.
MAX_LINES, MAX_RECORDED = 4 << 20, 32 << 20
LINE_BYTES = PATTERN_BYTES + 250  # of one, besides its text: its pattern lives on with it


class JsonLines:
    """About `most` bytes of lines are kept for like events."""

    def __init__(self, out: BinaryIO, clock: Clock, node: str, most: int = MAX_LINES) -> None:
        self._out = out
        self._clock = clock
        self._node = node
        self._most = most
        self._lines: list[bytes] = []
        self._bytes = 0
        self._around: dict[Pattern, tuple[bytes, bytes] | None] = {}
        self._kept = 0
        self._renames = 0

    def event(self, event: Event) -> None:
        self._add(to_json(event, self._clock, self._node))

    def sightings(self, sightings: Iterable[Sighting]) -> None:
        """As `event` for each."""
        if self._renames != Place.renames:
            self._forget()
        around, iso = self._around, self._clock.iso
        for boot_ns, pattern in sightings:
            known = around.get(pattern)
            if known is None:
                self._learn(pattern, boot_ns)
                continue
            head, tail = known
            line = b'%b%b","boot_ns":%d%b' % (head, iso(boot_ns).encode(), boot_ns, tail)
            # as `_add` does: calling it would take a fifth of the time of a line
            self._lines.append(line)
            self._bytes += len(line)
            if self._bytes >= FLUSH_BYTES:
                self.flush()

    def flush(self) -> None:
        if self._lines:
            write_lines(self._out, self._lines)
            self._lines.clear()
            self._bytes = 0

    def _add(self, line: bytes) -> None:
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes >= FLUSH_BYTES:
            self.flush()

    def _learn(self, pattern: Pattern, boot_ns: int) -> None:
        """Most patterns of a quiet node have one event: a line is kept from the second one on."""
        line = to_json(pattern.at(boot_ns), self._clock, self._node)
        if self._kept >= self._most:
            self._forget()
        if pattern in self._around:
            self._around[pattern] = around_time(line)
            self._kept += len(line)
        else:
            self._around[pattern] = None
            self._kept += LINE_BYTES
        self._add(line)

    def _forget(self) -> None:
        self._renames = Place.renames
        self._around.clear()
        self._kept = 0
