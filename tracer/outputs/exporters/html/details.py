# SPDX-License-Identifier: Apache-2.0
"""What the page's script shows of an event: its JSON, with what many events share written once."""

from __future__ import annotations

from typing import Any

import orjson

from tracer.model.event import Place, Process
from tracer.outputs.escape import escape
from tracer.outputs.exporters.html.aliases import Aliases
from tracer.probes import DAMAGE

# Bytes of all details. Events that stand out have theirs first.
MAX_DETAILS = 500 << 10


class Details:
    """Everything about the events, each text and each part of a body once.

    Bodies and parts are JSON; `{"$":7}` in it stands for part 7. A body is left out when there is
    no more room.
    """

    def __init__(self, aliases: Aliases | None) -> None:
        self.kinds: list[str] = []
        self.texts: list[str] = []
        self.parts: list[str] = []
        self.bodies: list[str] = []
        self._numbers: dict[tuple[str, str], int] = {}
        self._aliases = aliases
        self._room = MAX_DETAILS

    def kind(self, kind: str) -> int:
        return self._number("kind", escape(kind), self.kinds)

    def text(self, text: str) -> int:
        return self._number("text", text, self.texts)

    def body(self, value: dict[str, Any]) -> int:
        if self._room <= 0:
            return -1
        try:
            text = self._dumped(value)
        except DAMAGE:
            return -1
        return self._number("body", text, self.bodies)

    def _number(self, table: str, text: str, entries: list[str]) -> int:
        number = self._numbers.get((table, text))
        if number is None:
            number = self._numbers[table, text] = len(entries)
            entries.append(text)
            self._room -= len(text)
        return number

    def _dumped(self, value: Any) -> str:
        raw = orjson.dumps(value, self._default, orjson.OPT_PASSTHROUGH_DATACLASS)
        if self._aliases:
            raw = orjson.dumps(self._aliases.json(orjson.loads(raw)))
        whole = orjson.loads(raw)
        return orjson.dumps(self._shared(whole)).decode()

    def _default(self, value: Any) -> Any:
        if isinstance(value, Process):
            return value.json()
        if isinstance(value, Place):
            return value.json()[0]
        raise TypeError(type(value).__name__)

    def _shared(self, value: Any, key: str = "") -> Any:
        """Pods, containers, processes and ancestries become parts."""
        if isinstance(value, list):
            shared: Any = [self._shared(one) for one in value]
        elif isinstance(value, dict):
            shared = {name: self._shared(one, name) for name, one in value.items()}
        else:
            return value
        is_process = isinstance(value, dict) and {"pid", "tid"} <= value.keys()
        if value and (is_process or key in ("pod", "container", "ancestry", "buddyinfo")):
            return {"$": self._number("part", orjson.dumps(shared).decode(), self.parts)}
        return shared
