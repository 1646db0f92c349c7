# SPDX-License-Identifier: Apache-2.0
"""A cgroup's path, or a line of /proc/PID/cgroup (cgroups(7))."""

from __future__ import annotations

import re

from tracer.decode import whose
from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line

_PROC = re.compile(r"\d{1,10}:[^/:\s]{0,256}:(?=/)")
_ROOTS = re.compile(
    r"(?:/host)?(?:/sys/fs)?/cgroup(?:/(?:unified|systemd|[a-z_]{2,12}(?:,[a-z_]{2,12}){0,3})(?=/))?"
    r"(?=/|\Z)"
)
_PLACES = re.compile(
    r"/(?:run|var|tmp|etc|usr|bin|sbin|lib|lib64|opt|home|root|dev|proc|sys|boot|mnt|media|srv)(?:/|\Z)"
)
_MONITOR = re.compile(r"(?:^|[/-])conmon-[0-9a-f]{64}(?:\.scope)?(?=/|\Z)")
_RUNC = re.compile(r"[\w.@-]{1,255}\.slice:[\w.-]{1,64}:[\w.-]{1,128}")


def _read(line: Line, _kernel: Kernel) -> Answer | None:
    path = line.text
    behind = _PROC.match(path)
    if behind:
        path = path[behind.end() :]
    elif path.startswith("cgroup:/"):
        path = path[len("cgroup:") :]
    mounted = _ROOTS.match(path)
    if mounted and mounted.end() < len(path):
        path = path[mounted.end() :]
    if not (path.startswith(("/", "..")) or _RUNC.fullmatch(path) or "slice/" in path[:255]):
        return None
    if re.search(r"[\n\0]|\s(?!\(deleted\)\Z)(?=[^/]*\s)", path) or ": " in path:
        return None
    if _PLACES.match(path) and not behind and not mounted:
        return None
    return _explain(path)


def _explain(path: str) -> Answer:
    identity = whose.identify(path)
    if identity.container_id is None and identity.pod_uid is None:
        return _nobody(whose.trimmed(path))
    if _MONITOR.search(path):
        head = "the cgroup of the monitor (conmon) of a container, which watches it from outside"
        return [head, *whose.facts(identity)]
    what = "container" if identity.container_id else "pod"
    of = " of a pod" if identity.container_id and identity.pod_uid else ""
    return [f"the cgroup of a {what}{of}", *whose.facts(identity)]


def _nobody(path: str) -> Answer:
    if not path.strip("/."):
        return [
            "the root of a cgroup namespace, or of the machine: a process in a container sees its"
            " own cgroup so",
            "which pod or container it is, only the node's /proc/PID/cgroup tells",
        ]
    together = whose.in_words(path)
    if together.startswith("all "):
        return [f"the cgroup of {together}"]
    lines = ["a cgroup of no pod and no container that ktrace knows the form of"]
    for pattern, words in _OTHERS:
        if pattern.search(path):
            return [*lines, f"  {words}"]
    return lines


_OTHERS = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"(?:^|/)lxc(?:\.payload|\.monitor)?[./]", "a system container of LXC, LXD or Incus"),
        (r"(?:^|/)nomad(?:\.slice)?(?:/|$)", "a task of Nomad"),
        (r"(?:^|/)(?:qemu\.slice|machine-qemu)", "a virtual machine"),
        (r"(?:^|/)machine(?:\.slice)?/", "a virtual machine or container of systemd-machined"),
        (r"(?:^|/)(?:user\.slice|user@\d)", "of a user's session"),
        (r"\.service(?:$|/)", "of a service of systemd"),
        (r"\.(?:scope|slice)(?:$|/)", "made by systemd"),
    )
)

KIND = Kind(_read, marks=("/", ".slice:"), rank=80)
