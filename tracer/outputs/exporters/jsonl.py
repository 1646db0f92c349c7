# SPDX-License-Identifier: Apache-2.0
"""JSON lines: what `replay -o json` and `why -o json` print."""

from __future__ import annotations

from tracer.outputs.exporters import Exporter, Target
from tracer.outputs.jsonl import JsonLines


class JsonLinesExport(JsonLines):
    def close(self) -> None:
        self.flush()


def make(target: Target) -> JsonLinesExport:
    return JsonLinesExport(target.out, target.clock, target.node)


EXPORTER = Exporter("one JSON object a line, by docs/events.md", ".jsonl", False, make)
