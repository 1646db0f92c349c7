# SPDX-License-Identifier: Apache-2.0
"""The present pods and containers of this node: for `ktrace pods`, for completion, and to check
that selected pods and processes exist."""

from __future__ import annotations

import fnmatch
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from tracer.identity.logs import LogDirectorySource
from tracer.identity.names import Arrivals, NameService, default_sources
from tracer.kernel import limits
from tracer.kernel.cgroupfs import Cgroup, container_cgroups
from tracer.model.errors import NoSuchPod, NoSuchProcess, UsageError
from tracer.model.names import Container, Names, NameSource, NameSourceError, Pod
from tracer.model.selection import pod_matches
from tracer.model.units import counted

# Seconds that a user at a prompt may have to wait for a silent runtime.
PATIENCE = 2.5


@dataclass(frozen=True, slots=True)
class Entry:
    """One container. Unknown fields are None; `netns` is the namespace's inode number."""

    namespace: str | None
    pod: str | None
    pod_uid: str | None
    container: str | None
    container_id: str | None
    runtime: str | None
    init_pid: int | None
    qos: str | None
    cgroup: str
    netns: int | None


def name_sources(socket: str | None) -> list[NameSource]:
    try:
        return list(default_sources(socket))
    except NameSourceError as error:
        raise UsageError(str(error)) from error


def current_names(socket: str | None, say: Callable[[str], None] = lambda words: None) -> Names:
    """The names from one round of all sources. `say` is told which sources gave none, and why."""
    arrivals = Arrivals()
    service = NameService(name_sources(socket), arrivals.put)
    service.start()
    names = first_names(service, arrivals)
    late = dict.fromkeys(service.awaited, f"has not answered for {PATIENCE:g} s")
    for source, failure in (service.failures | late).items():
        say(f"names may be missing: {source}: {failure}")
    service.stop()
    return names


def first_names(service: NameService, arrivals: Arrivals) -> Names:
    """The names that the sources know within `PATIENCE`. They also stay in `arrivals` for the next
    reader."""
    service.wait(service.refresh(), PATIENCE)
    names = Names()
    while not arrivals.empty():
        names = arrivals.get()
    arrivals.put(names)
    return names


def inventory(names: Names) -> list[Entry]:
    """Every container that has a cgroup, without the sandboxes that are known as such."""
    entries: dict[str, Entry] = {}
    for cgroup in container_cgroups():
        container_id = cgroup.identity.container_id
        if container_id is None or container_id in entries:
            continue  # the first hierarchy has it; nested cgroups follow their container
        entry = _entry(cgroup, container_id, names)
        if entry is not None:
            entries[container_id] = entry
    return sorted(
        entries.values(),
        key=lambda e: (e.namespace or "~", e.pod or e.pod_uid or "~", e.container or "~"),
    )


def check_globs(globs: tuple[str, ...], names: Names, failures: Mapping[str, str]) -> list[str]:
    """Raises `NoSuchPod` with the nearest names if a glob matches no pod of this node. While a
    source is silent and pods have no name, that is uncertain; then returns the doubts instead. A
    silent source alone is also a doubt, because labels may be missing. `failures` tell by source
    why it is silent."""
    import difflib  # slow

    silent = [f"{source}: {failure}" for source, failure in failures.items()]
    pods = dict(names.pods)
    living: set[str] = set()
    for cgroup in container_cgroups():
        container = names.containers.get(cgroup.identity.container_id or "")
        uid = cgroup.identity.pod_uid or (container and container.pod_uid)
        if uid:
            pods.setdefault(uid, Pod(uid))
            if uid not in living and cgroup.own_processes():
                living.add(uid)
    nameless = sum(pods[uid].name is None for uid in living)
    doubts = [f"names and labels may be missing: {'; '.join(silent)}"] if silent else []
    for glob in globs:
        if any(pod_matches(pod, glob) for pod in pods.values()):
            continue
        plain = plain_container(glob, names)
        if plain:
            raise NoSuchPod(
                f"no pod {glob!r} on this node, but a container of that name in no pod",
                f"select that: -c {shlex.quote(plain)}",
            )
        if silent and nameless:
            doubts.append(
                f"{glob!r} may be one of the pods here of which only the uid is known"
                f" ({nameless} are); going on with what log directories tell"
            )
            continue
        known = sorted(pods[uid].title for uid in living)
        bare = {name.rpartition("/")[2]: name for name in known}
        near = [bare[n] for n in difflib.get_close_matches(glob.rpartition("/")[2], bare, 3, 0.4)]
        are = "is" if len(known) == 1 else "are"
        hint = f"{counted(len(known), 'pod')} {are} on this node"
        if near:
            hint = f"the nearest: {', '.join(near)}"
        remedy = "ktrace pods lists them; --wait traces a pod that is still to come"
        if glob.isascii() and glob.isdecimal() and _process_of(int(glob)):
            remedy = f"a process is selected by --pid {glob}; ktrace pods lists the pods"
        raise NoSuchPod("; ".join([f"no pod {glob!r} on this node", hint, *doubts]), remedy)
    return doubts


def plain_container(glob: str, names: Names) -> str | None:
    """The name of a running container that is in no pod."""
    for cgroup in container_cgroups():
        container = names.containers.get(cgroup.identity.container_id or "")
        if container is None or cgroup.identity.pod_uid or container.pod_uid:
            continue
        if container.name and fnmatch.fnmatchcase(container.name, glob):
            return container.name
    return None


def check_pids(pids: Iterable[int]) -> None:
    """Raises `NoSuchProcess` if one of them is not running, or is only a thread: events concern
    whole processes."""
    for pid in sorted(pids):
        process = _process_of(pid)
        if process is None:
            raise NoSuchProcess(
                f"no process {pid} is running", "--wait traces one that is still to come"
            )
        if process != pid:
            raise NoSuchProcess(
                f"{pid} is a thread of process {process}", f"select that: --pid {process}"
            )


def check_labels(sources: Sequence[NameSource]) -> None:
    """Raises `UsageError` if no source knows labels: nothing would ever match."""
    if all(isinstance(source, LogDirectorySource) for source in sources):
        raise UsageError(
            "labels are known to the container runtime alone, and none of its usual sockets exists",
            "--cri-socket PATH names it; or select by --pod and --namespace",
        )


def _process_of(thread: int) -> int | None:
    """Tgid in /proc/PID/status, proc(5)."""
    try:
        lines = Path(f"/proc/{thread}/status").read_bytes().splitlines()
    except OSError as error:
        if limits.behind(error):  # it may run all the same
            raise
        return None
    return next((int(line[5:]) for line in lines if line.startswith(b"Tgid:")), None)


def _entry(cgroup: Cgroup, container_id: str, names: Names) -> Entry | None:
    pids = cgroup.processes()
    identity = cgroup.identity
    container = names.containers.get(container_id) or Container(container_id)
    pod = names.pods.get(identity.pod_uid or "")
    init = container.init_pid or min(pids, key=_started, default=None)
    if identity.pod_uid and container.name is None and container_id in names.containers:
        return None  # the runtime knows it without a name: the sandbox
    return Entry(
        namespace=pod.namespace if pod else None,
        pod=pod.name if pod else None,
        pod_uid=identity.pod_uid,
        container=container.name,
        container_id=container_id,
        runtime=container.runtime or identity.runtime,
        init_pid=init,
        qos=identity.qos,
        cgroup=cgroup.path,
        netns=_netns(init),
    )


def _started(pid: int) -> tuple[float, int]:
    """The init of a container is its oldest process."""
    import psutil

    try:
        return psutil.Process(pid).create_time(), pid
    except psutil.Error:
        return inf, pid


def _netns(pid: int | None) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino if pid else None
    except OSError:
        return None
