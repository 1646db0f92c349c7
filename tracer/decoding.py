# SPDX-License-Identifier: Apache-2.0
"""What a number, a path or a line of the kernel log means, in sentences: `ktrace decode`.

Everything is read from text alone, so that it works for what somebody pasted from another machine.
Where the text cannot be read for certain, the answer says so: cgroups and processes are named by
whoever runs in them, and a name may imitate the line that it stands in.
"""

from __future__ import annotations

import mmap
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tracer import buddyinfo, gfp
from tracer.errors import UsageError
from tracer.exitcodes import describe_exit_code
from tracer.faults import parse as parse_fault
from tracer.identity.cgroup import parse
from tracer.signals import SIGRTMAX, parse_signals, signal_name
from tracer.units import size

# Blocks larger than this (PAGE_ALLOC_COSTLY_ORDER) the kernel does not try hard to find.
COSTLY_ORDER = 3


@dataclass(frozen=True)
class FlagNames:
    """The table of one kernel's GFP flags, and whose it is: `this kernel`, or a file."""

    table: gfp.Table
    source: str


def decode(text: str, names: FlagNames) -> list[str] | None:
    """The meaning of one argument or line, the main thing first; None if nothing here knows it."""
    text = text.strip()
    for recognise in _RECOGNISERS:
        lines = recognise(text, names)
        if lines:
            return lines
    return None


# Numbers and names


def _number(text: str, _names: FlagNames) -> list[str] | None:
    if not re.fullmatch(r"\d{1,3}", text) or int(text) > 255:
        return None
    lines = [f"exit code {describe_exit_code(int(text))}"]
    if 128 < int(text) <= 128 + SIGRTMAX:
        name = signal_name(int(text) - 128)
        lines.append(
            f"Kubernetes shows the same number for a container that {name} killed:"
            " the number alone does not tell the two apart, ktrace exits does"
        )
    if 1 <= int(text) <= SIGRTMAX:
        lines += _describe_signal(int(text))
    return lines


def _signal(text: str, _names: FlagNames) -> list[str] | None:
    if not re.fullmatch(r"(?i)(SIG)?[A-Z]+[A-Z0-9]*(\+\d+)?", text):
        return None
    try:
        (number,) = parse_signals(text)
    except (UsageError, ValueError):
        return None
    return _describe_signal(number)


def _describe_signal(number: int) -> list[str]:
    name = signal_name(number)
    words = signal.strsignal(number) or "a real-time signal"
    default = _default(name)
    if name in ("SIGKILL", "SIGSTOP"):
        lines = [f"signal {number}: {name}, {words.lower()}; {default}, no handler can prevent it"]
    else:
        lines = [f"signal {number}: {name}, {words.lower()}; without a handler {default}"]
    if default.startswith("ends"):
        lines.append(f"a container that it ended is shown with exit code {128 + number}")
        if name != "SIGKILL":
            lines.append(_INIT_IS_SPARED)
    return lines


_INIT_IS_SPARED = (
    "sent to the first process of a container, it is ignored unless that has a handler"
)


_DUMPS_CORE = {
    *("SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS"),
    *("SIGFPE", "SIGSEGV", "SIGXCPU", "SIGXFSZ", "SIGSYS"),
}


def _default(name: str) -> str:
    """signal(7)"""
    if name in ("SIGCHLD", "SIGURG", "SIGWINCH"):
        return "does nothing"
    if name == "SIGCONT":
        return "does nothing but continue a stopped process"
    if name in ("SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU"):
        return "stops the process until SIGCONT"
    return "ends the process and dumps core" if name in _DUMPS_CORE else "ends the process"


def _mask(text: str, names: FlagNames) -> list[str] | None:
    if not re.fullmatch(r"0x[0-9a-fA-F]{1,16}", text):
        return None
    mask = int(text, 16)
    said = f"gfp mask {mask:#x}: {_flag_words(mask, names)}"
    return [said, *_caution(names), *_explain_flags(gfp.words(mask, names.table))]


def _flag_words(mask: int, names: FlagNames) -> str:
    if not names.table:
        return "the names are not known here"
    return "|".join(gfp.words(mask, names.table)) or "no flag at all"


def _caution(names: FlagNames) -> list[str]:
    if not names.table:
        return [
            "this kernel does not tell its flags: as root with tracefs mounted it does, or name the"
            " format file of the kernel in question with --kernel-format"
        ]
    return [
        f"by the names of {names.source}; the numbers move between releases, so a mask from another"
        " kernel needs --kernel-format"
    ] * (names.source == "this kernel")


_FLAG_MEANINGS = {
    "GFP_KERNEL": "may wait, reclaim and write to disk: the usual kind",
    "GFP_KERNEL_ACCOUNT": "may wait, reclaim and write to disk, and counts against the cgroup",
    "GFP_ATOMIC": "must not wait, and may use what is kept for emergencies",
    "GFP_NOWAIT": "must not wait",
    "GFP_NOIO": "may wait, but start no disk I/O",
    "GFP_NOFS": "may wait, but not enter a file system",
    "GFP_USER": "for a user process, may wait",
    "GFP_HIGHUSER": "for a user process, any memory",
    "GFP_HIGHUSER_MOVABLE": "pages of a user process, which can be moved",
    "__GFP_ACCOUNT": "counts against the cgroup's limit",
    "__GFP_COMP": "the pages belong together as one",
    "__GFP_DIRECT_RECLAIM": "may wait while memory is freed",
    "__GFP_HIGH": "may use a part of the reserves",
    "__GFP_MEMALLOC": "may use all reserves",
    "__GFP_NOFAIL": "must not fail: tried for ever",
    "__GFP_NOMEMALLOC": "must not use reserves",
    "__GFP_NORETRY": "given up at once: there is another way",
    "__GFP_NOWARN": "failure is expected and not logged",
    "__GFP_RETRY_MAYFAIL": "tried hard, but may fail",
    "__GFP_THISNODE": "from this NUMA node only",
    "__GFP_ZERO": "filled with zeroes",
}


def _explain_flags(flags: Sequence[str]) -> list[str]:
    lines = [f"  {flag}: {_FLAG_MEANINGS[flag]}" for flag in flags if flag in _FLAG_MEANINGS]
    unnamed = [flag for flag in flags if flag.startswith("0x")]
    return lines + [f"  {bits}: bits without a name there" for bits in unnamed]


# Cgroup paths


def _cgroup(text: str, _names: FlagNames) -> list[str] | None:
    """A path, or a line of /proc/PID/cgroup."""
    path = text[text.index("/") :] if re.match(r"\d+:[^/:]*:/", text) else text
    identity = parse(path)
    if identity.container_id is None and identity.pod_uid is None:
        if not path.startswith("/") or "\n" in path:
            return None
        return ["a cgroup of no pod and no container that ktrace knows the form of"]
    facts = {
        "pod": identity.pod_uid,
        "container": identity.container_id,
        "runtime": identity.runtime,
        "QoS class": identity.qos,
    }
    what = "container" if identity.container_id else "pod"
    lines = [f"the cgroup of a {what}" + (" of a pod" * bool(what[0] == "c" and identity.pod_uid))]
    lines += [f"  {name}: {value}" for name, value in facts.items() if value is not None]
    if identity.pod_uid:
        lines.append(
            "its name: kubectl get pods -A -o custom-columns="
            "NS:.metadata.namespace,NAME:.metadata.name,UID:.metadata.uid | grep "
            + identity.pod_uid
        )
    return lines


def _whose(path: str) -> str:
    identity = parse(path)
    if identity.container_id:
        pod = f" of pod {identity.pod_uid}" if identity.pod_uid else ""
        return f"container {identity.container_id[:12]}{pod}"
    if identity.pod_uid:
        return f"pod {identity.pod_uid}"
    return "the root cgroup" if path == "/" else f"cgroup {path}"


# Lines of the kernel log

_ALLOCATION = re.compile(
    r"(?:^|[\]:] )(?P<comm>[^\n]{0,64}?): page allocation (?P<what>failure|stalls for \d+ms)[:.,]"
    r" *order:(?P<order>\d+),? mode:(?P<mask>0x[0-9a-fA-F]+)(?:\((?P<names>[^()]*)\))?"
)
_INVOKED = re.compile(
    r"(?:^|[\]:] )(?P<comm>[^\n]{0,64}?) invoked oom-killer: gfp_mask=(?P<mask>0x[0-9a-fA-F]+)"
    r"(?:\((?P<names>[^()]*)\))?,.* order=(?P<order>-?\d+)"
)
_KILLED = re.compile(
    r"(?P<scope>Memory cgroup out of memory|Out of memory(?: \(oom_kill_allocating_task\))?)"
    r": (?P<verb>Killed|Kill) process (?P<pid>\d+) \((?P<comm>.*)\)"
    r"(?P<rest>,? (?:score \d+|total-vm:).*)"
)
_KILLED_ALONE = re.compile(
    r"(?P<verb>Killed) process (?P<pid>\d+)(?:, UID \d+,)? \((?P<comm>.*)\)"
    r"(?P<rest>,? total-vm:.*)"
)
_OOM_KILL = re.compile(r"oom-kill:constraint=CONSTRAINT_(?P<constraint>\w+),(?P<rest>.*)")
_AMOUNT = re.compile(r"(total-vm|anon-rss|file-rss|shmem-rss|pgtables):(\d+)kB")


def _page_allocation(text: str, names: FlagNames) -> list[str] | None:
    found = _ALLOCATION.search(text)
    if not found:
        return None
    order, mask = int(found["order"]), int(found["mask"], 16)
    told = found["names"].split("|") if found["names"] else None
    flags = told if told is not None else gfp.words(mask, names.table)
    what = "could not allocate" if found["what"] == "failure" else "waited long for"
    lines = [f"{_last_word(found['comm'])} {what} {_pages(order)}"]
    if told is None:
        lines += [f"flags: {_flag_words(mask, names)}", *_caution(names)]
    else:
        lines.append(f"flags, by the kernel that wrote the line: {'|'.join(told)}")
    lines += _explain_flags(flags)
    if order > COSTLY_ORDER:
        lines.append(
            "more than 8 pages in one piece: often memory is free but in small pieces;"
            " ktrace decode < /proc/buddyinfo shows it"
        )
    elif order == 0:
        lines.append("a single page: this is a real lack of memory, or a limit")
    return lines


def _pages(order: int) -> str:
    if order == 0:
        return f"one page, {size(mmap.PAGESIZE)}"
    total = size(mmap.PAGESIZE << order) if order < 32 else "impossibly many"
    return f"order {order}: 2^{order} pages, {total} in one piece"


def _last_word(comm: str) -> str:
    """The process's name, without the time or host that a log daemon put in front."""
    return re.sub(r"^.*?\] ", "", comm).strip() or "a process"


def _invoked(text: str, names: FlagNames) -> list[str] | None:
    found = _INVOKED.search(text)
    if not found:
        return None
    told, order = found["names"], int(found["order"])
    flags = told or _flag_words(int(found["mask"], 16), names)
    asked = "SysRq asked for it" if order < 0 else f"it needed {_pages(order)}"
    return [
        f"{_last_word(found['comm'])} started the OOM killer: {asked}",
        f"flags: {flags}",
        "this names who asked for memory last, not who is killed: see the oom-kill: line",
    ]


def _killed(text: str, _names: FlagNames) -> list[str] | None:
    found = _KILLED.search(text) or _KILLED_ALONE.search(text)
    if not found:
        return None
    scope = found.groupdict().get("scope")
    done = "killed" if found["verb"] == "Killed" else "chose to kill"
    cause = {
        None: "at whose limit is in the lines before",
        "Memory cgroup out of memory": "a cgroup's memory limit was reached, the node had memory",
    }.get(scope, "the whole node was out of memory, whatever the container's own limit")
    lines = [f"the OOM killer {done} {found['comm']}, pid {found['pid']}: {cause}"]
    for name, kib in _AMOUNT.findall(found["rest"]):
        lines.append(f"  {_AMOUNTS[name]}: {size(int(kib) << 10)}")
    score = re.search(r"oom_score_adj:(-?\d+)", found["rest"])
    if score:
        lines.append(f"  oom_score_adj: {score[1]}{_score_words(int(score[1]))}")
    return lines


_AMOUNTS = {
    "total-vm": "address space, most of it perhaps never used",
    "anon-rss": "its own memory (heap, stacks)",
    "file-rss": "pages of files",
    "shmem-rss": "shared memory, tmpfs (emptyDir in memory) included",
    "pgtables": "page tables",
}


def _score_words(score: int) -> str:
    """What the kubelet gives (its QoS policy)."""
    if score <= -997:
        return ", as the kubelet gives a Guaranteed container"
    if score == 1000:
        return ", as the kubelet gives a BestEffort container"
    return ", as the kubelet gives a Burstable container" if 2 <= score <= 999 else ""


def _oom_kill(text: str, _names: FlagNames) -> list[str] | None:
    found = _OOM_KILL.search(text)
    if not found:
        return None
    constraint, rest = found["constraint"], found["rest"]
    victim = re.search(r",task=(?P<comm>.*),pid=(?P<pid>\d+),uid=(?P<uid>\d+)$", rest)
    who = f"{victim['comm']}, pid {victim['pid']}, uid {victim['uid']}" if victim else "a process"
    limited, own = _field(rest, "oom_memcg"), _field(rest, "task_memcg")
    if constraint == "MEMCG":
        cause = f"the memory limit of {_whose(limited)} was reached" if limited else "a cgroup's"
    elif constraint == "NONE":
        cause = "the whole node was out of memory"
    else:
        cause = f"the memory allowed by a {constraint.lower().replace('_', ' ')} was used up"
    if constraint == "MEMCG" and limited is None:
        cause = "a cgroup's memory limit was reached; whose cannot be told for certain from this"
    lines = [f"the OOM killer chose {who}: {cause}"]
    if own:
        lines.append(f"  it ran in {_whose(own)}")
    if limited:
        lines.append(f"  the limit is that of {limited}")
    return lines


def _field(rest: str, name: str) -> str | None:
    """A path in the line; None if it is not there, or there twice because a name imitates it."""
    if rest.count(f",{name}=") != 1 or rest.count(",task=") != 1:
        return None
    value = rest.partition(f",{name}=")[2]
    return re.split(r",task_memcg=|,task=", value)[0]


def _fault(text: str, _names: FlagNames) -> list[str] | None:
    fault = parse_fault(text)
    if fault is None:
        return None
    lines = [f"{_last_word(fault.comm)}, pid {fault.tid}, crashed by its own fault: {fault.what}"]
    if fault.access:
        lines.append(f"  it {fault.access}")
    if fault.module:
        of = "of the file" if fault.in_file else "behind the beginning of its mapping"
        lines.append(f"  in {fault.module}, offset {fault.offset:#x} {of}")
    return lines


_RECOGNISERS: tuple[Callable[[str, FlagNames], list[str] | None], ...] = (
    *(_number, _signal, _mask),
    *(_oom_kill, _killed, _page_allocation, _invoked, _fault),
    _cgroup,
)


# Free lists


def decode_buddyinfo(zones: list[dict[str, Any]], page_size: int = mmap.PAGESIZE) -> list[str]:
    """What can be had in one piece, for the whole node and zone by zone."""
    free = buddyinfo.free_bytes(zones, page_size)
    lines = [f"{size(free)} free"]
    orders = max(len(zone["free"]) for zone in zones)
    for order in range(orders):
        left = buddyinfo.free_bytes(zones, page_size, order)
        share = f"{100 * left // free} %" if free else "–"
        count = sum(sum(zone["free"][order : order + 1]) for zone in zones)
        lines.append(
            f"  order {order:2}  {size(page_size << order):>8}  {count:8} blocks;"
            f" in blocks of this size or more: {size(left):>8}, {share}"
        )
    lines += [f"  node {zone['node']} {_largest(zone, page_size)}" for zone in zones]
    if free >= buddyinfo.NOTHING and not buddyinfo.free_bytes(zones, page_size, COSTLY_ORDER + 1):
        lines[0] += ", but fragmented: nothing in blocks of more than 8 pages"
    return lines


def _largest(zone: dict[str, Any], page_size: int) -> str:
    orders = [order for order, count in enumerate(zone["free"]) if count]
    if not orders:
        return f"zone {zone['zone']}: nothing free"
    return f"zone {zone['zone']}: the largest block is {size(page_size << orders[-1])}"
