# SPDX-License-Identifier: Apache-2.0
"""Findings of `ktrace doctor` about things that a pod may hide: the node's name, the host's cgroups
and processes, its kernel log. Each remedy is a line of the pod's manifest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tracer.backends.privileges import has
from tracer.cli._findings import Finding
from tracer.kernel import limits, node
from tracer.model.units import counted

if TYPE_CHECKING:
    from tracer.model.names import NameSource

SYS_PTRACE = 19  # include/uapi/linux/capability.h
NAME_LINE = "env: [{name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]"


def mount(name: str, path: str) -> str:
    """The lines of a manifest that mount a path of the host at the same path."""
    return (
        f"volumeMounts: [{{name: {name}, mountPath: {path}}}]"
        f" with volumes: [{{name: {name}, hostPath: {{path: {path}}}}}]"
    )


# A directory, because a restarted runtime makes a new socket file.
SOCKET_LINES = mount("runtime", "/run/containerd") + "; cri-o: /run/crio, k3s: /run/k3s/containerd"


def source_remedy(source: NameSource) -> str:
    from tracer.identity.logs import LogDirectorySource

    if isinstance(source, LogDirectorySource):
        return mount("logs", "/var/log")
    return "not the kubelet's runtime? --cri-socket PATH chooses another"


def where(signs: list[str], told: str | None) -> Iterator[Finding]:
    """`signs` are the evidence that ktrace runs in a pod; `told` is the node's name by option."""
    if signs:
        yield Finding("ok", "pod", f"ktrace runs in a pod: {', '.join(signs)}")
    name = node.name(told)
    if not name:
        found = "a pod's hostname is not the node's, and nobody tells that: it stays unknown"
        yield Finding("note", "node", found, NAME_LINE)
    elif signs and not told:
        found = f"{name}, the host's own name; the cluster may call it otherwise"
        yield Finding("note", "node", found, NAME_LINE)
    else:
        yield Finding("ok", "node", name)


def privileges(signs: list[str], missing: Sequence[str]) -> Iterator[Finding]:
    """`missing` are the capabilities without which nothing can be traced."""
    if missing:
        remedy = capabilities(missing) if signs else "sudo ktrace …"
        yield Finding("problem", "privileges", f"without {', '.join(missing)}", remedy)
    else:
        yield Finding("ok", "privileges", "enough to load and attach BPF programs")
    if signs and not has(SYS_PTRACE):
        found = "without CAP_SYS_PTRACE: executables and namespaces of others' processes are hidden"
        yield Finding("note", "privileges", found, capabilities(["CAP_SYS_PTRACE"]))


def capabilities(names: Sequence[str]) -> str:
    """The lines of a manifest that add them."""
    added = ", ".join(name.removeprefix("CAP_") for name in names)
    return f"securityContext: {{capabilities: {{add: [{added}]}}}}"


def processes(signs: list[str]) -> Iterator[Finding]:
    if not node.sees_the_hosts_processes():
        from tracer import probes
        from tracer.identity.netns import OBJECT

        every = map(probes.get, probes.names())
        of_networks = ", ".join(probe.name for probe in every if OBJECT in probe.besides)
        found = (
            "not the host's: arguments of what ran before, --pid, and which pod a network"
            f" namespace belongs to ({of_networks}) cannot be told"
        )
        remedy = "hostPID: true in the pod's spec" if signs else "run ktrace in the host's PIDs"
        yield Finding("problem", "processes", found, remedy)
    elif signs:
        yield Finding("ok", "processes", "the host's")


def kernel_log(signs: list[str]) -> Finding:
    from tracer.kernel.kmsg import KernelLog

    try:
        KernelLog().close()
    except OSError as error:
        found = f"/dev/kmsg: {limits.reason(error)}; whose limit an OOM kill hit may stay unknown"
        remedy = mount("kmsg", "/dev/kmsg") + ", privileged: true" if signs else "run as root"
        return Finding("note", "kernel log", found, remedy)
    return Finding("ok", "kernel log", "/dev/kmsg")


def cgroups(signs: list[str]) -> Finding:
    from tracer.kernel.cgroupfs import container_cgroups
    from tracer.kernel.hierarchies import hierarchies

    in_pod = mount("cgroup", "/sys/fs/cgroup")
    mounted = hierarchies()
    if not mounted:
        found = "no cgroup filesystem is mounted that has a memory controller or is of version 2"
        remedy = in_pod if signs else "mount -t cgroup2 none /sys/fs/cgroup"
        return Finding("problem", "cgroups", found, remedy)
    described = " and ".join(f"version {h.version} at {h.mount}" for h in mounted)
    parts = [h.mount for h in mounted if not h.whole]
    if parts:
        found = f"{described}; only a part of the host's can be seen at {' and '.join(parts)}"
        remedy = in_pod if signs else "run ktrace in the host's cgroup namespace"
        return Finding("problem", "cgroups", found, remedy)
    found_groups = container_cgroups()
    pods = {c.identity.pod_uid for c in found_groups if c.identity.pod_uid}
    containers = {c.identity.container_id for c in found_groups if c.identity.container_id}
    seen = f"{counted(len(pods), 'pod')}, {counted(len(containers), 'container')}"
    found = f"{described}; {seen}"
    if signs and not pods:
        return Finding("problem", "cgroups", f"{found}, yet ktrace itself is in a pod", in_pod)
    return Finding("ok", "cgroups", found)
