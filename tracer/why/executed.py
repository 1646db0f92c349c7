# SPDX-License-Identifier: Apache-2.0
"""Commands that the runtime executes in a running container, for `kubectl exec`, a probe or a hook.

They are recognised by descent. A container's own processes descend from its first one; the
container's supervisor (its shim) starts a command beside the first process. Any process can choose
its comm, so conclusions from it are at most likely.
"""

from __future__ import annotations

from collections.abc import Hashable

from tracer.model.event import Process
from tracer.probes.exits import is_container_init

# By their comms, which the kernel truncates: containerd-shim-runc-v2, docker-containerd-shim.
_SUPERVISORS = ("containerd-shim", "conmon", "docker-containe")
# Processes between the supervisor and the command while it is being started.
_STARTERS = frozenset(("runc", "crun", "youki"))


def is_executed(process: Process | None) -> bool:
    """Whether the process itself is such a command."""
    return process is not None and is_container_init(process) is False and _is_started(process)


def may_be_executed(process: Process) -> bool:
    """Whether the runtime started the process itself, and it is not known to be the container's
    first. In a shared PID namespace one such process is the first."""
    is_first = is_container_init(process)
    return process.container is not None and is_first is not True and _is_started(process)


def is_from_executed(process: Process | None, other: Process | None) -> bool:
    """Whether the process is such a command or descends from one, and `other` does not.

    If two processes of a container descend from different starts of the runtime, one belongs to a
    command; `other` is assumed to be the container's own. False in a shared PID namespace, where
    orphans descend from another container.
    """
    if process is None or other is None or is_container_init(process) is not False:
        return False
    roots = _root(process), _root(other)
    if is_executed(process):
        return roots[0] != roots[1]
    if is_container_init(other) is None or is_executed(other):
        return False
    return None not in roots and roots[0] != roots[1]


def command_of(process: Process) -> Hashable:
    """A key shared by all runs of the same command."""
    return tuple(process.argv) if process.argv else process.exe or process.comm


def _is_started(process: Process) -> bool:
    return _root(process) == process.pid


def _root(process: Process) -> int | None:
    """The pid of the supervisor's child from which the process descends; None without a
    supervisor."""
    line = [(process.pid, ""), *process.ancestry]
    at = next((at for at, (_, comm) in enumerate(line) if comm.startswith(_SUPERVISORS)), 0)
    if at > 1 and line[at - 1][1] in _STARTERS:
        at -= 1
    return line[at - 1][0] if at else None
