# SPDX-License-Identifier: Apache-2.0
"""The bounded timeline of one container, or of a pod as a whole."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from tracer.model.bounded import size_of
from tracer.model.event import B, Event, Place, Process
from tracer.probes.exits import ExitBody, is_exit
from tracer.probes.signals import is_signal
from tracer.why.entry import MAX_ALIKE, MAX_FOLDED, MAX_GAPS, SIGKILL, Entry
from tracer.why.executed import may_be_executed

MAX_GROUPS = 64  # of one timeline

MAX_COMMANDS = 64  # of one timeline, executed by the runtime

FOLDED = "folded"  # the key of events of all further services

SERVICE_BYTES = 100  # of a number in a set, at most

# How much a life may grow before it is weighed again.
WEIGHED_BYTES = 1024


class Earlier(NamedTuple):
    """The key of an entry from an earlier chapter."""

    chapter: int
    key: Hashable


class Group(dict[Hashable, Entry[Any]]):
    """Entries of a life that share a bound, by what makes their events alike. A group is closed
    when later events are no longer looked for in it: the life has ended or has been dropped, or the
    group has, or another chapter has begun."""

    __slots__ = ("closed",)

    def __init__(self, *entries: Mapping[Hashable, Entry[Any]]) -> None:
        super().__init__(*entries)
        self.closed = False


class Spot(NamedTuple):
    """Where the events of a pattern belong: each is one occurrence, of `size` bytes."""

    life: Life
    group: Group
    key: Hashable
    size: int


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
    groups: dict[Hashable, Group] = field(default_factory=dict)
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
        for name, group in self.close_groups().items():
            keys = (k if type(k) is Earlier else Earlier(self.chapter, k) for k in group)
            self.groups[name] = Group(dict(zip(keys, group.values(), strict=True)))
        self.chapter += 1

    def close_groups(self) -> dict[Hashable, Group]:
        """Lets later events look for their groups anew. Returns the closed ones."""
        closed = self.groups
        for group in closed.values():
            group.closed = True
        self.groups = {name: Group(group) for name, group in closed.items()}
        return closed

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
        entries, key = self._group(group), alike
        room = MAX_ALIKE - fold  # one entry is reserved for the rest
        full = fold and key not in entries and len(entries) >= room
        if full and type(next(iter(entries))) is not Earlier:
            key, room = FOLDED, MAX_ALIKE
        known: Entry[B] | None = entries.get(key)
        if known is not None and event.kind == "tcp_reset" and not known.folded:
            known.gaps = (*known.gaps, event.boot_ns - known.last_ns)[-MAX_GAPS:]
        size = event.size if known is None else 0
        entry = self.put(entries, key, event, event.boot_ns, size, count, room)
        entry.folded = fold and key == FOLDED
        if fold and (entry.folded or entry.services is None):
            self._add_service(entry, alike)
        return entry

    def _add_service(self, entry: Entry, service: Hashable) -> None:
        if entry.services is None:
            entry.services = set()
        before = len(entry.services)
        if before < MAX_FOLDED:
            entry.services.add(hash(service))
        grown = SERVICE_BYTES * (len(entry.services) - before)
        entry.size += grown
        self.entries_size += grown

    def spot(self, group: Hashable, alike: Hashable, event: Event) -> Spot:
        """Where an event belongs, without `fold`, that counts once."""
        return Spot(self, self._group(group), alike, event.size)

    def put(
        self,
        group: Group,
        key: Hashable,
        like: Event[B],
        boot_ns: int,
        size: int,
        count: int = 1,
        room: int = MAX_ALIKE,
    ) -> Entry[B]:
        """Adds an event, which is `like` this one but for its time."""
        known: Entry[B] | None = group.get(key)
        if known is not None:
            self.repeat(known, like, boot_ns, count)
            return known
        while len(group) >= room:
            self._leave_out(group.pop(next(iter(group))))
        entry: Entry[B] = Entry(like, boot_ns, like, boot_ns, count, size=size)
        group[key] = entry
        self.entries_size += size
        return entry

    def repeat(self, known: Entry[B], like: Event[B], boot_ns: int, count: int) -> None:
        """Adds further events to an entry; the last of them is `like` this one but for its time."""
        if known.single:  # from now on it holds two events
            self.entries_size += known.size
            known.size *= 2
        known.repeat(like, boot_ns, count)

    def _group(self, name: Hashable) -> Group:
        group = self.groups.get(name)
        if group is None:
            if len(self.groups) >= MAX_GROUPS:
                oldest = self.groups.pop(next(iter(self.groups)))
                oldest.closed = True
                for entry in oldest.values():
                    self._leave_out(entry)
            group = self.groups[name] = Group()
        return group

    def _leave_out(self, entry: Entry) -> None:
        if not is_ordinary(entry.like_first):
            self.left_out += entry.count
        self.entries_size -= entry.size

    def entries(self) -> list[Entry]:
        """All entries in the order of their first events."""
        every = (entry for group in self.groups.values() for entry in group.values())
        every = (entry for entry in every if entry.count)
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
