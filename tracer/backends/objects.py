# SPDX-License-Identifier: Apache-2.0
"""The shipped BPF objects of a session: layouts of records, and the numbers of their kinds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from tracer.kernel.bpf_object import BpfObject, shipped
from tracer.model.schema import Schema

if TYPE_CHECKING:
    from tracer.probes import Probe

# Attached with every probe.
CONTEXT = "context"


class Objects:
    """`schemas` are by kind number, `kinds` by event name. A kind gets its number when the first
    object that declares it is opened."""

    def __init__(self) -> None:
        self.schemas: dict[int, Schema] = {}
        self.kinds: dict[str, int] = {}
        self.event_of: dict[str, str] = {}  # by object: the event name of its losses
        self._opened: dict[str, BpfObject] = {}

    def open(self, name: str) -> BpfObject:
        if name not in self._opened:
            self._opened[name] = shipped(name)
            self._number(name)
        return self._opened[name]

    def settings(self, name: str, values: Mapping[str, int]) -> dict[str, int]:
        """The object's settings that have a value, its kinds included."""
        described = self.open(name)
        numbers = {f"kt_kind_{event}": self.kinds[event] for event in described.schemas}
        known = {**values, **numbers}
        return {key: known[key] for key in described.settings if key in known}

    def by_name(self) -> dict[str, Schema]:
        return {schema.name: schema for schema in self.schemas.values()}

    def _number(self, name: str) -> None:
        for event, schema in self._opened[name].schemas.items():
            if event not in self.kinds:
                self.kinds[event] = len(self.kinds) + 1
                if name != CONTEXT:
                    self.event_of.setdefault(name, event)
            kind = self.kinds[event]
            if kind not in self.schemas:
                self.schemas[kind] = schema.numbered(kind)


def besides(probes: Iterable[Probe]) -> list[str]:
    """The additional objects that these probes need attached, each once."""
    return sorted({name for probe in probes for name in probe.besides})
