# SPDX-License-Identifier: Apache-2.0
"""What only the runtimes know: that nothing runs in a pod, and why a container failed to start.

No event says so, so they are asked: once a minute, and at once when a start has failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from tracer.identity.states import StateService, StateSource
from tracer.model.bounded import keep
from tracer.model.names import Pod
from tracer.model.selection import Selection
from tracer.why.story import Story
from tracer.why.waiting import Waiting

ASK_SECONDS = 60.0
# Images are pulled for minutes, and nobody is in need of a verdict on that.
WAITING_SECONDS = 120.0
# How long a busy runtime may take to say why a start failed.
WORDS_SECONDS, WORDS_LOOK_SECONDS = 5.0, 0.3
MAX_AWAITED = 256


class Runtime:
    """`known` are the pods by uid. `clock` is in seconds."""

    def __init__(
        self,
        sources: Sequence[StateSource],
        known: Callable[[], Mapping[str, Pod]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._known = known
        self._clock = clock
        self._service = StateService(sources, lambda pod: True, ASK_SECONDS)
        self._waiting = Waiting(self._service, Selection(everything=True), WAITING_SECONDS)
        self._looked_at: object = None
        self._awaited: dict[str, float] = {}  # by container, until when its words may come

    def start(self) -> None:
        if self._service.asks_somebody:
            self._service.start()

    def stop(self) -> None:
        self._service.stop()

    def quiet(self, now_ns: int) -> list[Story]:
        """Of pods in which nothing runs, once for each answer of the runtimes."""
        latest = self._service.latest
        if latest is None or latest is self._looked_at:
            return []
        self._looked_at = latest
        return self._waiting.stories(self._known(), now_ns)

    def message(self, story: Story) -> str | None:
        """What the runtime says of the container's end, as far as it was asked."""
        container = story.place.identity.container_id
        return self._waiting.message(container) if container else None

    def awaits_words(self, story: Story) -> bool:
        """Whether it has still to say why this start failed. It is asked from the first call on."""
        container = story.place.identity.container_id
        if container is None or not self._service.asks_somebody:
            return False
        now = self._clock()
        until = self._awaited.get(container)
        if until is None:
            until = now + WORDS_SECONDS
            keep(self._awaited, container, until, MAX_AWAITED)
        awaits = now < until and not self._waiting.is_ended(container)
        if not awaits:
            self._awaited[container] = now
        self._service.hurry = any(now < other for other in self._awaited.values())
        return awaits
