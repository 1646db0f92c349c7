# SPDX-License-Identifier: Apache-2.0
"""Where the other side of an event stands, seen from the side it happened to."""

from __future__ import annotations

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
_WRITABLE_BY_ALL = ("/tmp/", "/var/tmp/", "/dev/shm/", "/memfd:")


def origin_of(sender: Process, target: Process) -> str | None:
    """`same-container`, `same-pod`, `other-pod`, `runtime` or `host`; None where a side is unknown.
    A container that is in no pod counts as a pod of its own."""
    if sender.place is None or sender.place.path is None or target.place is None:
        return None
    own, other = sender.place.identity, target.place.identity
    if own.container_id is None and is_runtime(sender.exe):
        return "runtime"
    if own.container_id and own.container_id == other.container_id:
        return "same-container"
    if own.pod_uid and own.pod_uid == other.pod_uid:
        return "same-pod"
    if own.pod_uid or own.container_id:
        return "other-pod"
    return "host" if sender.exe or sender.kernel_thread else None


def is_runtime(exe: str | None) -> bool:
    if exe is None or suspicious_exe(exe):
        return False
    name = exe.rpartition("/")[2]
    return name in _RUNTIMES or name.startswith("containerd-shim")


def suspicious(process: Process) -> bool:
    """Runs a program that hides: see `suspicious_exe`; and in a container nothing is excused."""
    exe = process.exe
    return suspicious_exe(exe) or bool(process.container and exe and exe.startswith("/memfd:"))


def suspicious_exe(exe: str | None) -> bool:
    """Deleted, in memory only, or where everybody may write. runc copies itself into memory to
    protect itself from the container (CVE-2019-5736), under this name."""
    if exe is None or exe.startswith("/memfd:runc_cloned:"):
        return False
    return exe.endswith(" (deleted)") or exe.startswith(_WRITABLE_BY_ALL)
