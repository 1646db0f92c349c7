# SPDX-License-Identifier: Apache-2.0
"""Out of memory in the words of programs other than the kernel: systemd, systemd-oomd, earlyoom,
the kubelet, containerd, Talos, slurm."""

from __future__ import annotations

import re

from tracer.decode import whose
from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line

_UNIT = re.compile(
    r"(?P<unit>[\w.@:\\-]{1,255}): (?:A process of this unit has been killed by the OOM"
    r" killer|Failed with result 'oom-kill')"
)
_OOMD = re.compile(
    r"Killed (?P<path>/\S{1,4096}) due to "
    r"(?P<why>memory (?:pressure|used)[^\n]{0,300}|swap[^\n]{0,300})"
)
_EARLY = re.compile(
    r"sending SIG(?P<signal>TERM|KILL) to process (?P<pid>\d{1,10}) (?:uid \d{1,10} )?"
    r"[\"(]?(?P<comm>[^\n\":]{1,64}?)\)?[\":]"
)
# internal/app/machined/pkg/controllers/runtime/oom.go of Talos
_TALOS = re.compile(
    r"Sending SIGKILL to cgroup \{[^\n]{0,300}?\"cgroup\": \"(?P<path>/[^\n\"]{1,4096})\""
)
_SLURM = re.compile(
    r"Detected (?P<count>\d{1,9}) oom[-_]kill event(?:s|\(s\))? in"
    r" (?P<what>[^\n]{1,200}?)\.(?:\s|\Z)"
)
_KUBELET = re.compile(
    r"(?P<whose>System|Cgroup) OOM encountered, victim process: (?P<comm>[^\n]{1,64}),"
    r" pid: (?P<pid>\d{1,10})"
)
_CONTAINERD = re.compile(
    r"TaskOOM[^\n]{0,80}?(?:container_id:|ContainerID:|id=)\\?\"?(?P<id>[0-9a-f]{64})"
)


def _read(line: Line, _kernel: Kernel) -> Answer | None:
    text = line.text
    if found := _UNIT.search(text):
        return [
            f"systemd: the kernel's OOM killer killed a process of {found['unit']}",
            "whose limit it was, the kernel's own lines say: oom-kill:",
        ]
    if found := _OOMD.search(text):
        return [
            f"systemd-oomd, not the kernel, killed what ran in {whose.in_words(found['path'])}:"
            f" {found['why']}",
        ]
    if found := _KUBELET.search(text):
        where = "the whole node was out of memory"
        if found["whose"] == "Cgroup":
            where = "a cgroup's memory limit was reached"
        return [
            f"the kubelet saw that {where}; the OOM killer killed {found['comm']}, pid"
            f" {found['pid']}"
        ]
    if found := _CONTAINERD.search(text):
        return [
            f"containerd: the OOM killer killed a process of container {found['id']}, not"
            " necessarily its first"
        ]
    if found := _TALOS.search(text):
        return [
            "Talos's own OOM controller, not the kernel, killed what ran in"
            f" {whose.in_words(found['path'].removeprefix('/sys/fs/cgroup'))}, as the node's memory"
            " was under pressure",
            *whose.facts(whose.identify(found["path"])),
        ]
    if found := _SLURM.search(text):
        return [
            f"slurm: the kernel's OOM killer killed processes of {found['what']},"
            f" {found['count']} by its count",
            "whose limit it was, the kernel's own lines say: oom-kill:",
        ]
    if found := _EARLY.search(text):
        return [
            f"earlyoom, not the kernel, sent SIG{found['signal']} to {found['comm'].strip()}, pid"
            f" {found['pid']}, because the node's memory ran out"
        ]
    return None


KIND = Kind(
    _read,
    marks=(
        "OOM killer",
        "oom-kill'",
        " due to ",
        " OOM encountered",
        "TaskOOM",
        "sending SIG",
        "Sending SIGKILL",
        "Detected ",
    ),
    rank=34,
)
