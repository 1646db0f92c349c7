# SPDX-License-Identifier: Apache-2.0
"""Facts from the OOM killer's lines: mm/oom_kill.c and mm/memcontrol.c of 2.6 to 7.x.

Processes choose their names, and containers the names of their cgroups. So a field that occurs
twice in a line is not believed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tracer.decode import whose
from tracer.decode.lines import name_before
from tracer.model.units import size

# The largest counter of pages, in KiB: no limit (PAGE_COUNTER_MAX, and res_counter before 3.19).
UNLIMITED = 1 << 52


@dataclass(frozen=True, slots=True)
class Invoked:
    comm: str
    mask: int
    named: str | None
    order: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """The line `oom-kill:` (since 5.0, ef8444ea01d7). `limited` is None if no cgroup's limit was
    hit, or if a name imitates the line; then `forged` is true."""

    constraint: str
    comm: str | None
    pid: int | None
    uid: int | None
    limited: str | None
    own: str | None
    forged: bool

    @property
    def by_limit(self) -> bool:
        """Whether a cgroup's limit was hit. 5.0 to 5.2 wrote CONSTRAINT_NONE for those as well
        (432b1de0de02, "mm/oom_kill.c: fix uninitialized oc->constraint")."""
        return self.constraint == "MEMCG" or self.limited is not None


@dataclass(frozen=True, slots=True)
class Killed:
    """`done` is False for an announcement: older kernels may still kill a child instead."""

    pid: int
    comm: str
    done: bool
    scope: str | None
    rest: str

    @property
    def kib(self) -> dict[str, int]:
        return {
            name.replace("vsz", "total-vm"): int(kib) for name, kib in _AMOUNT.findall(self.rest)
        }


@dataclass(frozen=True, slots=True)
class Usage:
    what: str
    used: int
    limit: int
    failed: int


@dataclass(frozen=True, slots=True)
class Reaped:
    pid: int
    comm: str
    rest: str
    done: bool


_INVOKED = re.compile(
    r"(?:invoked )?\boom-killer: ?gfp_mask=(?P<mask>0x[0-9a-fA-F]{1,16})"
    r"(?:\((?P<names>[\w|]{0,512})\))?,[^\n]{0,200}?\border=(?P<order>-?\d{1,9})"
)
_KILLED = re.compile(
    r"(?P<verb>[Kk]ill(?:ed)?) process (?P<pid>\d{1,10})(?:,? UID:? ?\d{1,10},?)? "
    r"\((?P<comm>[^\n]{0,64})\)(?P<rest>(?:, UID \d{1,10})?,? (?:score \d|total-vm:|vsz:)[^\n]*)"
)
_KILLED_BRIEFLY = re.compile(
    r"(?P<verb>[Kk]ill(?:ed)?) process (?P<pid>\d{1,10})(?:,? UID:? ?\d{1,10},?)? "
    r"\((?P<comm>[^\n]{0,64}?)\)(?P<rest>)"
)
_CHOSEN = re.compile(r"oom-kill:constraint=CONSTRAINT_(?P<constraint>\w{1,32}),(?P<rest>[^\n]*)")
_VICTIM = re.compile(
    r",task=(?P<comm>[^\n]{0,64}),pid=(?P<pid>\d{1,10}),uid=(?P<uid>\d{1,10})\s{0,4}\Z"
)
_AMOUNT = re.compile(r"\b(total-vm|vsz|anon-rss|file-rss|shmem-rss|pgtables):(\d{1,18})kB")
_USAGE = re.compile(
    r"(?P<what>memory\+swap|memory|swap|kmem): usage (?P<used>\d{1,20})kB,"
    r" limit (?P<limit>\d{1,20})kB(?:, failcnt (?P<failed>\d{1,20}))?"
)
_LIMIT_OF = " killed as a result of limit of "
_REACHED = "Memory limit reached of cgroup "
_GROUP = " are going to be killed due to memory.oom.group set"
_STATS = "Memory cgroup stats"
_REAPED = re.compile(
    r"oom_reaper: (?:reaped process :?(?P<pid>\d{1,10}) \((?P<comm>[^\n]{0,64})\)(?P<rest>,? ?"
    r"(?:now )?anon-rss:[^\n]*)?|unable to reap pid:(?P<failed>\d{1,10}) \((?P<name>[^\n]{0,64})\))"
)


def invoked(text: str) -> Invoked | None:
    found = _INVOKED.search(text)
    if not found:
        return None
    comm = name_before(text, found.start())
    return Invoked(comm, int(found["mask"], 16), found["names"], int(found["order"]))


def chosen(text: str) -> Chosen | None:
    found = _CHOSEN.search(text)
    if not found:
        return None
    rest = found["rest"]
    victim = _VICTIM.search(rest)
    limited, own = _field(rest, "oom_memcg"), _field(rest, "task_memcg")
    return Chosen(
        constraint=found["constraint"],
        comm=victim["comm"] if victim else None,
        pid=int(victim["pid"]) if victim else None,
        uid=int(victim["uid"]) if victim else None,
        limited=limited,
        own=own,
        forged=limited is None and ",oom_memcg=" in rest,
    )


def _field(rest: str, name: str) -> str | None:
    """A path in the line; None if it is missing, or occurs twice because a name imitates it."""
    if rest.count(f",{name}=") != 1 or rest.count(",task=") != 1:
        return None
    value = rest.partition(f",{name}=")[2]
    return re.split(r",task_memcg=|,task=", value)[0]


def killed(text: str) -> Killed | None:
    found = _KILLED.search(text) or _KILLED_BRIEFLY.search(text)
    if not found:
        return None
    before = text[: found.start()].lower()
    scope = None
    if "memory cgroup out of memory" in before:
        scope = "cgroup"
    elif "out of memory" in before:
        scope = "node"
    done = found["verb"].lower() == "killed"
    return Killed(int(found["pid"]), found["comm"], done, scope, found["rest"])


def usage(text: str) -> Usage | None:
    found = _USAGE.search(text)
    if not found:
        return None
    numbers = int(found["used"]), int(found["limit"]), int(found["failed"] or 0)
    return Usage(found["what"], *numbers)


def limit_of(text: str) -> tuple[str, str] | None:
    """Until 4.20: (the victim's cgroup, the cgroup whose limit was hit)."""
    own, _, limited = text.partition(_LIMIT_OF)
    own = own.partition("Task in ")[2]
    if not own.startswith("/") or not limited.startswith("/") or _LIMIT_OF in limited:
        return None
    return own, limited


def reached(text: str) -> str | None:
    """The cgroup whose limit was hit if no task asked for the memory, 3.15 to 4.20."""
    path = text.partition(_REACHED)[2]
    return path if path.startswith("/") else None


def group(text: str) -> str | None:
    """memory.oom.group, since 4.19 (3d8b38eb81ca)."""
    path, found, _ = text.partition(_GROUP)
    path = path.partition("Tasks in ")[2]
    return path if found and path.startswith("/") else None


def stats_of(text: str) -> str | None:
    """The cgroup whose limit was hit; empty if the line does not name it."""
    _, found, rest = text.partition(_STATS)
    if not found:
        return None
    path, colon, _ = rest.removeprefix(" for ").partition(":")
    return path if colon and path.startswith("/") else ""


def reaped(text: str) -> Reaped | None:
    found = _REAPED.search(text)
    if not found:
        return None
    done = found["pid"] is not None
    pid, comm = (found["pid"], found["comm"]) if done else (found["failed"], found["name"])
    return Reaped(int(pid), comm, found["rest"] or "", done)


# In words


def cause(one: Chosen) -> str:
    if one.by_limit and one.limited is not None:
        return f"the memory limit of {whose.in_words(one.limited)} was reached"
    if one.by_limit or one.forged:
        return "a cgroup's memory limit was reached; whose cannot be told for certain from this"
    if one.constraint == "NONE":
        return "the whole node was out of memory"
    return f"the memory allowed by a {one.constraint.lower().replace('_', ' ')} was used up"


def amounts(one: Killed, version: tuple[int, int, int] | None) -> list[str]:
    lines = []
    for name, kib in one.kib.items():
        if name == "pgtables" and in_bytes(one.kib, version):
            lines.append(
                f"  {_AMOUNTS[name]}: {size(kib)} (bytes, though the line says kB: the kernels"
                " 5.4.0 to 5.4.8 wrote it so)"
            )
        else:
            lines.append(f"  {_AMOUNTS[name]}: {size(kib << 10)}")
    score = re.search(r"oom_score_adj:(-?\d{1,6})", one.rest)
    if score:
        lines.append(f"  oom_score_adj: {score[1]}{_score_words(int(score[1]))}")
    return lines


def in_bytes(kib: dict[str, int], version: tuple[int, int, int] | None) -> bool:
    """Whether the size of the page tables is in bytes. 70cb6d267790 ("mm/oom: add oom_score_adj and
    pgtables to Killed process message", 5.4) labelled bytes as kB until 941f762bcb27 (5.5, 5.4.9).
    Tables are whole pages, so bytes are a multiple of 4096; KiB are one only once in a thousand,
    and then would be a large part of the process. A distribution's 5.4.0-42 may have either."""
    tables = kib.get("pgtables", 0)
    if version is not None and version[:2] != (5, 4):
        return False
    return tables > 0 and tables % 4096 == 0 and tables > kib.get("total-vm", 0) // 256


_AMOUNTS = {
    "total-vm": "address space, most of it perhaps never used",
    "anon-rss": "its own memory (heap, stacks)",
    "file-rss": "pages of files",
    "shmem-rss": "shared memory, tmpfs (emptyDir in memory) included",
    "pgtables": "page tables",
}


def _score_words(score: int) -> str:
    """The meaning of an oom_score_adj that the kubelet sets (pkg/kubelet/qos/policy.go)."""
    if score in _SCORES:
        return f", as {_SCORES[score]}"
    return ", as the kubelet gives a Burstable container" if 2 <= score <= 999 else ""


_SCORES = {
    -999: "kubelet, kube-proxy and runtime have",
    -998: "a pod's sandbox has, and with older kubelets a Guaranteed container",
    -997: "the kubelet gives a Guaranteed or critical container",
    1000: "the kubelet gives a BestEffort container",
}


def used(one: Usage) -> str:
    """`memory: 512 MiB of 512 MiB`"""
    if one.limit >= UNLIMITED:
        return f"{size(one.used << 10)}, without a limit"
    times = f", which was hit {one.failed} times" if one.failed else ""
    return f"{size(one.used << 10)} of a limit of {size(one.limit << 10)}{times}"
