# SPDX-License-Identifier: Apache-2.0
"""Holds the roots of running containers open, so that the function in which a program crashed can
be read when its container is gone with it.

A container is looked at as soon as it is known, and again until its runtime has prepared it. Its
root is let go a while after its end: the verdict has been told by then. The kernel then takes the
container's file systems apart, which lasts tens of milliseconds: a thread waits for that.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from tracer.identity.resolver import Resolver
from tracer.kernel.cgroupfs import HIERARCHY_SHIFT, Cgroup
from tracer.kernel.hierarchies import hierarchies
from tracer.model.bounded import keep
from tracer.model.event import Place
from tracer.why.crash import MAX_ROOTS, FaultFinder

# How long a runtime may prepare a container, and how often to look meanwhile.
PREPARING_SECONDS, LOOK_SECONDS = 10.0, 0.1
# A verdict on an end has been told by then.
JUDGED_SECONDS = 5.0
# Looking takes at most this part of the time.
SHARE = 20
IDLE_SECONDS = 60.0
# Containers of which it is remembered that they were looked at.
MAX_SEEN = 4 * MAX_ROOTS
# Roots that wait to be closed. While there are as many, no more are held.
MAX_CLOSING = MAX_ROOTS


class Roots:
    """`clock` is in seconds."""

    def __init__(
        self,
        faults: FaultFinder,
        closer: Closer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._faults = faults
        self._closer = closer
        self._clock = clock
        self._changes = -1
        self._next = 0.0
        self._pending: dict[str, tuple[Cgroup, float]] = {}  # by container, with its deadline
        self._seen: dict[str, int] = {}  # by container, its outermost cgroup
        self._leaving: dict[str, float] = {}
        self._mounts: dict[int, str] | None = None

    def look(self, resolver: Resolver) -> None:
        """Called after each turn."""
        now = self._clock()
        if now < self._next or not (self._pending or self._leaving or self._is_news(resolver)):
            return
        if self._is_news(resolver):
            self._changes = resolver.changes
            self._look_for_new(resolver, now)
        for container, (cgroup, until) in list(self._pending.items()):
            held = not self._closer.full and self._faults.hold_root(container, cgroup)
            if held or now >= until:
                del self._pending[container]
        for container in [one for one, when in self._leaving.items() if when <= now]:
            del self._leaving[container]
            self._seen.pop(container, None)
            self._faults.let_go(container)
            self._changes = -1  # it may have been started again
        self._next = now + max(LOOK_SECONDS, SHARE * (self._clock() - now))

    def patience(self) -> float:
        """The seconds until it wants to look again, whatever happens."""
        if self._pending:
            return max(0.0, self._next - self._clock())
        due = min(self._leaving.values(), default=None)
        return IDLE_SECONDS if due is None else max(0.0, max(due, self._next) - self._clock())

    def _is_news(self, resolver: Resolver) -> bool:
        return resolver.changes != self._changes

    def _look_for_new(self, resolver: Resolver, now: float) -> None:
        for place in resolver.places():
            container = place.identity.container_id
            if container is None:
                continue
            if place.ended is not None:
                if self._seen.get(container) == place.cgroup:
                    self._pending.pop(container, None)
                    self._leaving.setdefault(container, now + JUDGED_SECONDS)
            elif container not in self._seen and not _is_sandbox(place):
                cgroup = self._cgroup(place)
                if cgroup is not None:
                    keep(self._seen, container, place.cgroup, MAX_SEEN)
                    keep(self._pending, container, (cgroup, now + PREPARING_SECONDS), MAX_ROOTS)

    def _cgroup(self, place: Place) -> Cgroup | None:
        if self._mounts is None:
            self._mounts = {found.number: found.mount for found in hierarchies()}
        mount = self._mounts.get(place.cgroup >> HIERARCHY_SHIFT)
        if mount is None or place.path is None:
            return None
        return Cgroup(place.cgroup, place.path, mount + place.path, place.identity)


class Closer:
    """Closes descriptors in a thread of its own, one after the other."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[int] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="roots", daemon=True)

    @property
    def full(self) -> bool:
        return self._waiting.qsize() >= MAX_CLOSING

    def close(self, fd: int) -> None:
        """Never blocks."""
        if not self._thread.is_alive():
            self._thread.start()
        self._waiting.put(fd)

    def _run(self) -> None:
        while True:
            os.close(self._waiting.get())


def _is_sandbox(place: Place) -> bool:
    return place.container is not None and place.container.is_sandbox
