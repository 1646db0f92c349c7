# SPDX-License-Identifier: Apache-2.0
"""Joins the records of a kill in one event: the kernel's own, the members of a group that dies as a
whole, and the kernel log's report of the same kill. The log is only believed together with the
kernel's event, and only where both agree."""

from __future__ import annotations

import mmap
import os
import re
from dataclasses import dataclass, fields
from typing import Any, TypedDict, TypeGuard

import orjson

from tracer.identity.resolver import Resolver
from tracer.kernel.bpf_object import shipped
from tracer.model.bounded import keep
from tracer.model.cgroup import parse
from tracer.model.event import Event, Place, Process, text
from tracer.probes import Decode, Stream
from tracer.probes.exits import is_container_init
from tracer.probes.gfp import FlagNames

# Words for `enum oom_scope` in probes/oom.bpf.c.
SCOPES = {"OOM_SCOPE_UNKNOWN": None, "OOM_SCOPE_CGROUP": "cgroup", "OOM_SCOPE_SYSTEM": "system"}
UNKNOWN = -1
# Limits from here on mean "no limit" (PAGE_COUNTER_MAX pages).
NO_LIMIT = 1 << 60
# The most time between a log line and the kernel's event of the same kill.
SAME_KILL_NS = 5_000_000_000
MAX_PENDING = 256
# Bound of the parts of a pod.
MAX_PARTS = 64


class Facts(TypedDict):
    anon_bytes: int | None
    file_bytes: int | None
    shmem_bytes: int | None
    oom_score_adj: int
    is_container_init: bool | None


@dataclass(slots=True, kw_only=True)
class Victim(Process):
    """A process with the facts that the OOM killer saw."""

    facts: Facts

    def json(self) -> Any:
        process = orjson.dumps(Process.json(self))
        return orjson.Fragment(process[:-1] + b"," + orjson.dumps(self.facts)[1:])


class Amounts(TypedDict):
    limit_bytes: int | None
    usage_bytes: int | None
    anon_bytes: int | None
    file_bytes: int | None
    shmem_bytes: int | None


class Part(Amounts):
    """A cgroup in the pod."""

    cgroup: str
    container: str | None
    container_id: str | None


class Rest(TypedDict):
    """Memory still charged to removed cgroups."""

    usage_bytes: int | None
    anon_bytes: int | None
    file_bytes: int | None
    shmem_bytes: int | None


class Memory(TypedDict):
    parts: list[Part]
    left: Rest


class Task(TypedDict):
    pid: int
    comm: str
    uid: int
    rss_bytes: int
    anon_bytes: int | None
    file_bytes: int | None
    shmem_bytes: int | None
    oom_score_adj: int


class _WhereKnown(TypedDict, total=False):
    unknown_because: str
    memory: Memory


class KillBody(_WhereKnown):
    scope: str | None
    victim: Victim
    trigger: Process
    cgroup_path: str | None
    limit_of: str | None
    limit_bytes: int | None
    usage_bytes: int | None
    order: int | None
    gfp_flags: list[str] | None
    members: list[Victim]
    largest: list[Task] | None


def is_kill(event: Event) -> TypeGuard[Event[KillBody]]:
    return event.kind == "oom"


class Decoder:
    """The companion's records of a kill come before it, the records of its members after it."""

    def __init__(self, stream: Stream) -> None:
        self._resolver = stream.resolver
        self._flags = stream.shared(FlagNames)
        self._scopes = shipped("oom").words("oom_scope", SCOPES)
        self._row = shipped("oom").layout("oom_row")
        self._logs: dict[int, Any] = {}
        self._shares: dict[int, list[Any]] = {}
        self._own: dict[int, Any] = {}
        self._unread: str | None = None  # why the kernel log cannot be read
        # the same lists as in the events, also delivered ones: members that come later still reach
        # the sink in time
        self._lists: dict[int, list[Victim]] = {}

    def kill(self, record: Any) -> Event[KillBody]:
        resolver = self._resolver
        victim = _victim(record, resolver)
        trigger = resolver.process(record.trigger_process, record.trigger_pid, record.trigger_tid)
        log = self._matching_log(record)
        scope = self._scopes[record.scope]
        path, limit, usage = None, _known(record.limit), _known(record.usage)
        if record.limit_cgroup:
            place = resolver.place(record.limit_cgroup)
            path = place.path if place else None
        order = record.order if record.asked else None
        flags = self._flags.words(record.gfp) if record.asked else None
        if log:
            told_scope, told_path = _scope_and_path(text(log.words), victim)
            scope, path = scope or told_scope, path or told_path
            order = log.order if order is None else order
            flags = text(log.gfp_names).split("|") if flags is None and log.gfp_names[0] else flags
            if scope == "cgroup":
                limit = _known(log.limit) if limit is None else limit
                usage = _known(log.usage) if usage is None else usage
        body: KillBody = {
            "scope": scope,
            "victim": victim,
            "trigger": trigger,
            "cgroup_path": path,
            "limit_of": _limit_of(path),
            "limit_bytes": None if limit is None or limit >= NO_LIMIT else limit,
            "usage_bytes": usage,
            "order": None if order is None or order < 0 else order,
            "gfp_flags": flags,
            "members": self._members(record.time),
            "largest": self._largest(log) if log else None,
        }
        if path is None and scope != "system":
            body["unknown_because"] = self._why_unknown(record, log)
        shares = self._shares.pop(log.pid, None) if log else None
        own = self._own.pop(record.time, None)
        if shares and body["limit_of"] == "pod" and path is not None:
            memory = _memory(shares, own, path, victim, resolver)
            if memory is not None:
                body["memory"] = memory
        return Event("oom", record.time, victim, trigger, body)

    def member(self, record: Any) -> None:
        self._members(record.first).append(_victim(record, self._resolver))

    def log(self, record: Any) -> None:
        keep(self._logs, record.pid, record, MAX_PENDING)

    def share(self, record: Any) -> None:
        shares = self._shares
        if not record.part:
            keep(shares, record.pid, [record], MAX_PENDING)
        elif record.pid in shares and len(shares[record.pid]) <= MAX_PARTS:
            shares[record.pid].append(record)

    def own(self, record: Any) -> None:
        keep(self._own, record.first, record, MAX_PENDING)

    def unread(self, record: Any) -> None:
        self._unread = os.strerror(record.error)

    def _members(self, first: int) -> list[Victim]:
        if first not in self._lists:
            keep(self._lists, first, [], MAX_PENDING)
        return self._lists[first]

    def _matching_log(self, record: Any) -> Any | None:
        for pid in (record.victim_pid, record.victim_tid):
            log = self._logs.pop(pid, None)
            if log is not None and abs(log.time - record.time) <= SAME_KILL_NS:
                return log
        return None

    def _largest(self, log: Any) -> list[Task]:
        rows = self._row.struct.iter_unpack(log.row[: log.rows * self._row.size])
        return [
            {
                "pid": row.pid,
                "comm": text(row.comm),
                "uid": row.uid,
                "rss_bytes": row.rss,
                "anon_bytes": _known(row.anon),
                "file_bytes": _known(row.file),
                "shmem_bytes": _known(row.shmem),
                "oom_score_adj": row.score_adj,
            }
            for row in map(self._row.make, rows)
        ]

    def _why_unknown(self, record: Any, log: Any | None) -> str:
        """Why it is unknown whose limit was hit."""
        if record.limit_cgroup:
            return "the description of the cgroup whose limit was hit was lost"
        if log:
            return "the kernel log does not name the cgroup so that it can be believed"
        if self._unread:
            return f"the kernel log cannot be read: {self._unread}"
        return "the kernel log has no whole report of it"


def decoders(stream: Stream) -> dict[str, Decode]:
    made = Decoder(stream)
    return {
        "oom": made.kill,
        "oom_member": made.member,
        "oom_log": made.log,
        "oom_share": made.share,
        "oom_own": made.own,
        "oom_unread": made.unread,
        "gfp_names": stream.shared(FlagNames).learn,
    }


def limit_owner(body: KillBody) -> str | None:
    """The limit's owner in terms of a manifest: `container`, `pod` or `other`. A kubelet sets a
    pod's limit to the sum of its containers' limits. Other memory charged to the pod (pause, tmpfs
    of an earlier instance) then makes the pod's limit hit first. So only a limit other than the sum
    is the pod's own."""
    memory, limit = body.get("memory"), body["limit_bytes"]
    if body["limit_of"] != "pod" or not memory or limit is None:
        return body["limit_of"]
    parts = memory["parts"]
    limits = [part["limit_bytes"] for part in parts if part["limit_bytes"] is not None]
    rounded = len(limits) * mmap.PAGESIZE
    return "container" if limits and abs(sum(limits) - limit) <= rounded else "pod"


def _memory(
    shares: list[Any], own: Any | None, path: str, victim: Victim, resolver: Resolver
) -> Memory | None:
    """The memory use in the pod by cgroup, and the rest charged to removed cgroups. The kernel
    side reports the victim's own container; None if that is missing."""
    whole, *parts = shares
    counted = [_amounts(part) for part in parts]
    told = [
        _part(part.name, path, resolver, amounts)
        for part, amounts in zip(parts, counted, strict=True)
    ]
    whole_amounts = _amounts(whole)
    left: Rest = {
        "usage_bytes": _rest(whole_amounts["usage_bytes"], [a["usage_bytes"] for a in counted]),
        "anon_bytes": _rest(whole_amounts["anon_bytes"], [a["anon_bytes"] for a in counted]),
        "file_bytes": _rest(whole_amounts["file_bytes"], [a["file_bytes"] for a in counted]),
        "shmem_bytes": _rest(whole_amounts["shmem_bytes"], [a["shmem_bytes"] for a in counted]),
    }
    place = victim.place
    if own is not None and place is not None and own.cgroup == place.cgroup:
        _take_own(told, own, path, place, resolver)
    container_id = place.identity.container_id if place else None
    if container_id is None or all(part["container_id"] != container_id for part in told):
        return None
    return {"parts": told, "left": left}


def _take_own(told: list[Part], own: Any, path: str, place: Place, resolver: Resolver) -> None:
    """Takes limit and usage at the moment of the kill, if the record is of the container's cgroup
    itself."""
    directory, _, name = (place.path or "").rpartition("/")
    if directory != path or place.identity.container_id is None:
        return
    part = next((one for one in told if one["cgroup"] == name), None)
    if part is None:
        container = resolver.names.containers.get(place.identity.container_id)
        part = {
            "cgroup": name,
            "container": container.name if container else None,
            "container_id": place.identity.container_id,
            "anon_bytes": None,
            "file_bytes": None,
            "shmem_bytes": None,
            "limit_bytes": None,
            "usage_bytes": None,
        }
        told.append(part)
    limit = _known(own.limit)
    part["limit_bytes"] = None if limit is None or limit >= NO_LIMIT else limit
    part["usage_bytes"] = _known(own.usage)


def _part(name: bytes, path: str, resolver: Resolver, amounts: Amounts) -> Part:
    """A part with its container. One without a name is pause, if the runtime reported it at all."""
    container_id = parse(f"{path}/{text(name)}").container_id
    container = resolver.names.containers.get(container_id or "")
    return {
        "cgroup": text(name),
        "container": container.name if container else None,
        "container_id": container_id,
        **amounts,
    }


def _amounts(part: Any) -> Amounts:
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


def _victim(record: Any, resolver: Resolver) -> Victim:
    process = resolver.process(record.victim_process, record.victim_pid, record.victim_tid)
    known = {name: getattr(process, name) for name in _PROCESS_FIELDS}
    facts: Facts = {
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
    """Parses `oom-kill:constraint=…,oom_memcg=PATH,task_memcg=PATH`. A container chooses the names
    of its cgroups, so they can imitate this line. A path is only believed if the victim's own
    cgroup, known from the kernel side, lies in it."""
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
    """The limit's owner: the container, the pod, or a cgroup around or inside them."""
    if path is None:
        return None
    own, above = parse(path), parse(path.rpartition("/")[0] or "/")
    if own.container_id:
        return "other" if above.container_id else "container"
    if own.pod_uid:
        return "other" if above.pod_uid else "pod"
    return "other"
