# SPDX-License-Identifier: Apache-2.0
"""The position of an event's sender relative to its target: same container, same pod, host, …"""

from __future__ import annotations

from functools import lru_cache

from tracer.model.event import Place, Process

# Programs that start, stop and supervise containers. Matched by the executable's own name, which a
# process cannot change as it can its comm.
_RUNTIMES = {
    "buildah",
    "buildkit-runc",
    "buildkitd",
    "containerd",
    "conmon",
    "conmonrs",
    "crio",
    "crun",
    "cri-dockerd",
    "docker-containerd",
    "docker-containerd-shim",
    "docker-runc",
    "dockerd",
    "kata-runtime",
    "nerdctl",
    "podman",
    "runc",
    "runsc",
    "sysbox-runc",
    "youki",
}
# Runtimes execute a sealed copy of themselves for protection from the container (CVE-2019-5736): in
# memory under these names, or as a mount in no directory, whose path is the bare file name.
_RUNTIMES_IN_MEMORY = ("/memfd:runc_cloned:", "/memfd:crun_cloned:")
_RUNTIMES_SEALED = ("/runc", "/crun", "/docker-runc", "/buildkit-runc", "/sysbox-runc")
# The kubelet, and programs that it is a part of: MicroK8s, old Kubernetes, MicroShift, KubeEdge.
_KUBELETS = {"kubelet", "kubelite", "hyperkube", "microshift", "edgecore"}
# k3s is the kubelet, containerd and more in one file; the comm tells which one runs.
_SEVERAL_IN_ONE = {"k3s"}
# Directories in which packages and Kubernetes distributions install a node's programs: the file
# hierarchy standard, package stores, and the directories of k3s and RKE2, k0s, Google's nodes and
# Bottlerocket.
_PACKAGED = (
    *("/usr/", "/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libx32/", "/opt/"),
    *("/snap/", "/nix/store/", "/gnu/store/", "/home/kubernetes/bin/"),
    *("/x86_64-bottlerocket-linux-gnu/", "/aarch64-bottlerocket-linux-gnu/"),
    *(
        f"/var/lib/{name}/"
        for name in ("containerd", "containers", "docker", "flatpak", "k0s", "kubelet")
    ),
    *("/var/lib/minikube/", "/var/lib/rancher/", "/var/snap/"),
)
_WRITABLE_BY_ALL = ("/tmp/", "/var/tmp/", "/dev/shm/", "/memfd:")


def origin_of(sender: Process, target: Process) -> str | None:
    """`same-container`, `same-pod`, `other-pod`, `runtime`, `kubelet` or `host`; None if a side is
    unknown. A container outside of every pod counts as a pod of its own."""
    here, there = sender.place, target.place
    if here is None or here.path is None or there is None or there.path is None:
        return None
    own, other = here.identity, there.identity
    if here is there and own.container_id:  # the usual case of signals first
        return "same-container"
    of_node = own.container_id is None or _is_node_of(here, there)
    if of_node and _runs_containers(sender):
        return "runtime"
    if of_node and own.pod_uid is None and is_kubelet(sender):
        return "kubelet"
    if own.container_id and own.container_id == other.container_id:
        return "same-container"
    if own.pod_uid and own.pod_uid == other.pod_uid:
        return "same-pod"
    if own.pod_uid or own.container_id:
        return "other-pod"
    if sender.pid_level:  # also a container, but its cgroup does not say which
        return "other-pod" if not target.pid_level or here.cgroup != there.cgroup else None
    return "host" if sender.exe or sender.kernel_thread else None


def _is_node_of(here: Place, there: Place) -> bool:
    """Whether a container is the node that a pod runs on: in kind, k3d and minikube, the pods'
    cgroups lie below that of the node."""
    node = here.identity.container_id
    if node is None or here.identity.pod_uid or not there.identity.pod_uid:
        return False
    head, found, _ = (here.path or "").partition(node)
    return bool(found) and (there.path or "").startswith(head + node)


def _runs_containers(process: Process) -> bool:
    sealed = _is_sealed(process.exe) or (process.exe or "").startswith("/memfd:")
    if sealed and process.uid:
        return False
    return is_runtime(process.exe) or (_is_several(process.exe) and process.comm == "containerd")


def is_kubelet(process: Process) -> bool:
    """Whether a process outside of every container is the kubelet: it runs as root, and its
    executable has the name, in any directory. A deleted file counts too, because an update replaces
    the file of a running kubelet."""
    exe = process.exe
    if exe is None or process.uid or exe.startswith(("…", "/memfd:")):
        return False
    return _name(exe) in _KUBELETS or (_is_several(exe) and process.comm != "containerd")


def _is_several(exe: str | None) -> bool:
    return exe is not None and exe.startswith("/") and _name(exe) in _SEVERAL_IN_ONE


def _name(exe: str) -> str:
    return exe.removesuffix(" (deleted)").rpartition("/")[2]


def _is_sealed(exe: str | None) -> bool:
    return exe is not None and exe.removesuffix(" (deleted)") in _RUNTIMES_SEALED


@lru_cache(maxsize=4096)
def is_runtime(exe: str | None) -> bool:
    """Whether a process outside of every container runs a container runtime."""
    if exe is None or exe.startswith("…"):
        return False
    if exe.startswith(_RUNTIMES_IN_MEMORY) or _is_sealed(exe):
        return True
    name = exe.rpartition("/")[2]
    known = name in _RUNTIMES or name.startswith("containerd-shim")
    return known and not suspicious_exe(exe)


def suspicious(process: Process) -> bool:
    """Whether the process runs a program that hides, see `suspicious_exe`. In a container, or for a
    user other than root, every memfd counts, because its maker chooses its name."""
    in_memory = bool(process.exe and process.exe.startswith("/memfd:"))
    return suspicious_exe(process.exe) or (in_memory and bool(process.container or process.uid))


def suspicious_exe(exe: str | None) -> bool:
    """Whether the file is deleted, in memory only, or in a directory that is writable by all."""
    if exe is None or exe.startswith(_RUNTIMES_IN_MEMORY) or _is_sealed(exe):
        return False
    return exe.endswith(" (deleted)") or exe.startswith(_WRITABLE_BY_ALL)


def outside_of_packages(exe: str | None) -> bool:
    """Whether a node's program lies outside of the directories of packages. False if the path's
    root end is unknown. Do not ask this of a program in an image, which may lie anywhere."""
    if exe is None or _is_sealed(exe):
        return False
    return exe.startswith("/") and not exe.startswith(_PACKAGED)
