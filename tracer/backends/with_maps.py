# SPDX-License-Identifier: Apache-2.0
"""The half that the backends with BPF maps share: what they hold, and the tables through which the
kernel side is told what is selected and tells what it lost."""

from __future__ import annotations

from collections.abc import Mapping

from tracer.backends import bpf
from tracer.backends.objects import Objects
from tracer.backends.reader import Reader
from tracer.probes import AttachPoint


class WithMaps:
    """`attached` are the attach points by probe name; `unseen` is what programs that the kernel
    refused to run would have looked at."""

    def __init__(self) -> None:
        self.attached: dict[str, AttachPoint] = {}
        self._shipped = Objects()
        self.schemas = self._shipped.schemas
        self._reader = Reader(self.schemas)
        self._maps: dict[str, bpf.Map] = {}
        self._misses = bpf.Misses()
        self.unseen = self._misses.unseen
        self._nested: dict[str, Mapping[str, str]] = {}  # by object

    def select(self, cgroup: int, verdict: int) -> None:
        self._maps["kt_cgroups"].update(cgroup.to_bytes(8, "little"), verdict.to_bytes(4, "little"))

    def trace_pid(self, pid: int) -> None:
        self._maps["kt_pids"].update(pid.to_bytes(4, "little"), b"\1")

    def wake(self) -> None:
        self._reader.wake()

    def lost(self) -> dict[str, int]:
        return bpf.count_lost(self._maps["kt_lost"], self._shipped.kinds, self._misses.lost)

    def _count_refused(self, name: str, refused: Mapping[str, int]) -> None:
        """Takes how often the kernel refused to run each of an object's programs."""
        if event := self._shipped.event_of.get(name):
            self._misses.add(event, self._nested.get(name, {}), refused)
