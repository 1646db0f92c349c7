# SPDX-License-Identifier: Apache-2.0
"""Where the other side of an event stands, seen from the side it happened to."""

from __future__ import annotations

from functools import lru_cache

from tracer.event import Process

# Programs that start, stop and supervise containers. Matched by the executable's own name, which a
# process cannot change as it can its comm.
_RUNTIMES = {
    "containerd",
    "conmon",
    "conmonrs",
    "crio",
    "crun",
    "cri-dockerd",
    "docker-containerd-shim",
    "dockerd",
    "kata-runtime",
    "runc",
    "runsc",
    "youki",
}
# They copy themselves into memory to be safe from the container (CVE-2019-5736), under these names.
_RUNTIMES_IN_MEMORY = ("/memfd:runc_cloned:", "/memfd:crun_cloned:")
# Where packages, and the distributions that Kubernetes comes in, put a node's programs: the file
# hierarchy standard, stores of their own, and the places of k3s and RKE2, k0s, Google's nodes and
# Bottlerocket.
_PACKAGED = (
    *("/usr/", "/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libx32/", "/opt/"),
    *("/snap/", "/nix/store/", "/gnu/store/", "/home/kubernetes/bin/"),
    *("/x86_64-bottlerocket-linux-gnu/", "/aarch64-bottlerocket-linux-gnu/"),
    *(
        f"/var/lib/{name}/"
        for name in ("containerd", "containers", "docker", "flatpak", "k0s", "kubelet", "rancher")
    ),
)
_WRITABLE_BY_ALL = ("/tmp/", "/var/tmp/", "/dev/shm/", "/memfd:")


def origin_of(sender: Process, target: Process) -> str | None:
    """`same-container`, `same-pod`, `other-pod`, `runtime` or `host`; None where a side is unknown.
    A container that is in no pod counts as a pod of its own."""
    here, there = sender.place, target.place
    if here is None or here.path is None or there is None or there.path is None:
        return None
    own, other = here.identity, there.identity
    in_memory = bool(sender.exe and sender.exe.startswith("/memfd:"))
    if own.container_id is None and is_runtime(sender.exe) and not (in_memory and sender.uid):
        return "runtime"
    if own.container_id and own.container_id == other.container_id:
        return "same-container"
    if own.pod_uid and own.pod_uid == other.pod_uid:
        return "same-pod"
    if own.pod_uid or own.container_id:
        return "other-pod"
    return "host" if sender.exe or sender.kernel_thread else None


@lru_cache(maxsize=4096)
def is_runtime(exe: str | None) -> bool:
    """Whether a process outside of every container runs a container runtime."""
    if exe is None or exe.startswith("…"):
        return False
    if exe.startswith(_RUNTIMES_IN_MEMORY):
        return True
    name = exe.rpartition("/")[2]
    known = name in _RUNTIMES or name.startswith("containerd-shim")
    return known and not suspicious_exe(exe)


def suspicious(process: Process) -> bool:
    """Runs a program that hides: see `suspicious_exe`; and in a container, or for anybody but root,
    nothing is excused: a memfd's name is its maker's choice."""
    in_memory = bool(process.exe and process.exe.startswith("/memfd:"))
    return suspicious_exe(process.exe) or (in_memory and bool(process.container or process.uid))


def suspicious_exe(exe: str | None) -> bool:
    """Deleted, in memory only, or where everybody may write."""
    if exe is None or exe.startswith(_RUNTIMES_IN_MEMORY):
        return False
    return exe.endswith(" (deleted)") or exe.startswith(_WRITABLE_BY_ALL)


def outside_of_packages(exe: str | None) -> bool:
    """Whether a node's program lies where no package puts one. Not so of one whose path is not
    known up to its root. Of an image this would say nothing: it has its program where it likes."""
    return exe is not None and exe.startswith("/") and not exe.startswith(_PACKAGED)
