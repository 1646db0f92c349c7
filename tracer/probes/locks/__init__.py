# SPDX-License-Identifier: Apache-2.0
"""Show who waits for xtables.lock, and which process holds it.

flock(2) of xtables.lock: who waits for whom before it may change iptables' rules.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import Any, TypedDict, TypeGuard

from tracer.kernel.bpf_object import shipped
from tracer.kernel.devices import device_name
from tracer.kernel.procfs import stat_of
from tracer.model.bounded import keep
from tracer.model.event import Event, Process
from tracer.model.path import path_of
from tracer.model.selection import Selection
from tracer.model.summary import summary
from tracer.model.units import span
from tracer.probes import Alike, AttachPoint, Decode, Metric, Options, Probe, Stream, option
from tracer.probes.columns import CONTAINER, POD, Column, pod_name, process_name
from tracer.probes.locks.companion import holders_here

# Words for `enum lock_outcome` in probes/locks.bpf.c.
OUTCOMES = {
    "KT_LOCK_WAITING": "waiting",
    "KT_LOCK_ACQUIRED": "acquired",
    "KT_LOCK_REFUSED": "refused",
    "KT_LOCK_GIVEN_UP": "given_up",
    "KT_LOCK_OTHER_FILE": "other_file",
}
MAX_HOLDERS = 256
# A wait that an alarm is for: programs that change rules hold the lock for milliseconds.
LONG_NS = 1_000_000_000
# The kernel thread that makes all others is in the host's namespaces, and in no other /proc.
_KTHREADD = 2


class LockedFile(TypedDict):
    path: str | None
    device: str
    inode: int


class LockBody(TypedDict):
    outcome: str
    file: LockedFile
    waited_ns: int
    process: Process
    holder: Process | None
    held_ns: int | None
    other_file: LockedFile | None


def is_lock(event: Event) -> TypeGuard[Event[LockBody]]:
    return event.kind == "file_lock"


class Decoder:
    def __init__(self, stream: Stream) -> None:
        self._resolver = stream.resolver
        self._holders: dict[int, int] = {}  # the numbers of their descriptions, by pid

    def lock(self, record: Any) -> Event[LockBody]:
        resolver, holder = self._resolver, None
        process = resolver.process(record.process_process, record.process_pid, record.process_tid)
        if record.holder_pid:
            described = record.holder_process or self._holders.get(record.holder_pid, 0)
            holder = resolver.process(described, record.holder_pid, record.holder_tid)
        outcome = _outcomes()[record.outcome]
        other = outcome == "other_file"
        body: LockBody = {
            "outcome": outcome,
            "file": {
                "path": _path(record),
                "device": device_name(record.device),
                "inode": record.inode,
            },
            "waited_ns": record.waited,
            "process": process,
            "holder": holder,
            "held_ns": None if other else record.held or None,
            "other_file": {
                "path": None,
                "device": device_name(record.other_device),
                "inode": record.other_inode,
            }
            if other
            else None,
        }
        place = resolver.place(record.holder_cgroup) if record.holder_cgroup else None
        return Event("file_lock", record.time, process, holder, body, None, place)

    def holder(self, record: Any) -> None:
        keep(self._holders, record.pid, record.process, MAX_HOLDERS)


def _decoder(stream: Stream) -> dict[str, Decode]:
    decoder = Decoder(stream)
    return {"file_lock": decoder.lock, "lock_holder": decoder.holder}


@cache
def _outcomes() -> dict[int, str]:
    return shipped("locks").words("lock_outcome", OUTCOMES)


def _path(record: Any) -> str | None:
    """As the process itself sees it."""
    if not record.path_bytes:
        return None
    return path_of(record.path, record.path_bytes, record.path_whole)


@dataclass(frozen=True)
class LockOptions(Options):
    all_files: bool = option(False, "Also locks of files that are not named xtables.lock.")

    def settings(self, selection: Selection) -> dict[str, int]:
        return {"kt_lock_every": self.all_files, "kt_lock_host_netns": _host_netns() or 0}


def _host_netns() -> int | None:
    """The inode of the host's network namespace. None: its processes are not seen from here."""
    found = stat_of(_KTHREADD)
    if found is None or found.comm != b"kthreadd":
        return None
    try:
        return os.stat(f"/proc/{_KTHREADD}/ns/net").st_ino
    except OSError:
        return None


def _lacks() -> tuple[str, ...]:
    if _host_netns() is None:
        return (
            "files of the same name that do not exclude each other (the host's /proc is not seen)",
        )
    return ()


def word(outcome: str) -> str:
    return outcome.replace("_", " ")


def _file(event: Event[LockBody]) -> str:
    file = event.body["file"]
    return file["path"] or f"{file['device']} inode {file['inode']}"


def _holder(event: Event[LockBody]) -> str | None:
    return process_name(event.by)


def _waited(event: Event[LockBody]) -> str | None:
    waited = event.body["waited_ns"]
    return span(waited) if waited else None


def _held(event: Event[LockBody]) -> str | None:
    held = event.body["held_ns"]
    return span(held) if held else None


def _summary(event: Event[LockBody]) -> str:
    body, name, file = event.body, process_name(event.about), _file(event)
    holder = _holder(event)
    by = f", which {holder} holds" if holder else ""
    held = _held(event)
    by += f" since {held}" if held else ""
    waited = span(body["waited_ns"])
    return {
        "waiting": f"{name} waits for {file}{by}",
        "acquired": f"{name} got {file} after {waited}",
        "refused": f"{name} did not get {file}{by}, and did not wait",
        "given_up": f"{name} gave up waiting for {file} after {waited}{by}",
        "other_file": f"{name} locks {file}, inode {body['file']['inode']}, and"
        f" {holder or 'another process'} a file of that name with another inode",
    }[body["outcome"]]


def _grouping(event: Event[LockBody]) -> Alike:
    """By whom and for whom: waits begin and end in events of their own."""
    body = event.body
    name = event.about.comm if event.about else None
    holder = event.by.pid if event.by else 0
    return Alike(
        ("file_lock", body["outcome"]),
        (name, holder, body["file"]["inode"], body["waited_ns"] >= LONG_NS),
    )


def _alarm(event: Event[LockBody]) -> bool:
    body = event.body
    return body["outcome"] in ("refused", "given_up", "other_file") or body["waited_ns"] >= LONG_NS


PROBE: Probe[LockBody] = Probe(
    name="locks",
    object="locks",
    help=summary(__doc__),
    examples=(
        "ktrace locks                     pods that wait for iptables' lock, or hold it",
        "ktrace locks --all               also where the host waits for itself",
        "ktrace locks --all --all-files   flock(2) of any file",
        "ktrace locks -o json | jq 'select(.outcome == \"given_up\") | .holder'",
    ),
    attach_points=(
        AttachPoint(
            "tp_btf/flock_lock_inode",
            ("on_flock",),
            cannot_tell=(
                "waits that end while nobody holds the lock",
                "since when a lock is held that was taken before the start",
            ),
            companion=holders_here,
            lacks=_lacks,
        ),
    ),
    decoder=_decoder,
    bodies={"file_lock": LockBody},
    whose={"file_lock": "process_process"},
    columns=(
        Column("OUTCOME", lambda e: word(e.body["outcome"]), 8, 10),
        Column("FILE", _file, 12, 40, 3),
        Column("WAITED", _waited, 6, 8, 2),
        Column("PROCESS", lambda e: process_name(e.about), 10, 23),
        Column("HOLDER", _holder, 10, 23, 1),
        Column("HELD", _held, 6, 8, 2),
        POD,
        CONTAINER,
        Column("HOLDER-POD", lambda e: pod_name(e.by_place), 10, 40, 4),
        Column("INODE", lambda e: str(e.body["file"]["inode"]), 6, 20, 6, wide=True),
    ),
    summary=_summary,
    alarm=_alarm,
    grouping=_grouping,
    options=LockOptions,
    metric=Metric(
        "file_locks",
        "Waits for xtables.lock and how they ended.",
        {"outcome": lambda e: e.body["outcome"]},
    ),
)
