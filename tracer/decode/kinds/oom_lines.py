# SPDX-License-Identifier: Apache-2.0
"""The OOM killer's lines, each by itself; a whole report is `oom_report`."""

from __future__ import annotations

from tracer.decode import allocation, flags, oom, whose
from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line


def _read(line: Line, kernel: Kernel) -> Answer | None:
    for reader in _READERS:
        answer = reader(line.text, kernel)
        if answer:
            return answer
    return None


def _chosen(text: str, _kernel: Kernel) -> Answer | None:
    one = oom.chosen(text)
    if one is None:
        return None
    who = "a process" if one.comm is None else f"{one.comm}, pid {one.pid}, uid {one.uid}"
    lines = [f"the OOM killer chose {who}: {oom.cause(one)}"]
    if one.own:
        lines.append(f"  it ran in {whose.in_words(one.own)}")
    if one.limited:
        lines.append(f"  the limit is that of {whose.trimmed(one.limited)}")
    return lines + _names(one.own, one.limited)


def _killed(text: str, kernel: Kernel) -> Answer | None:
    one = oom.killed(text)
    if one is None:
        return None
    done = "killed" if one.done else "chose to kill"
    cause = {
        None: "; whose limit it was is in the lines before",
        "cgroup": ": a cgroup's memory limit was reached, the node had memory",
        "node": ": the whole node was out of memory, whatever the container's own limit",
    }[one.scope]
    child = [] if one.done else ["  or a child of it in its place: the next line says who died"]
    head = f"the OOM killer {done} {one.comm}, pid {one.pid}{cause}"
    return [head, *child, *oom.amounts(one, kernel.version)]


def _invoked(text: str, kernel: Kernel) -> Answer | None:
    one = oom.invoked(text)
    if one is None:
        return None
    asked = "SysRq asked for it"
    if one.order >= 0:
        asked = f"it needed {allocation.pages(one.order)}"
    return [
        f"{one.comm} started the OOM killer: {asked}",
        "this names who asked for memory last, not who is killed: see the oom-kill: line",
        *flags.of_line(one.mask, one.named, kernel),
    ]


def _limit_of(text: str, _kernel: Kernel) -> Answer | None:
    found = oom.limit_of(text)
    if found is None:
        return None
    own, limited = found
    return [
        f"the OOM killer acts because the memory limit of {whose.in_words(limited)} was reached",
        f"  it kills in {whose.in_words(own)}",
        f"  the limit is that of {whose.trimmed(limited)}",
        *_names(own, limited),
    ]


def _reached(text: str, _kernel: Kernel) -> Answer | None:
    path = oom.reached(text)
    if path is None:
        return None
    return [
        f"the OOM killer acts because the memory limit of {whose.in_words(path)} was reached",
        f"  the limit is that of {whose.trimmed(path)}",
        *_names(path),
    ]


def _group(text: str, _kernel: Kernel) -> Answer | None:
    path = oom.group(text)
    if path is None:
        return None
    return [
        f"the OOM killer kills all processes of {whose.in_words(path)}, because its"
        " memory.oom.group is set",
        f"  the cgroup is {whose.trimmed(path)}",
        *_names(path),
    ]


def _usage(text: str, _kernel: Kernel) -> Answer | None:
    one = oom.usage(text)
    if one is None:
        return None
    what = {"memory+swap": "memory and swap", "kmem": "the kernel's own memory"}.get(one.what)
    return [f"a cgroup's {what or one.what}: {oom.used(one)}"]


def _stats(text: str, _kernel: Kernel) -> Answer | None:
    path = oom.stats_of(text)
    if not path:
        return None
    return [f"what the memory of {whose.in_words(path)} is used for", *_names(path)]


def _reaped(text: str, _kernel: Kernel) -> Answer | None:
    one = oom.reaped(text)
    if one is None:
        return None
    if one.done:
        return [f"the memory of {one.comm}, pid {one.pid}, which the OOM killer killed, was freed"]
    return [
        f"the OOM killer killed {one.comm}, pid {one.pid}, but could not free its memory at once:"
        " it holds a lock of its address space"
    ]


def _none(text: str, _kernel: Kernel) -> Answer | None:
    if "Manual OOM execution" in text:  # drivers/tty/sysrq.c
        return ["somebody started the OOM killer by hand, with SysRq f: memory need not be short"]
    if "no killable processes" not in text:
        return None
    return [
        "the OOM killer found nobody whom it may kill: all that is left is exempt"
        " (oom_score_adj -1000), the kernel's, or dead already"
    ]


def _names(*paths: str | None) -> Answer:
    uids = (whose.identify(path).pod_uid for path in paths if path)
    return whose.names(next((uid for uid in uids if uid), None))


_READERS = (
    *(_chosen, _reaped, _group, _killed, _invoked, _limit_of, _reached, _usage, _stats, _none),
)

KIND = Kind(
    _read,
    marks=(
        *("oom-kill:", "oom_reaper:", "invoked oom-killer", "illed process", "ill process"),
        *(
            "as a result of limit of",
            "Memory limit reached",
            "memory.oom.group",
            ": usage ",
            "Memory cgroup stats",
        ),
        *("no killable processes", "Manual OOM execution"),
    ),
    rank=30,
)
