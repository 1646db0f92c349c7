# SPDX-License-Identifier: Apache-2.0
"""Assigns lines to whole reports of OOM kills and failed allocations."""

from __future__ import annotations

import re
from collections.abc import Callable

from tracer.decode import allocation, kinds, oom
from tracer.decode.kind import Answer, Blocks, Kernel
from tracer.decode.lines import Line
from tracer.decode.reports import AllocationReport, OomReport

# The most foreign lines before a report's next line. Before the kill, a call trace, statistics and
# other log lines come between. The smaller number holds after the kill, where further victims may
# follow, and for the free lists of a failed allocation.
PATIENCE_BEFORE, PATIENCE_AFTER = 1000, 100
# Bound of the victims whose oom_reaper line may still come.
MAX_REMEMBERED = 256

# A line of its own until 5.0 (ef8444ea01d7), then a part of the line oom-kill:
_CPUSET = re.compile(r"[^\n]{1,64} cpuset=[^\n]{1,255} mems_allowed=[\d,-]{1,255}\Z")

_MARKS = (
    *(
        "oom-kill:",
        "oom_reaper:",
        "oom-killer: ",
        "oom-killer:gfp",
        "illed process",
        "ill process",
        "Node ",
    ),
    *(
        "as a result of limit of",
        "Memory limit reached",
        "memory.oom.group",
        ": usage ",
        "Memory cgroup stats",
        "page all",
    ),
    # zones and lists of a kernel without CONFIG_NUMA
    *(" free:", "*4kB ", "*16kB ", "*64kB "),
)


class _Reports:
    def __init__(self, kernel: Kernel) -> None:
        self.swallows = False
        self._kernel = kernel
        self._open: OomReport | AllocationReport | None = None
        self._foreign = 0
        self._dead: dict[int, None] = {}
        self._steps: tuple[Callable[[Line, list[Answer]], bool], ...] = (
            *(self._invoked, self._chosen, self._killed, self._limit, self._group),
            *(self._reaped, self._failed, self._details),
        )

    def take(self, line: Line, answers: list[Answer]) -> bool:
        taken = self._take(line, answers)
        # Call traces, registers and statistics: if the text has the report's beginning, all lines
        # before the kill belong to it.
        report = self._open
        begun = isinstance(report, AllocationReport) or (report is not None and report.invoked)
        self.swallows = bool(begun) and not self._complete()
        return taken

    def _take(self, line: Line, answers: list[Answer]) -> bool:
        text = line.text
        marked = any(mark in text for mark in _MARKS)
        if not marked and self._open is None:
            return False
        if self._open is not None and self._kernel.release and "ainted" in text:
            self._open.release = self._kernel.release
        if marked and any(step(line, answers) for step in self._steps):
            return self._mine(line)
        if isinstance(self._open, OomReport) and self._open.add_task(text):
            return self._mine(line)
        if self._open is not None and _CPUSET.match(text):
            return self._mine(line)
        self._foreign += self._open is not None
        unfinished = isinstance(self._open, OomReport) and not self._open.complete
        if self._foreign > (PATIENCE_BEFORE if unfinished else PATIENCE_AFTER):
            self.end(answers)
        return False

    def pause(self, answers: list[Answer]) -> None:
        if self._complete() or isinstance(self._open, AllocationReport):
            self.end(answers)

    def end(self, answers: list[Answer]) -> None:
        report, self._open, self._foreign = self._open, None, 0
        if report is None:
            return
        if isinstance(report, OomReport):
            for pid in report.killed:
                self._dead[pid] = None
            while len(self._dead) > MAX_REMEMBERED:
                del self._dead[next(iter(self._dead))]
            if report.own_lines == 1 and report.only:
                told = Kernel(self._kernel.names, report.release or self._kernel.release)
                answers.append(kinds.explain(report.only, told) or report.answer(self._kernel))
                return
        answers.append(report.answer(self._kernel))

    def _complete(self) -> bool:
        return isinstance(self._open, OomReport) and self._open.complete

    def _mine(self, line: Line) -> bool:
        self._foreign = 0
        if self._open is not None:
            self._open.own_lines += 1
            if isinstance(self._open, OomReport) and self._open.only is None:
                self._open.only = line
        return True

    def _begin(self, line: Line, answers: list[Answer]) -> OomReport:
        self.end(answers)
        self._open = OomReport(when=line.when, release=self._kernel.release)
        return self._open

    def _oom(self, line: Line, answers: list[Answer]) -> OomReport:
        """The open report, else a new one."""
        return self._open if isinstance(self._open, OomReport) else self._begin(line, answers)

    def _invoked(self, line: Line, answers: list[Answer]) -> bool:
        one = oom.invoked(line.text)
        if one is not None:
            self._begin(line, answers).invoked = one
        return one is not None

    def _chosen(self, line: Line, answers: list[Answer]) -> bool:
        one = oom.chosen(line.text)
        if one is None:
            return False
        report = self._oom(line, answers)
        if report.chosen or report.killed:
            report = self._begin(line, answers)
        report.chosen = one
        return True

    def _killed(self, line: Line, answers: list[Answer]) -> bool:
        one = oom.killed(line.text)
        if one is None:
            return False
        report = self._oom(line, answers)
        if one.done:
            if report.killed and not self._dies_too(report, one.pid, one.scope):
                report = self._begin(line, answers)
            report.add_killed(one)
        else:
            if report.announced or report.killed:
                report = self._begin(line, answers)
            report.announced = one
        return True

    @staticmethod
    def _dies_too(report: OomReport, pid: int, scope: str | None) -> bool:
        """Whether a further kill belongs to the report: a process of the same cgroup, the same
        process again, or one that shares its memory."""
        return report.group is not None or pid in report.killed or scope is None

    def _limit(self, line: Line, answers: list[Answer]) -> bool:
        found = oom.limit_of(line.text)
        if found is None:
            return False
        report = self._oom(line, answers)
        if report.limit or report.killed:
            report = self._begin(line, answers)
        report.limit = found
        return True

    def _group(self, line: Line, answers: list[Answer]) -> bool:
        path = oom.group(line.text)
        if path is not None:
            self._oom(line, answers).group = path
        return path is not None

    def _reaped(self, line: Line, answers: list[Answer]) -> bool:
        """Swallows the line of a victim that is reported already."""
        one = oom.reaped(line.text)
        if one is None:
            return False
        told = isinstance(self._open, OomReport) and one.pid in self._open.killed
        return told or one.pid in self._dead

    def _failed(self, line: Line, answers: list[Answer]) -> bool:
        one = allocation.failure(line.text)
        if one is None:
            return False
        if isinstance(self._open, OomReport) and not self._open.complete:
            return False
        self.end(answers)
        self._open = AllocationReport(line, one, release=self._kernel.release)
        return True

    def _details(self, line: Line, _answers: list[Answer]) -> bool:
        report = self._open
        if report is None:
            return False
        if isinstance(report, OomReport) and not report.killed:
            if path := oom.reached(line.text):
                report.stats = path
                return True
            if one := oom.usage(line.text):
                report.usages.setdefault(one.what, one)
                return True
            stats = oom.stats_of(line.text)
            if stats is not None:
                report.stats = report.stats or stats
                return True
        return report.memory.take(line.text)


BLOCK = Blocks(_Reports, rank=10)
