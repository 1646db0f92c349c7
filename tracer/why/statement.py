# SPDX-License-Identifier: Apache-2.0
"""What each module of `tracer/why/told/` declares, and what it is asked about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tracer.model.kubernetes import NS, KubeEvent, Told
from tracer.model.names import MAX_NAME
from tracer.why.reason import Reason, Stop
from tracer.why.story import Story

# Events have whole seconds, and on a busy node one step of a kubelet takes a while.
NEAR_NS = 10 * NS
MAX_QUOTED = 300


@dataclass(frozen=True, slots=True)
class Statement:
    """Why it happened, as Kubernetes says. `words` follow "Kubernetes says" in front of the
    verdict. `seen` is what the kernel saw of the same. `settles` are the ids of reasons that need
    not be inferred any more."""

    words: str
    seen: str = ""
    settles: frozenset[str] = frozenset()
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Hearing:
    """A story, what Kubernetes says of its pod, and the stop if the container was stopped, with the
    reasons that the kernel's events show."""

    story: Story
    told: Told
    stop: Stop | None
    reasons: tuple[Reason, ...] = ()

    def events(self, *reasons: str) -> Iterator[KubeEvent]:
        """Of the container, or of the pod as a whole, that came in the time of the story."""
        container = self.story.place.container
        own = container.name if container else None
        for event in self.told.events:
            its = not event.container or own in (event.container, None)
            begun = self.told.boot_ns(event.first_ns) <= self.story.until_ns() + NEAR_NS
            if event.reason in reasons and its and begun:
                yield event

    def near(self, event: KubeEvent, boot_ns: int) -> bool:
        """Whether the event came around this moment, or came again and again meanwhile."""
        first, last = self.told.boot_ns(event.first_ns), self.told.boot_ns(event.last_ns)
        return first - NEAR_NS <= boot_ns <= last + NS + NEAR_NS

    def since_start(self, event: KubeEvent) -> bool:
        """Whether all of them came in this life of the container, as far as known."""
        init = self.story.init
        started = init.start_boot_ns if init else None
        return started is None or started - NS <= self.told.boot_ns(event.first_ns)


@dataclass(frozen=True, slots=True)
class Listener:
    """Of several statements, the one of the lowest `order` is told."""

    order: int
    hear: Callable[[Hearing], Statement | None]


def quoted(text: str) -> str:
    """Others' words, marked as such."""
    words = " ".join(text.split()).replace("“", '"').replace("”", '"')
    return f"“{words if len(words) <= MAX_QUOTED else words[:MAX_QUOTED] + '…'}”"


def named(text: str) -> str:
    """A name in front of which nobody stands up for it."""
    return text if text.isprintable() and " " not in text else quoted(text[:MAX_NAME])


def last(events: Iterable[KubeEvent]) -> KubeEvent | None:
    return max(events, key=lambda event: event.last_ns, default=None)
