# SPDX-License-Identifier: Apache-2.0
"""The user-space part of the `oom` probe, as raw records of its own structs: the kernel log's
report of a kill, and the memory use in the pod whose limit was hit."""

from __future__ import annotations

import errno
import mmap
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tracer.decode import gfp
from tracer.kernel.bpf_object import shipped
from tracer.kernel.gfp import names_here
from tracer.kernel.hierarchies import Hierarchy
from tracer.kernel.kmsg import KernelLog, Line
from tracer.model.cgroup import parse
from tracer.model.schema import Schema
from tracer.probes.oom.decoder import MAX_PARTS, UNKNOWN
from tracer.probes.oom.memory import memory_hierarchy, pod_shares


@dataclass(slots=True)
class Report:
    """The log's report of one kill. Memory is in bytes, None if the kernel printed none."""

    order: int
    gfp: int
    gfp_names: str
    limit: int | None = None
    usage: int | None = None
    pid: int = 0
    words: str = ""
    boot_ns: int = 0
    tasks: list[dict[str, Any]] = field(default_factory=list)


class Reports:
    """Finds the reports in the lines of the kernel log (dump_header() in mm/oom_kill.c). Reports
    never overlap. A report with missing lines is ignored as a whole."""

    def __init__(self, page_size: int = mmap.PAGESIZE) -> None:
        self._page_size = page_size
        self._report: Report | None = None
        self._columns: list[str] = []

    def feed(self, lines: list[Line]) -> Iterator[Report]:
        for line in lines:
            if line.after_gap:
                self._report = None
            if begun := _INVOKED.fullmatch(line.text):
                self._report = Report(int(begun["order"]), int(begun["gfp"], 16), begun["names"])
                self._columns = []
            elif self._report and self._take(self._report, line):
                yield self._report
                self._report = None

    def _take(self, report: Report, line: Line) -> bool:
        """Takes a line; returns whether it was the last one."""
        if end := _KILL.fullmatch(line.text):
            report.pid, report.words, report.boot_ns = int(end["pid"]), end["words"], line.boot_ns
            return True
        if usage := _USAGE.match(line.text):
            report.usage, report.limit = int(usage[1]) << 10, int(usage[2]) << 10
        elif _TITLES.match(line.text):
            self._columns = line.text.replace("[", " ").replace("]", " ").split()
        elif self._columns and line.text.startswith("["):
            self._take_row(report, line.text)
        return False

    def _take_row(self, report: Report, line: str) -> None:
        words = line.replace("[", " ", 1).replace("]", " ", 1).split(None, len(self._columns) - 1)
        row = dict(zip(self._columns, words, strict=False))
        try:
            report.tasks.append(
                {
                    "pid": int(row["tgid"]),
                    "uid": int(row["uid"]),
                    "comm": row.get("name", ""),
                    "score_adj": int(row["oom_score_adj"]),
                    **{
                        name: int(row[column]) * self._page_size if column in row else UNKNOWN
                        for name, column in _MEMORY_COLUMNS.items()
                    },
                }
            )
        except (KeyError, ValueError):
            return


_INVOKED = re.compile(
    r".* invoked oom-killer: gfp_mask=(?P<gfp>0x[0-9a-f]+)\((?P<names>[^()]*)\),"
    r" order=(?P<order>-?\d+), oom_score_adj=-?\d+"
)
_USAGE = re.compile(r"memory: usage (\d+)kB, limit (\d+)kB,")
_TITLES = re.compile(r"\[ *pid *\] .*\btgid\b.*\brss\b.*\bname$")
_KILL = re.compile(r"(?P<words>oom-kill:constraint=.*),task=.*,pid=(?P<pid>\d+),uid=\d+", re.DOTALL)
_MEMORY_COLUMNS = {
    "rss": "rss",
    "anon": "rss_anon",  # these three since 6.8
    "file": "rss_file",
    "shmem": "rss_shmem",
}


class LogCompanion:
    """Reads the kernel log after each kill. If the log cannot be read, nothing is added and tracing
    goes on."""

    interval: float | None = None

    def __init__(
        self,
        schemas: Mapping[str, Schema],
        path: str = "/dev/kmsg",
        hierarchy: Callable[[], Hierarchy | None] = memory_hierarchy,
    ) -> None:
        self._schemas = schemas
        self._hierarchy = hierarchy
        self._row = shipped("oom").layout("oom_row")
        self._reports = Reports()
        self._named = False
        self._log: KernelLog | None = None
        self._error = 0
        try:
            self._log = KernelLog(path)
        except OSError as error:
            self._error = error.errno or errno.EIO

    def records(self, fresh: frozenset[str]) -> list[bytes]:
        if not fresh & {"oom", "oom_member"}:
            return []
        records = []
        if not self._named:
            self._named = True
            schema = self._schemas["gfp_names"]
            names = gfp.pack(names_here(), schema.room("names"))
            records.append(schema.pack(names=names, names_bytes=len(names)))
            if self._error:
                records.append(self._schemas["oom_unread"].pack(error=self._error))
        if self._log:
            for report in self._reports.feed(self._log.read()):
                records += [self._record(report), *self._shares(report)]
        return records

    def close(self) -> None:
        if self._log:
            self._log.close()
            self._log = None

    def _shares(self, report: Report) -> list[bytes]:
        """Reads the memory use at once, because a container whose first process was killed is soon
        gone."""
        path = _pod_of(report.words)
        hierarchy = self._hierarchy() if path else None
        if path is None or hierarchy is None:
            return []
        return [
            self._schemas["oom_share"].pack(
                time=report.boot_ns,
                pid=report.pid,
                part=number,
                name=_cut(self._schemas["oom_share"], "name", share.name),
                limit=share.limit,
                usage=share.usage,
                anon=share.anon,
                file=share.file,
                shmem=share.shmem,
            )
            for number, share in enumerate(pod_shares(hierarchy, path)[: MAX_PARTS + 1])
        ]

    def _record(self, report: Report) -> bytes:
        schema, size = self._schemas["oom_log"], self._row.size
        most = schema.room("row") // size
        largest = sorted(report.tasks, key=lambda task: -task["rss"])[:most]
        return schema.pack(
            time=report.boot_ns,
            limit=UNKNOWN if report.limit is None else report.limit,
            usage=UNKNOWN if report.usage is None else report.usage,
            pid=report.pid,
            order=report.order,
            gfp=report.gfp,
            rows=len(largest),
            tasks=len(report.tasks),
            gfp_names=_cut(schema, "gfp_names", report.gfp_names),
            words=_cut(schema, "words", report.words),
            row=b"".join(map(self._pack_row, largest)),
        )

    def _pack_row(self, task: Mapping[str, Any]) -> bytes:
        return self._row.plain(**{**task, "comm": task["comm"].encode()})


def _pod_of(words: str) -> str | None:
    """The path of the pod whose own limit was hit, from the log. It only decides which files to
    read."""
    _, found, rest = words.partition(",oom_memcg=")
    path = rest.partition(",task_memcg=")[0]
    identity = parse(path)
    if not found or not identity.pod_uid or identity.container_id or ".." in path.split("/"):
        return None
    return path


def _cut(schema: Schema, member: str, words: str) -> bytes:
    """As much of the words as the member holds, with a NUL."""
    return words.encode()[: schema.room(member) - 1]
