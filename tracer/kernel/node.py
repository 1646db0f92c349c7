# SPDX-License-Identifier: Apache-2.0
"""The name of this node, and whether ktrace itself runs in one of its pods.

A pod has a hostname of its own, so `uname -n` in a pod names the pod. The cluster's name for the
node comes from NODE_NAME (set through the downward API), else from the host's own hostname if that
is visible. Otherwise it is unknown.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tracer.model.cgroup import parse

# The message for an unknown name.
UNTOLD = "in a pod, and nobody tells the node's name: set NODE_NAME from spec.nodeName"

# The first namespaces' inodes, PROC_PID_INIT_INO and PROC_UTS_INIT_INO, include/linux/proc_ns.h.
HOST_PID, HOST_UTS = 0xEFFFFFFC, 0xEFFFFFFE
CLONE_NEWUTS = 0x04000000  # include/uapi/linux/sched.h

# Valid node names: a DNS subdomain; a hostname may also have capitals and underscores.
NAME = re.compile(r"[\w.-]{1,253}", re.ASCII)
# Files that the kubelet mounts into every container, by their path on the node's disk.
_KUBELETS_FILE = re.compile(rb"/pods/[^/ ]+/(?:etc-hosts|containers/[^/ ]+/[0-9a-f]{8})")


def name(told: str | None) -> str:
    """The node's name. `told` is the user's. Empty if this is a pod and the name is unknown."""
    if told:
        return told
    if not signs_of_a_pod():
        return os.uname().nodename
    return hosts_name() or ""


def signs_of_a_pod(
    proc: Path = Path("/proc/self"), environment: Mapping[str, str] = os.environ
) -> list[str]:
    """The evidence that this process is in a pod; nothing if it is not."""
    signs = []
    with suppress(OSError):
        paths = [line.split(":", 2)[2] for line in (proc / "cgroup").read_text().splitlines()]
        if any(parse(path).pod_uid for path in paths):
            signs.append("its cgroup is a pod's")
    with suppress(OSError):
        mounts = [line.split(b" ") for line in (proc / "mountinfo").read_bytes().splitlines()]
        if any(len(words) > 3 and _KUBELETS_FILE.search(words[3]) for words in mounts):
            signs.append("the kubelet has mounted files into it")
    if environment.get("KUBERNETES_SERVICE_HOST"):
        signs.append("KUBERNETES_SERVICE_HOST is set")
    return signs


def sees_the_hosts_processes() -> bool:
    """Whether pids here are the same as in the kernel's events."""
    return _inode("/proc/self/ns/pid") in (HOST_PID, None)


def hosts_name() -> str | None:
    """The host's own hostname, also from inside a container; None if it is not visible."""
    if _inode("/proc/self/ns/uts") == HOST_UTS:
        return os.uname().nodename
    if not sees_the_hosts_processes():
        return None
    for pid in (1, 2):  # pid 1 is hidden if the machine itself is a container
        if _inode(f"/proc/{pid}/ns/uts") == HOST_UTS:
            return _hostname_in(f"/proc/{pid}/ns/uts")
    return None


def _hostname_in(namespace: str) -> str | None:
    """The hostname in a namespace. Namespaces belong to threads, so a short-lived thread enters
    it."""
    found: list[str] = []

    def look() -> None:
        with suppress(OSError):
            fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
            if not ctypes.CDLL(None).setns(fd, CLONE_NEWUTS):
                found.append(os.uname().nodename)
            os.close(fd)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found[0] if found else None


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
