# SPDX-License-Identifier: Apache-2.0
"""A whole report of the kernel as one answer: of an OOM kill or a failed allocation.

The OOM killer writes one report at a time (oom_lock). So all its lines stand between one `invoked
oom-killer` and the next, with foreign lines in between. Its order:

    invoked oom-killer, CPU: … and call trace, [Task in … limit of …], memory: usage … limit …,
    [Mem-Info: zones and free lists], the table of tasks, [oom-kill:…], Killed process …,
    [Tasks in … memory.oom.group], more of Killed process …, oom_reaper: …

Any of these may be missing, because the user may have searched the log for a word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tracer.decode import allocation, buddyinfo, flags, freelists, oom, whose
from tracer.decode.allocation import Failure
from tracer.decode.freelists import Marks, Zone
from tracer.decode.kind import Answer, Kernel
from tracer.decode.lines import Line
from tracer.decode.oom import Chosen, Invoked, Killed, Usage
from tracer.model.units import size

# Bounds of one report.
MAX_VICTIMS = 1024
MAX_ZONES = 256
TASKS_SHOWN, VICTIMS_SHOWN, ZONES_SHOWN = 3, 8, 16

# `[ pid ] uid tgid total_vm rss …`: the columns between rss and the name changed often.
_TASKS_HEAD = re.compile(r"\[ {1,4}pid {1,4}\] {1,8}uid {1,8}tgid {1,8}total_vm ")
_TASK = re.compile(
    r"\[ {0,10}(?P<pid>\d{1,10})\] {1,10}\d{1,10} {1,10}\d{1,10} {1,15}\d{1,15}"
    r" {1,15}(?P<rss>\d{1,15})"
    r"(?: {1,16}-?\d{1,20}){1,8} (?P<comm>[^\n]{0,64})"
)


@dataclass
class Memory:
    """Zones and free lists, which both reports have."""

    zones: list[Zone] = field(default_factory=list)
    for_all: list[Zone] = field(default_factory=list)  # what any allocation may get of them
    marks: list[Marks] = field(default_factory=list)
    page_size: int | None = None

    def take(self, text: str) -> bool:
        if "kB" not in text:
            return False
        if found := freelists.of_log(text):
            self.page_size = found[0]
            if len(self.zones) < MAX_ZONES:
                self.zones.append(found[1])
                self.for_all += [one[1] for one in [freelists.of_log(text, for_all=True)] if one]
            return True
        if marks := freelists.marks(text):
            if len(self.marks) < MAX_ZONES:
                self.marks.append(marks)
            return True
        return False

    def words(self) -> Answer:
        lines = []
        by_zone = {(one.node, one.zone): one for one in self.marks}
        for zone in self.zones[:ZONES_SHOWN]:
            page_size = self.page_size or 4096
            marks = by_zone.pop((zone["node"], zone["zone"]), None)
            told = f"node {zone['node']} zone {zone['zone']}: "
            told += f"{size(buddyinfo.free_bytes([zone], page_size))} free"
            told = marks.words if marks else told
            share = freelists.large_share(zone, page_size)
            pieces = freelists.largest(zone, page_size).partition(": ")[2]
            bad = ", fragmented" if share < freelists.LITTLE else ""
            lines.append(f"  {told}; {pieces}{bad}")
        return lines + [f"  {one.words}" for one in list(by_zone.values())[:ZONES_SHOWN]]


@dataclass
class AllocationReport:
    first: Line
    failure: Failure
    memory: Memory = field(default_factory=Memory)
    release: str | None = None
    own_lines: int = 1

    def answer(self, kernel: Kernel) -> Answer:
        told = Kernel(kernel.names, self.release)
        lines = allocation.sentences(self.failure, told, self.memory.page_size)
        lines += self.memory.words()
        verdict = self._verdict()
        return lines + verdict + _origin(self.release, self.first.when)

    def _verdict(self) -> Answer:
        order, page_size = self.failure.order, self.memory.page_size or 4096
        flags = (self.failure.named or "").split("|")
        movable = any("MOVABLE" in flag or "TRANSHUGE" in flag for flag in flags)
        lists = self.memory.zones if movable else self.memory.for_all
        zones = buddyinfo.usable(lists, page_size, flags)
        if not zones:
            return []
        said = buddyinfo.reading(order, page_size, zones, flags)
        return [f"free lists: {said}"] if said else []


@dataclass
class OomReport:
    """The facts of one kill. Each member is None or empty until its line comes."""

    when: str | None = None
    invoked: Invoked | None = None
    announced: Killed | None = None
    chosen: Chosen | None = None
    limit: tuple[str, str] | None = None  # own, limited
    stats: str | None = None
    group: str | None = None
    usages: dict[str, Usage] = field(default_factory=dict)
    killed: dict[int, Killed] = field(default_factory=dict)
    more_killed: int = 0
    tasks: list[tuple[int, int, str]] = field(default_factory=list)  # rss, pid, comm: the largest
    task_count: int = 0
    memory: Memory = field(default_factory=Memory)
    release: str | None = None
    own_lines: int = 0
    only: Line | None = None

    @property
    def complete(self) -> bool:
        return bool(self.killed)

    def add_killed(self, one: Killed) -> None:
        if len(self.killed) < MAX_VICTIMS or one.pid in self.killed:
            self.killed[one.pid] = one
        else:
            self.more_killed += 1

    def add_task(self, text: str) -> bool:
        found = _TASK.match(text)
        if not found:
            return bool(_TASKS_HEAD.match(text))
        self.task_count += 1
        # One space stands before the name; more stand before a number at which the line was cut.
        comm = "name cut off" if found["comm"].startswith(" ") else found["comm"].strip()
        self.tasks.append((int(found["rss"]), int(found["pid"]), comm))
        if len(self.tasks) > 64:
            self.tasks = sorted(self.tasks, reverse=True)[:TASKS_SHOWN]
        return True

    # In words

    def answer(self, kernel: Kernel) -> Answer:
        told = Kernel(kernel.names, self.release)
        victim = next(iter(self.killed.values()), None)
        return [
            self._head(victim),
            *self._whose(),
            *self._usage(),
            *self._died(victim),
            *(oom.amounts(victim, told.version) if victim else []),
            *self._trigger(told),
            *self._largest(),
            *self.memory.words(),
            *_origin(self.release, self.when),
            *whose.names(self._pod()),
        ]

    def _head(self, victim: Killed | None) -> str:
        cause = self._cause()
        if victim:
            return f"the OOM killer killed {victim.comm}, pid {victim.pid}: {cause}"
        if self.chosen and self.chosen.comm is not None:
            return f"the OOM killer chose {self.chosen.comm}, pid {self.chosen.pid}: {cause}"
        if self.announced:
            one = self.announced
            return f"the OOM killer chose to kill {one.comm}, pid {one.pid}: {cause}"
        return f"the OOM killer was started; whom it killed is not in the text: {cause}"

    def _limited(self) -> str | None:
        if self.chosen and self.chosen.limited:
            return self.chosen.limited
        return self.limit[1] if self.limit else self.stats or None

    def _own(self) -> str | None:
        if self.chosen and self.chosen.own:
            return self.chosen.own
        return self.limit[0] if self.limit else None

    def _cause(self) -> str:
        limited = self._limited()
        if self.chosen and (not self.chosen.by_limit or limited is None):
            return oom.cause(self.chosen)
        if limited:
            return f"the memory limit of {whose.in_words(limited)} was reached"
        scopes = {one.scope for one in (*self.killed.values(), self.announced) if one}
        if "cgroup" in scopes or "memory" in self.usages:
            return "a cgroup's memory limit was reached; whose is not in the text"
        if "node" in scopes:
            return "the whole node was out of memory, whatever the container's own limit"
        return "at whose limit is not in the text"

    def _whose(self) -> Answer:
        own, limited = self._own(), self._limited()
        lines = []
        if own and own != limited:
            lines.append(f"  it ran in {whose.in_words(own)}")
        if limited:
            lines.append(f"  the limit is that of {whose.trimmed(limited)}")
        return lines

    def _usage(self) -> Answer:
        """The usages, without unlimited ones and swap that does not exist."""
        names = {"memory+swap": "memory and swap", "kmem": "the kernel's own memory"}
        return [
            f"  {names.get(what, what)}: {oom.used(one)}"
            for what, one in self.usages.items()
            if what == "memory" or (one.limit < oom.UNLIMITED and (one.used or one.limit))
        ]

    def _died(self, victim: Killed | None) -> Answer:
        count = len(self.killed) + self.more_killed
        lines = []
        if self.announced and victim and self.announced.pid not in self.killed:
            one = self.announced
            lines.append(
                f"  in place of {one.comm}, pid {one.pid}: a child, or a thread, of that process"
            )
        if self.group:
            lines.append(
                f"  all processes of {whose.in_words(self.group)} die with it: its"
                " memory.oom.group is set"
            )
        if count > 1:
            shown = [f"{one.comm} ({pid})" for pid, one in list(self.killed.items())]
            more = f" and {count - VICTIMS_SHOWN} more" if count > VICTIMS_SHOWN else ""
            lines.append(f"  {count} processes died: {', '.join(shown[:VICTIMS_SHOWN])}{more}")
        elif count:
            lines.append("  1 process died")
        return lines

    def _trigger(self, kernel: Kernel) -> Answer:
        one = self.invoked
        if one is None:
            return []
        if one.order < 0:
            return ["  SysRq asked for it"]
        asked = allocation.pages(one.order, self.memory.page_size)
        words = flags.in_short(one.mask, one.named, kernel)
        return [f"  who asked for memory last: {one.comm}, for {asked}; {words}"]

    def _largest(self) -> Answer:
        if not self.tasks:
            return []
        page = self._page_size()
        shown = [
            f"{comm} ({pid}) {size(rss * page)}"
            for rss, pid, comm in sorted(self.tasks, reverse=True)[:TASKS_SHOWN]
        ]
        return [f"  the largest of {self.task_count} processes: {', '.join(shown)}"]

    def _page_size(self) -> int:
        """That machine's page size, from the free lists, or from the victim's size in both
        units."""
        if self.memory.page_size:
            return self.memory.page_size
        for rss, pid, _ in self.tasks:
            kib = self.killed[pid].kib if pid in self.killed else {}
            resident = sum(kib.get(name, 0) for name in ("anon-rss", "file-rss", "shmem-rss"))
            if rss > 256:
                return (
                    64 << 10 if resident > rss * 40 else 16 << 10 if resident > rss * 10 else 4096
                )
        return 4096

    def _pod(self) -> str | None:
        for path in (self._own(), self._limited(), self.group):
            uid = whose.identify(path).pod_uid if path else None
            if uid:
                return uid
        return None


def _origin(release: str | None, when: str | None) -> Answer:
    told = [f"kernel {release}"] if release else []
    told += [f"at {when}"] if when else []
    return [f"  {', '.join(told)}"] if told else []
