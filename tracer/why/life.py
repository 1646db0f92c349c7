# SPDX-License-Identifier: Apache-2.0
"""The bounded timeline of one container, or of a pod as a whole."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from tracer.model.bounded import size_of
from tracer.model.event import B, Event, Place, Process
from tracer.probes.exits import ExitBody, is_exit
from tracer.probes.signals import is_signal
from tracer.why.entry import MAX_ALIKE, MAX_GAPS, SIGKILL, Entry
from tracer.why.executed import may_be_executed

MAX_GROUPS = 64  # of one timeline

MAX_COMMANDS = 64  # of one timeline, executed by the runtime

FOLDED = "folded"  # the key of resets of all further services

# How much a life may grow before it is weighed again.
WEIGHED_BYTES = 1024


@dataclass(slots=True)
class Life:
    """The timeline of one container from its start to its end, or of a pod as a whole, which holds
    the events of the pod's network.

    `left_out` counts events worth showing that no entry holds any more. `executed` maps commands
    that the runtime executes to their last ends. `outlived` are the exits of commands that the
    container's end took with it; `survivors` are the first of all processes that the kernel then
    killed. `entries_size` is the total size of the entries.
    """

    place: Place
    groups: dict[Hashable, dict[tuple[int, Hashable], Entry[Any]]] = field(default_factory=dict)
    end: Entry[ExitBody] | None = None
    events: int = 0
    left_out: int = 0
    executed: dict[Hashable, int] = field(default_factory=dict)
    chapter: int = 0
    outlived: list[Event[ExitBody]] = field(default_factory=list)
    survivors: list[Process] = field(default_factory=list)
    entries_size: int = 0
    weighed: int = 0  # the size of the entries when it was last reported

    @property
    def size(self) -> int:
        """Roughly its size in bytes."""
        besides = size_of(self.executed) if self.executed else 0
        if self.outlived or self.survivors:
            besides += sum(event.size for event in self.outlived)
            besides += sum(process.size for process in self.survivors)
        return 2000 + 500 * len(self.groups) + self.entries_size + besides

    def begin_chapter(self) -> None:
        """Separates later events from earlier like ones: a container of the pod has ended."""
        self.chapter += 1

    def is_over(self, event: Event) -> bool:
        """Whether the container had ended before. False if its end is not certain."""
        end = self.end
        return end is not None and bool(end.body["container_exit"]) and event.boot_ns > end.boot_ns

    def outlive(self, event: Event) -> None:
        """Records a process that still ran when the container ended, and ends with it."""
        process = event.about
        if _is_last_kill(event) and process is not None and len(self.survivors) < MAX_ALIKE:
            self.survivors.append(process)
        if is_exit(event) and process is not None and may_be_executed(process):
            self.outlived = [*self.outlived, event][-MAX_ALIKE:]

    def add(
        self, group: Hashable, alike: Hashable, event: Event[B], count: int, fold: bool = False
    ) -> Entry[B]:
        """Adds an event to its entry. With `fold`, events that find no free entry share one."""
        alike = (self.chapter, alike)
        entries = self.groups.get(group)
        if entries is None:
            entries = self._begin_group(group)
        room = MAX_ALIKE - fold  # one entry is reserved for the rest
        known: Entry[B] | None = entries.get(alike)
        full = fold and known is None and len(entries) >= room
        if full and next(iter(entries))[0] == self.chapter:
            alike, room = (self.chapter, FOLDED), MAX_ALIKE
            known = entries.get(alike)
        if known is not None:
            if event.kind == "tcp_reset" and not known.folded:
                known.gaps = (*known.gaps, event.boot_ns - known.last.boot_ns)[-MAX_GAPS:]
            if known.last is known.event:  # from now on it holds two events
                self.entries_size += known.size
                known.size *= 2
            known.last = event
            known.count += count
            return known
        while len(entries) >= room:
            self._leave_out(entries.pop(next(iter(entries))))
        size = event.size
        entry: Entry[B] = Entry(event, event, count, size=size)
        entries[alike] = entry
        entry.folded = fold and alike[1] == FOLDED
        self.entries_size += size
        return entry

    def _begin_group(self, group: Hashable) -> dict[tuple[int, Hashable], Entry[Any]]:
        if len(self.groups) >= MAX_GROUPS:
            for oldest in self.groups.pop(next(iter(self.groups))).values():
                self._leave_out(oldest)
        entries = self.groups[group] = {}
        return entries

    def _leave_out(self, entry: Entry) -> None:
        if not is_ordinary(entry.event):
            self.left_out += entry.count
        self.entries_size -= entry.size

    def entries(self) -> list[Entry]:
        """All entries in the order of their first events."""
        every = (entry for group in self.groups.values() for entry in group.values() if entry.count)
        return sorted(every, key=attrgetter("boot_ns"))


def is_ordinary(event: Event) -> bool:
    """Whether a child ended after doing its work. Such events are not shown."""
    return is_exit(event) and event.body["exit_code"] == 0


def ends_container(event: Event[ExitBody]) -> bool:
    """Whether an `exit` is the exit of a container's first process. In a shared PID namespace this
    is not known: there a process that the runtime started counts if a signal ended it. One that
    exits by itself may be a command that was run in the container."""
    known = event.body["container_exit"]
    if known is not None or event.body["signal"] is None or event.about is None:
        return bool(known)
    parent = event.about.ancestry[:1]
    return bool(parent) and parent[0][1].startswith(("containerd-shim", "conmon"))


def _is_last_kill(event: Event) -> bool:
    """Whether it is the kernel's SIGKILL to the rest of a PID namespace whose first process has
    ended."""
    if not is_signal(event) or event.body["origin"] != "kernel":
        return False
    return event.body["signal"]["number"] == SIGKILL


def is_sandbox(life: Life) -> bool:
    """Whether it is the container that holds a pod's namespaces. The runtime knows it as a sandbox,
    or it has no name and runs pause. If it was only prepared, pause was never seen."""
    container = life.place.container
    if container is None or container.name is not None:
        return False
    if container.is_sandbox:
        return True
    processes = (entry.event.about for entry in life.entries())
    return any(process is not None and process.comm == "pause" for process in processes)
