# SPDX-License-Identifier: Apache-2.0
"""Leaves a container that shows nothing of the host, for the namespaces of whoever started it.

`kubectl debug node/NAME --profile=sysadmin` makes such a container: it may do everything, sees the
host's processes, and has none of the mounts in which cgroups and names are. The runtime's process
above it has them. Programs of the container are not in that mount namespace, so only a bundle can
leave: it starts itself again by a descriptor of its own directory, which stays open.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

CLONE_NEWNS, CLONE_NEWCGROUP = 0x00020000, 0x02000000  # include/uapi/linux/sched.h
# A bundle's loader, below its root (deploy/bundle/launcher.c).
LOADER = "lib/ktrace"
MAX_ANCESTORS = 64


def join_if_needed() -> None:
    """Returns if nothing is lacking here, or nothing can be done about it."""
    again = None
    with suppress(OSError):
        loader = os.readlink("/proc/self/exe")
        if loader.endswith(f"/{LOADER}") and _shows_nothing_of_the_host():
            starter = _starter()
            if starter:
                again = _joined(starter, loader.removesuffix(LOADER))
    if again:
        os.execv(again[0], again)


def _shows_nothing_of_the_host() -> bool:
    from tracer.kernel import node

    if not node.signs_of_a_pod():
        return False
    from tracer.identity.cri import DEFAULT_SOCKETS
    from tracer.kernel.hierarchies import hierarchies

    named = any(map(os.path.exists, (*DEFAULT_SOCKETS, "/var/log/pods")))
    return not named or not any(one.whole for one in hierarchies())


def _starter() -> int | None:
    """The nearest ancestor in another mount namespace: the runtime's, on the host."""
    own, pid = _namespace("self"), os.getppid()
    for _ in range(MAX_ANCESTORS):
        if not pid:
            break
        if _namespace(pid) != own:
            return pid
        with open(f"/proc/{pid}/stat", "rb") as file:
            pid = int(file.read().rpartition(b")")[2].split()[1])
    return None


def _namespace(pid: int | str) -> tuple[int, int]:
    status = os.stat(f"/proc/{pid}/ns/mnt")
    return status.st_dev, status.st_ino


def _joined(starter: int, root: str) -> list[bytes]:
    """Joins its namespaces. Returns the command line by which this program is found there."""
    words = Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1]
    own = os.open(root, os.O_PATH | os.O_DIRECTORY)
    setns = ctypes.CDLL(None, use_errno=True).setns
    for name, kind in (("cgroup", CLONE_NEWCGROUP), ("mnt", CLONE_NEWNS)):
        with open(f"/proc/{starter}/ns/{name}", "rb") as namespace:
            if setns(namespace.fileno(), kind):
                raise OSError(ctypes.get_errno(), "setns")
    os.set_inheritable(own, True)
    # by its number, so that also children find the files
    here, there = os.fsencode(root), os.fsencode(f"/proc/{os.getpid()}/fd/{own}/")
    ours = words.index(b"-m")  # what is behind that is the user's
    return [word.replace(here, there, 1) if n < ours else word for n, word in enumerate(words)]
