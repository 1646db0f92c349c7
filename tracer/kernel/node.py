# SPDX-License-Identifier: Apache-2.0
"""What this node is called, and whether ktrace itself runs in one of its pods.

A pod has a hostname of its own, so there `uname -n` names the pod. The cluster's name for the node
is told by whoever starts ktrace (NODE_NAME, from the downward API); else the host's own hostname
is taken where it can be seen, and otherwise nobody knows.
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

# What to say where nobody tells.
UNTOLD = "in a pod, and nobody tells the node's name: set NODE_NAME from spec.nodeName"

# The first namespaces' inodes, PROC_PID_INIT_INO and PROC_UTS_INIT_INO, include/linux/proc_ns.h.
HOST_PID, HOST_UTS = 0xEFFFFFFC, 0xEFFFFFFE
CLONE_NEWUTS = 0x04000000  # include/uapi/linux/sched.h

# What a node may be called: a DNS subdomain; a hostname may also have capitals and underscores.
NAME = re.compile(r"[\w.-]{1,253}", re.ASCII)
# Files of the kubelet's that it mounts into every container, as their place on the node's disk.
_KUBELETS_FILE = re.compile(rb"/pods/[^/ ]+/(?:etc-hosts|containers/[^/ ]+/[0-9a-f]{8})")


def name(told: str | None) -> str:
    """`told` is what the user says. Empty: in a pod, and nobody says."""
    if told:
        return told
    if not signs_of_a_pod():
        return os.uname().nodename
    return hosts_name() or ""


def signs_of_a_pod(
    proc: Path = Path("/proc/self"), environment: Mapping[str, str] = os.environ
) -> list[str]:
    """From what it follows that this process is in a pod; nothing if it is not."""
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
    """Whether pids here are those that the kernel's events have."""
    return _inode("/proc/self/ns/pid") in (HOST_PID, None)


def hosts_name() -> str | None:
    """The host's own hostname, whoever asks; None where it cannot be seen from here."""
    if _inode("/proc/self/ns/uts") == HOST_UTS:
        return os.uname().nodename
    if not sees_the_hosts_processes():
        return None
    for pid in (1, 2):  # the first is hidden on machines that are contained themselves
        if _inode(f"/proc/{pid}/ns/uts") == HOST_UTS:
            return _hostname_in(f"/proc/{pid}/ns/uts")
    return None


def _hostname_in(namespace: str) -> str | None:
    """A namespace is a thread's own affair, so one that ends at once goes there."""
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
