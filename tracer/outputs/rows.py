# SPDX-License-Identifier: Apache-2.0
"""The table's rows, for `kubectl ktrace` to draw on its terminal.

One JSON object a line: first the columns, then one event each, with the cells of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import orjson

from tracer.model.event import Clock, Event, is_loss
from tracer.outputs.jsonl import FLUSH_BYTES
from tracer.outputs.whole import write_lines
from tracer.probes.columns import Column


class Rows:
    def __init__(
        self,
        out: BinaryIO,
        clock: Clock,
        columns: Sequence[Column],
        alarm: Callable[[Event], bool],
        *,
        wide: bool,
    ) -> None:
        self._out = out
        self._clock = clock
        self._alarm = alarm
        self._columns = [column for column in columns if wide or not column.wide]
        self._lines: list[bytes] = []
        self._bytes = 0
        described = [[c.title, c.narrow, c.width, c.rank] for c in self._columns]
        self._add({"columns": described})

    def event(self, event: Event) -> None:
        told: dict[str, Any] = {"time": event.boot_ns + self._clock.offset_ns}
        if is_loss(event):
            told["lost"] = {"count": event.body["count"], "probe": event.body["probe"]}
        else:
            told["alarm"] = self._alarm(event)
            told["cells"] = [column.value(event) for column in self._columns]
        self._add(told)

    def flush(self) -> None:
        if self._lines:
            write_lines(self._out, self._lines)
            self._lines.clear()
            self._bytes = 0

    def _add(self, told: dict[str, Any]) -> None:
        line = orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes >= FLUSH_BYTES:
            self.flush()
