# SPDX-License-Identifier: Apache-2.0
"""Whom the OOM killer kills, whose limit was hit, and what the memory was used for.

Three things come together in one event: the kernel's event for the kill (probes/oom.bpf.c), the
members of a group that dies as a whole, and what the kernel log says of the same kill. The log is
only believed together with the kernel's event, and only where it agrees with what that knows.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from struct import Struct
from typing import Any
from weakref import WeakKeyDictionary

import orjson

from tracer.decode import gfp
from tracer.identity.resolver import Resolver
from tracer.kernel import limits
from tracer.kernel.hierarchies import Hierarchy
from tracer.kernel.kmsg import KernelLog, Line
from tracer.kernel.memory import memory_hierarchy, pod_shares
from tracer.model.bounded import keep
from tracer.model.cgroup import parse
from tracer.model.event import Event, Place, Process, text
from tracer.model.schema import Schema
from tracer.model.selection import Selection
from tracer.model.units import size
from tracer.probes import AttachPoint, Options, Probe
from tracer.probes.columns import CONTAINER, POD, Column, ancestry_chain, exe, process_name
from tracer.probes.exits import is_container_init
from tracer.probes.gfp import flags as flags_of
from tracer.probes.gfp import learn

# `scope` as in enum oom_scope; None where nobody told.
SCOPES = (None, "cgroup", "system")
UNKNOWN = -1
# A counter that means "no limit" is only a little less than this (PAGE_COUNTER_MAX pages).
NO_LIMIT = 1 << 60
ROWS = 10
ROW = Struct("=II16sqqqqi4x")  # struct oom_row
# How far the times of a log line and of the kernel's event can lie apart.
SAME_KILL_NS = 5_000_000_000
MAX_PENDING = 256
# Of a pod, that are looked at.
MAX_PARTS = 64


@dataclass(slots=True)
class Victim(Process):
    """A process with what the OOM killer saw of it."""

    facts: dict[str, Any] = field(default_factory=dict)

    def json(self) -> Any:
        process = orjson.dumps(Process.json(self))
        return orjson.Fragment(process[:-1] + b"," + orjson.dumps(self.facts)[1:])


@dataclass(slots=True)
class _Pending:
    """What waits for its other half. `members` are the lists in events, also in those that are on
    their way already: members that come later are still in time for the sink."""

    logs: dict[int, Any] = field(default_factory=dict)
    shares: dict[int, list[Any]] = field(default_factory=dict)
    own: dict[int, Any] = field(default_factory=dict)
    unread: str | None = None  # why the kernel log cannot be read
    members: dict[int, list[Victim]] = field(default_factory=dict)


_pending: WeakKeyDictionary[Resolver, _Pending] = WeakKeyDictionary()


def _pending_of(resolver: Resolver) -> _Pending:
    return _pending.setdefault(resolver, _Pending())


def _decode(record: Any, resolver: Resolver) -> Event:
    pending = _pending_of(resolver)
    victim = _victim(record, resolver)
    trigger = resolver.process(record.trigger_process, record.trigger_pid, record.trigger_tid)
    log = _matching_log(record, pending)
    scope = SCOPES[record.scope]
    path, limit, usage = None, _known(record.limit), _known(record.usage)
    if record.limit_cgroup:
        place = resolver.place(record.limit_cgroup)
        path = place.path if place else None
    order = record.order if record.asked else None
    flags = flags_of(record.gfp, resolver) if record.asked else None
    if log:
        told_scope, told_path = _scope_and_path(text(log.words), victim)
        scope, path = scope or told_scope, path or told_path
        order = log.order if order is None else order
        flags = text(log.gfp_names).split("|") if flags is None and log.gfp_names[0] else flags
        if scope == "cgroup":
            limit = _known(log.limit) if limit is None else limit
            usage = _known(log.usage) if usage is None else usage
    body = {
        "scope": scope,
        "victim": victim,
        "trigger": trigger,
        "cgroup_path": path,
        "limit_of": _limit_of(path),
        "limit_bytes": None if limit is None or limit >= NO_LIMIT else limit,
        "usage_bytes": usage,
        "order": None if order is None or order < 0 else order,
        "gfp_flags": flags,
        "members": _members(pending, record.time),
        "largest": _largest(log) if log else None,
    }
    if path is None and scope != "system":
        body["unknown_because"] = _why_unknown(record, log, pending)
    shares = pending.shares.pop(log.pid, None) if log else None
    own = pending.own.pop(record.time, None)
    if shares and body["limit_of"] == "pod" and path is not None:
        memory = _memory(shares, own, path, victim, resolver)
        if memory is not None:
            body["memory"] = memory
    return Event("oom", record.time, victim, trigger, body)


def limit_owner(body: Mapping[str, Any]) -> str | None:
    """Whose limit it was in the words of a manifest: `container`, `pod` or `other`. A kubelet gives
    a pod the sum of its containers' limits, and what else is charged to the pod (pause, tmpfs of an
    earlier life) makes that the one that is hit. Only another limit is the pod's own."""
    memory, limit = body.get("memory"), body["limit_bytes"]
    if body["limit_of"] != "pod" or not memory or limit is None:
        return body["limit_of"]  # type: ignore[no-any-return]
    parts = memory["parts"]
    limits = [part["limit_bytes"] for part in parts if part["limit_bytes"] is not None]
    rounded = len(limits) * mmap.PAGESIZE
    return "container" if limits and abs(sum(limits) - limit) <= rounded else "pod"


def _decode_member(record: Any, resolver: Resolver) -> None:
    _members(_pending_of(resolver), record.first).append(_victim(record, resolver))


def _decode_share(record: Any, resolver: Resolver) -> None:
    shares = _pending_of(resolver).shares
    if not record.part:
        keep(shares, record.pid, [record], MAX_PENDING)
    elif record.pid in shares and len(shares[record.pid]) <= MAX_PARTS:
        shares[record.pid].append(record)


def _decode_own(record: Any, resolver: Resolver) -> None:
    keep(_pending_of(resolver).own, record.first, record, MAX_PENDING)


def _memory(
    shares: list[Any], own: Any | None, path: str, victim: Victim, resolver: Resolver
) -> dict[str, Any] | None:
    """What counted in the pod, by cgroup, and what is left of cgroups that are gone. The victim's
    own container is told by the kernel; None if it is not among them."""
    whole, *parts = shares
    counted = [_amounts(part) for part in parts]
    told = [
        _named(part, path, resolver) | amounts for part, amounts in zip(parts, counted, strict=True)
    ]
    whole_amounts = _amounts(whole)
    left = {
        key: _rest(whole_amounts[key], [amounts[key] for amounts in counted])
        for key in whole_amounts
        if key != "limit_bytes"
    }
    place = victim.place
    if own is not None and place is not None and own.cgroup == place.cgroup:
        _take_own(told, own, path, place, resolver)
    container_id = place.identity.container_id if place else None
    if container_id is None or all(part["container_id"] != container_id for part in told):
        return None
    return {"parts": told, "left": left}


def _take_own(
    told: list[dict[str, Any]], own: Any, path: str, place: Place, resolver: Resolver
) -> None:
    """Limit and usage at the moment of the kill, if it is the container's cgroup itself."""
    directory, _, name = (place.path or "").rpartition("/")
    if directory != path or place.identity.container_id is None:
        return
    part = next((one for one in told if one["cgroup"] == name), None)
    if part is None:
        container = resolver.names.containers.get(place.identity.container_id)
        part = {"cgroup": name, "container": container.name if container else None}
        part |= {"container_id": place.identity.container_id}
        part |= dict.fromkeys(("anon_bytes", "file_bytes", "shmem_bytes"))
        told.append(part)
    limit = _known(own.limit)
    part["limit_bytes"] = None if limit is None or limit >= NO_LIMIT else limit
    part["usage_bytes"] = _known(own.usage)


def _named(part: Any, path: str, resolver: Resolver) -> dict[str, Any]:
    """The container of a part. One without a name is pause, if the runtime told of it at all."""
    container_id = parse(f"{path}/{text(part.name)}").container_id
    container = resolver.names.containers.get(container_id or "")
    name = container.name if container else None
    return {"cgroup": text(part.name), "container": name, "container_id": container_id}


def _amounts(part: Any) -> dict[str, int | None]:
    limit = _known(part.limit)
    return {
        "limit_bytes": None if limit is None or limit >= NO_LIMIT else limit,
        "usage_bytes": _known(part.usage),
        "anon_bytes": _known(part.anon),
        "file_bytes": _known(part.file),
        "shmem_bytes": _known(part.shmem),
    }


def _rest(whole: int | None, parts: list[int | None]) -> int | None:
    known = [part for part in parts if part is not None]
    return None if whole is None or len(known) < len(parts) else max(whole - sum(known), 0)


def _decode_log(record: Any, resolver: Resolver) -> None:
    keep(_pending_of(resolver).logs, record.pid, record, MAX_PENDING)


def _decode_unread(record: Any, resolver: Resolver) -> None:
    _pending_of(resolver).unread = os.strerror(record.error)


def _why_unknown(record: Any, log: Any | None, pending: _Pending) -> str:
    """Whose limit it was."""
    if record.limit_cgroup:
        return "the description of the cgroup whose limit was hit was lost"
    if log:
        return "the kernel log does not name the cgroup so that it can be believed"
    if pending.unread:
        return f"the kernel log cannot be read: {pending.unread}"
    return "the kernel log has no whole report of it"


def _members(pending: _Pending, first: int) -> list[Victim]:
    if first not in pending.members:
        keep(pending.members, first, [], MAX_PENDING)
    return pending.members[first]


def _matching_log(record: Any, pending: _Pending) -> Any | None:
    for pid in (record.victim_pid, record.victim_tid):
        log = pending.logs.pop(pid, None)
        if log is not None and abs(log.time - record.time) <= SAME_KILL_NS:
            return log
    return None


def _victim(record: Any, resolver: Resolver) -> Victim:
    process = resolver.process(record.victim_process, record.victim_pid, record.victim_tid)
    known = {name: getattr(process, name) for name in _PROCESS_FIELDS}
    facts = {
        "anon_bytes": _known(record.memory_anon),
        "file_bytes": _known(record.memory_file),
        "shmem_bytes": _known(record.memory_shmem),
        "oom_score_adj": record.memory_score_adj,
        "is_container_init": is_container_init(process),
    }
    return Victim(**known, facts=facts)


_PROCESS_FIELDS = [f.name for f in fields(Process) if not f.name.startswith("_")]


def _known(value: int) -> int | None:
    return None if value == UNKNOWN else value


def _scope_and_path(words: str, victim: Process) -> tuple[str | None, str | None]:
    """From `oom-kill:constraint=…,oom_memcg=PATH,task_memcg=PATH`. The names of cgroups are chosen
    by whoever made them, so they can look like this line: only a path is believed that the victim,
    whose own cgroup the kernel told, lies in."""
    constraint = re.match(r"oom-kill:constraint=CONSTRAINT_(\w+),", words)
    if not constraint:
        return None, None
    if constraint[1] != "MEMCG":
        return "system", None
    own = victim.place.path if victim.place else None
    if own is None or not words.endswith(f",task_memcg={own}"):
        return "cgroup", None
    head = words.removesuffix(f",task_memcg={own}")
    starts = [m.end() for m in re.finditer(r",oom_memcg=(?=/)", head)]
    paths = {head[at:] for at in starts if f"{own}/".startswith(f"{head[at:].rstrip('/')}/")}
    return "cgroup", paths.pop() if len(paths) == 1 else None


def _limit_of(path: str | None) -> str | None:
    """Whose limit it is: the container's, the pod's, or that of a cgroup around or inside them."""
    if path is None:
        return None
    own, above = parse(path), parse(path.rpartition("/")[0] or "/")
    if own.container_id:
        return "other" if above.container_id else "container"
    if own.pod_uid:
        return "other" if above.pod_uid else "pod"
    return "other"


def _largest(log: Any) -> list[dict[str, Any]]:
    rows = ROW.iter_unpack(log.row[: log.rows * ROW.size])
    return [
        {
            "pid": pid,
            "comm": text(comm),
            "uid": uid,
            "rss_bytes": rss,
            "anon_bytes": _known(anon),
            "file_bytes": _known(file),
            "shmem_bytes": _known(shmem),
            "oom_score_adj": score_adj,
        }
        for pid, uid, comm, rss, anon, file, shmem, score_adj in rows
    ]


# The kernel log


@dataclass(slots=True)
class Report:
    """What the log says of one kill. Memory is in bytes, None where the kernel printed none."""

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
    """Finds the reports in the lines of the kernel log (dump_header() in mm/oom_kill.c). The kernel
    writes one after the other; a report with lines missing is left out as a whole."""

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
        """Whether this was the last line."""
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
    """Reads the kernel log when the OOM killer was at work. Without a log that can be read there is
    nothing to add, and tracing goes on."""

    interval: float | None = None

    def __init__(
        self,
        schemas: Mapping[str, Schema],
        path: str = "/dev/kmsg",
        hierarchy: Callable[[], Hierarchy | None] = memory_hierarchy,
    ) -> None:
        self._schemas = schemas
        self._hierarchy = hierarchy
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
            names = gfp.pack(gfp.names_here())
            schema = self._schemas["gfp_names"]
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
        """Read at once: the container of a first process that was killed is soon gone."""
        path = _pod_of(report.words)
        hierarchy = self._hierarchy() if path else None
        if path is None or hierarchy is None:
            return []
        return [
            self._schemas["oom_share"].pack(
                time=report.boot_ns,
                pid=report.pid,
                part=number,
                name=share.name.encode()[:255],
                limit=share.limit,
                usage=share.usage,
                anon=share.anon,
                file=share.file,
                shmem=share.shmem,
            )
            for number, share in enumerate(pod_shares(hierarchy, path)[: MAX_PARTS + 1])
        ]

    def _record(self, report: Report) -> bytes:
        largest = sorted(report.tasks, key=lambda task: -task["rss"])[:ROWS]
        return self._schemas["oom_log"].pack(
            time=report.boot_ns,
            limit=UNKNOWN if report.limit is None else report.limit,
            usage=UNKNOWN if report.usage is None else report.usage,
            pid=report.pid,
            order=report.order,
            gfp=report.gfp,
            rows=len(largest),
            tasks=len(report.tasks),
            gfp_names=report.gfp_names.encode()[:511],
            words=report.words.encode()[:1023],
            row=b"".join(_pack_row(task) for task in largest),
        )


def _pod_of(words: str) -> str | None:
    """The pod whose own limit was hit, as the log says it; believed for nothing but a look."""
    _, found, rest = words.partition(",oom_memcg=")
    path = rest.partition(",task_memcg=")[0]
    identity = parse(path)
    if not found or not identity.pod_uid or identity.container_id or ".." in path.split("/"):
        return None
    return path


def _pack_row(task: Mapping[str, Any]) -> bytes:
    memory = (task["rss"], task["anon"], task["file"], task["shmem"])
    return ROW.pack(task["pid"], task["uid"], task["comm"].encode(), *memory, task["score_adj"])


# For people


def _cause(event: Event) -> str:
    body = event.body
    if body["scope"] == "system":
        return "the node is out of memory"
    if body["scope"] is None:
        return "out of memory"
    limit = size(body["limit_bytes"])
    whose = limit_owner(body) or "cgroup"
    if whose == "other":
        return f"limit {limit or 'of memory'} of {body['cgroup_path']} reached"
    return f"{whose} limit {limit} reached" if limit else f"{whose} limit reached"


def _summary(event: Event) -> str:
    line = f"{process_name(event.about)} killed: {_cause(event)}"
    anon = size(_facts(event)["anon_bytes"])
    if anon:
        line += f", {anon} anonymous"
    if members := event.body["members"]:
        line += f", and {len(members)} more of its group"
    return line


def _facts(event: Event) -> dict[str, Any]:
    victim: Victim = event.body["victim"]
    return victim.facts


def _was(event: Event) -> str | None:
    return {True: "init", False: "child", None: None}[_facts(event)["is_container_init"]]


def _limit_word(event: Event) -> str | None:
    scope = event.body["scope"]
    return "node" if scope == "system" else limit_owner(event.body) or scope


def _alarm(event: Event) -> bool:
    return bool(event.place and (event.place.container or event.place.pod))


_NOT_IN_LOG = (
    "limit, usage, order, flags and whose limit it was, where the kernel log cannot be read or the"
    " kernel keeps its report back (it prints ten in five seconds)"
)


_ONLY_IN_LOG = "the largest processes of the cgroup"

# Interrupts raise signals of timers, and kill nobody for want of memory.
_NESTED = {"on_oom_signal": ""}


def _unread(what: str) -> tuple[str, ...]:
    """What cannot be told where the kernel log cannot be read."""
    try:
        KernelLog().close()
    except OSError as error:
        return (f"{what}, because the kernel log cannot be read: {limits.reason(error)}",)
    return ()


def _log(schemas: Mapping[str, Schema], _map_of: Any) -> LogCompanion:
    return LogCompanion(schemas)


@dataclass(frozen=True)
class KillOptions(Options):
    def settings(self, selection: Selection) -> dict[str, int]:
        return {"kt_page_size": mmap.PAGESIZE}


PROBE = Probe(
    name="oom",
    object="oom",
    help="Show whom the OOM killer kills, and whose limit was hit.",
    examples=(
        "ktrace oom                       every pod",
        "ktrace oom -p web -o wide        one pod, with what its memory was used for",
        "ktrace oom -o json | jq 'select(.limit_of == \"pod\")'",
        "ktrace trace oom,signals,exits   from the kill to the container's end",
    ),
    attach_points=(
        AttachPoint(
            "fentry/oom_kill_process",
            ("on_oom_fentry", "on_oom_fexit", "on_oom_signal", "on_mark_victim"),
            companion=_log,
            lacks=lambda: _unread(_ONLY_IN_LOG),
            nested=_NESTED,
        ),
        AttachPoint(
            "kprobe/oom_kill_process",
            ("on_oom_kprobe", "on_oom_kretprobe", "on_oom_signal", "on_mark_victim"),
            companion=_log,
            lacks=lambda: _unread(_ONLY_IN_LOG),
            nested=_NESTED,
        ),
        AttachPoint(
            "tp_btf/mark_victim",
            ("on_oom_signal", "on_mark_victim"),
            (_NOT_IN_LOG,),
            _log,
            lambda: _unread(f"whose limit it was, and {_ONLY_IN_LOG}"),
            nested=_NESTED,
        ),
    ),
    decode={
        "oom": _decode,
        "oom_member": _decode_member,
        "oom_log": _decode_log,
        "oom_share": _decode_share,
        "oom_own": _decode_own,
        "oom_unread": _decode_unread,
        "gfp_names": learn,
    },
    whose={"oom": "victim_process"},
    state={"gfp_names": (), "oom_unread": ()},
    columns=(
        Column("VICTIM", lambda e: process_name(e.about), 14, 23),
        Column("LIMIT", lambda e: size(e.body["limit_bytes"]), 8, 8, 2),
        Column("OF", _limit_word, 9, 9, 3),
        Column("ANON", lambda e: size(_facts(e)["anon_bytes"]), 8, 8, 4),
        Column("WAS", _was, 5, 5, 3),
        POD,
        CONTAINER,
        Column("TRIGGER", lambda e: process_name(e.by), 14, 23, 6),
        Column("FILE", lambda e: size(_facts(e)["file_bytes"]), 8, 8, 6, wide=True),
        Column("SHMEM", lambda e: size(_facts(e)["shmem_bytes"]), 8, 8, 6, wide=True),
        Column("ADJ", lambda e: str(_facts(e)["oom_score_adj"]), 5, 5, 6, wide=True),
        Column("ORDER", lambda e: _number(e.body["order"]), 5, 5, 6, wide=True),
        Column("GFP", lambda e: _joined(e.body["gfp_flags"]), 10, 40, 6, wide=True),
        Column("EXE", lambda e: exe(e.about), 10, 40, 6, wide=True),
        Column("CGROUP", lambda e: e.body["cgroup_path"], 10, 60, 6, wide=True),
        Column("ANCESTRY", lambda e: ancestry_chain(e.about), 10, 120, 6, wide=True),
    ),
    summary=_summary,
    alarm=_alarm,
    options=KillOptions,
)


def _number(value: int | None) -> str | None:
    return None if value is None else str(value)


def _joined(names: list[str] | None) -> str | None:
    return None if names is None else "|".join(names)
