# SPDX-License-Identifier: Apache-2.0
"""The shipped BPF objects of a session: layouts of records, and the numbers of their kinds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from tracer.kernel.bpf_object import BpfObject
from tracer.kernel.limits import reached
from tracer.model.errors import KtraceError
from tracer.model.schema import Schema

if TYPE_CHECKING:
    from tracer.probes import Probe

# Attached with every probe.
CONTEXT = "context"


@dataclass(frozen=True, slots=True)
class ShippedObject:
    data: bytes
    described: BpfObject


class Objects:
    """`schemas` are by kind number, `kinds` by event name. A kind gets its number when the first
    object that declares it is opened."""

    def __init__(self) -> None:
        self.schemas: dict[int, Schema] = {}
        self.kinds: dict[str, int] = {}
        self.event_of: dict[str, str] = {}  # by object: the event name of its losses
        self._opened: dict[str, ShippedObject] = {}

    def open(self, name: str) -> ShippedObject:
        if name not in self._opened:
            data = object_file(name)
            self._opened[name] = ShippedObject(data, BpfObject(data))
            self._number(name)
        return self._opened[name]

    def settings(self, name: str, values: Mapping[str, int]) -> dict[str, int]:
        """The object's settings that have a value, its kinds included."""
        described = self.open(name).described
        numbers = {f"kt_kind_{event}": self.kinds[event] for event in described.schemas}
        known = {**values, **numbers}
        return {key: known[key] for key in described.settings if key in known}

    def by_name(self) -> dict[str, Schema]:
        return {schema.name: schema for schema in self.schemas.values()}

    def _number(self, name: str) -> None:
        for event, schema in self._opened[name].described.schemas.items():
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


def object_file(name: str) -> bytes:
    try:
        return resources.files("tracer").joinpath("objects").joinpath(f"{name}.bpf.o").read_bytes()
    except FileNotFoundError as error:
        raise KtraceError(
            f"the BPF object of {name} is not installed",
            "build it: make install in a clone, or install the wheel",
        ) from error
    except OSError as error:
        if limit := reached(f"reading the BPF object of {name}", error.errno):
            raise limit from error
        raise
