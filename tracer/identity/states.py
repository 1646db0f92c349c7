# SPDX-License-Identifier: Apache-2.0
"""States of pods in their runtime: no sandbox, no container, or none that runs. No event reports
something that does not happen, so the runtimes are asked.

They are asked in the background, as for names. Only the kubelet and the API server know why a
runtime was not told to make a container.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tracer.kernel.cgroupfs import container_cgroups
from tracer.kernel.hierarchies import hierarchies
from tracer.model.names import NameSourceError, Pod

# How often the runtimes are asked; `hurry` shortens it when something has just ended.
EVERY_SECONDS, HURRY_SECONDS = 2.0, 0.2
# Containers of one pod. It may have restarted for years; kubelets keep the last few.
MAX_CONTAINERS = 64
MAX_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class ContainerState:
    """`state` is `created`, `running`, `exited` or `unknown`. `exit_code`, `reason` and `message`
    are the runtime's account of the end. Times are nanoseconds since 1970, 0 if unknown."""

    id: str
    name: str
    state: str
    created_ns: int = 0
    ended_ns: int = 0
    exit_code: int | None = None
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class PodState:
    """`ready_ns` is when its sandbox was made, None if none is ready. The oldest container comes
    first. `known` says whether the runtime has, or had, a sandbox of the pod at all. `waited_ns` is
    how long the pod has been in this state, if that was observed."""

    pod: Pod
    ready_ns: int | None = None
    containers: tuple[ContainerState, ...] = ()
    known: bool = True
    waited_ns: int = 0

    def newest(self) -> list[ContainerState]:
        """The newest instance of each container."""
        return list({container.name: container for container in self.containers}.values())

    @property
    def waits_for(self) -> list[str]:
        """The ids of containers that were made, but not started."""
        return [container.id for container in self.newest() if container.state == "created"]

    @property
    def running(self) -> bool:
        return any(container.state == "running" for container in self.containers)


@dataclass(frozen=True, slots=True)
class States:
    """The states by uid, as known at `asked` (time.monotonic). `empty` are pods that have a cgroup
    but no process in it. `silent` says why a runtime did not answer."""

    asked: float = 0.0
    pods: dict[str, PodState] = field(default_factory=dict)
    empty: frozenset[str] = frozenset()
    silent: str | None = None


class StateSource(Protocol):
    def states(self, wanted: Callable[[Pod], bool]) -> list[PodState]:
        """The states of the wanted pods. Raises NameSourceError if the source cannot answer."""


class StateService:
    """Keeps `latest` up to date, which is made anew `every` so many seconds. `wanted` is called in
    the service's own thread."""

    def __init__(
        self,
        sources: Sequence[StateSource],
        wanted: Callable[[Pod], bool],
        every: float = EVERY_SECONDS,
    ) -> None:
        self.latest: States | None = None
        self._sources = sources
        self._wanted = wanted
        self._every = every
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="states", daemon=True)

    @property
    def asks_somebody(self) -> bool:
        return bool(self._sources)

    @property
    def hurry(self) -> bool:
        """Whether the runtimes are asked as often as is decent, because something has just
        ended."""
        return self._hurry.is_set()

    @hurry.setter
    def hurry(self, wanted: bool) -> None:
        if wanted:
            self._hurry.set()
        else:
            self._hurry.clear()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Does not wait for a source that hangs."""
        self._stopping.set()
        self._hurry.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.latest = self._ask()
            asked = time.monotonic()
            if not self._stopping.wait(HURRY_SECONDS):
                self._hurry.wait(max(0.0, asked + self._every - time.monotonic()))

    def _ask(self) -> States:
        asked, pods, silent = time.monotonic(), {}, None
        for source in self._sources:
            try:
                found = source.states(self._wanted)
            except NameSourceError as error:
                silent = str(error)
            else:
                pods.update({state.pod.uid: state for state in found})
        return States(asked, pods, _empty_pods(), silent)


def _empty_pods() -> frozenset[str]:
    """Uids of pods that have a cgroup but no process. A kubelet makes a pod's cgroup first and
    removes it last. With mixed hierarchies it leaves those of dead pods in the second, so only the
    first one counts."""
    mounts = [hierarchy.mount for hierarchy in hierarchies()]
    present: set[str] = set()
    alive: set[str] = set()
    for cgroup in container_cgroups():
        uid = cgroup.identity.pod_uid
        if uid is None:
            continue
        if cgroup.directory.startswith(mounts[0] + "/"):
            present.add(uid)
        if uid not in alive and cgroup.own_processes():
            alive.add(uid)
    return frozenset(present - alive)


def one_line(text: str) -> str:
    """Another program's text as one bounded line."""
    words = " ".join(text.split())
    return words if len(words) <= MAX_MESSAGE else words[: MAX_MESSAGE - 1] + "…"
