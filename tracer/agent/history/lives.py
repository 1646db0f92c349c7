# SPDX-License-Identifier: Apache-2.0
"""Notes the lives of containers for the history: when each was first seen, when its names came, and
how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tracer.agent.item import Life, life_of
from tracer.identity.resolver import Resolver
from tracer.model.bounded import keep
from tracer.model.event import Clock, Event, Place
from tracer.probes.exits import ExitBody

NS = 1_000_000_000
LOOK_NS = NS // 2
# What runs is noted again, for a recording that begins without it.
AGAIN_NS = 3600 * NS
MAX_NOTED = 4096
# The program of sandboxes, if the runtime does not tell which containers those are.
PAUSE = "pause"


class Lives:
    """`note` gets each life as far as it is known. `began_ns` is when tracing began: what was there
    by then is older than anybody has seen. `untold` says that a later look will note something."""

    def __init__(self, clock: Clock, note: Callable[[Life], None]) -> None:
        self.began_ns = 0
        self._clock = clock
        self._note = note
        self._noted: dict[int, tuple[int, bool]] = {}  # by cgroup: its version, and if it ended
        self.untold = True
        self._changes = -1
        self._next = self._next_again = 0

    def life(self, place: Place) -> Life:
        life = life_of(place, self._clock)
        seen = place.began is not None and place.began > self.began_ns
        return life if seen else replace(life, began_ns=None)

    def ended(self, event: Event[ExitBody]) -> None:
        """An `exit` that ends a container, unless that is a pod's sandbox."""
        container = event.place.container if event.place else None
        if event.place is None or (container is not None and container.is_sandbox):
            return
        named = container is not None and container.name is not None
        if named or event.about is None or event.about.comm != PAUSE:
            self._note(self.with_end(event))

    def with_end(self, event: Event[ExitBody]) -> Life:
        """The life of the container that an `exit` ended. It began with its first process."""
        assert event.place is not None
        signal = event.body["signal"]
        number = signal["number"] if signal else None
        started = event.about.start_boot_ns if event.about else None
        life = self.life(event.place)
        return replace(
            life,
            began_ns=life.began_ns if started is None else self._clock.utc_ns(started),
            ended_ns=self._clock.utc_ns(event.boot_ns),
            exit_code=event.body["exit_code"] if number is None else 128 + number,
            signal=number,
        )

    def look(self, now: int, resolver: Resolver) -> None:
        """Notes what has changed since the last look. A container without a name may still turn out
        to be a sandbox."""
        again = now >= self._next_again
        self.untold = resolver.changes != self._changes
        if now < self._next or not (self.untold or again):
            return
        self.untold = False
        self._changes, self._next = resolver.changes, now + LOOK_NS
        if again:
            self._next_again = now + AGAIN_NS
        for place in resolver.places():
            if place.container is None or place.container.name is None:
                continue
            mark = place.version, place.ended is not None
            before = self._noted.get(place.cgroup)
            if before != mark or (again and place.ended is None):
                keep(self._noted, place.cgroup, mark, MAX_NOTED)
                self._note(self.life(place))
