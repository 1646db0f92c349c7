# SPDX-License-Identifier: Apache-2.0
"""Commands that the runtime executes in a running container, for `kubectl exec`, a probe or a hook.

They are told by their descent. A container's own processes descend from its first one; a command
is started by the container's supervisor (its shim), beside the first process. A comm is anybody's
choice, so whatever is concluded from it is likely and no more.
"""

from __future__ import annotations

from collections.abc import Hashable

from tracer.model.event import Process
from tracer.probes.exits import is_container_init

# By their comms, which the kernel cuts: containerd-shim-runc-v2, docker-containerd-shim.
_SUPERVISORS = ("containerd-shim", "conmon", "docker-containe")
# What stands between the supervisor and the command until that has been started.
_STARTERS = frozenset(("runc", "crun", "youki"))


def is_executed(process: Process | None) -> bool:
    """Whether the process itself is such a command."""
    return process is not None and is_container_init(process) is False and _is_started(process)


def may_be_executed(process: Process) -> bool:
    """Whether the runtime started the process itself, and it is not known to be the container's
    first: where the PID namespace is shared, one of those that are alike is the first process."""
    is_first = is_container_init(process)
    return process.container is not None and is_first is not True and _is_started(process)


def is_from_executed(process: Process | None, other: Process | None) -> bool:
    """Whether the process is such a command or descends from one. If two of a container descend
    from different starts of the runtime, one is a command's; `other` is taken to be the container's
    own. Not where the PID namespace is shared: there orphans descend from another container."""
    if process is None or other is None or is_container_init(process) is not False:
        return False
    if is_executed(process):
        return True
    if is_container_init(other) is None or is_executed(other):
        return False
    roots = _root(process), _root(other)
    return None not in roots and roots[0] != roots[1]


def command_of(process: Process) -> Hashable:
    """The same for each run of the same command."""
    return tuple(process.argv) if process.argv else process.exe or process.comm


def _is_started(process: Process) -> bool:
    return _root(process) == process.pid


def _root(process: Process) -> int | None:
    """The pid of what the supervisor started, from which the process descends; None if there is no
    supervisor."""
    line = [(process.pid, ""), *process.ancestry]
    at = next((at for at, (_, comm) in enumerate(line) if comm.startswith(_SUPERVISORS)), 0)
    if at > 1 and line[at - 1][1] in _STARTERS:
        at -= 1
    return line[at - 1][0] if at else None
