# SPDX-License-Identifier: Apache-2.0
"""What publishers get. An item never changes, so it may be read in any thread: names that come
later are not in it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import orjson

from tracer.model.bounded import size_of
from tracer.model.event import Clock, Place
from tracer.model.verdict import VerdictBody

ItemKind = Literal["verdict", "event", "lost", "health"]


class Severity(IntEnum):
    """As OpenTelemetry numbers them. An event that must stand out is a warning."""

    INFO = 9
    WARN = 13


@dataclass(frozen=True, slots=True)
class Life:
    """A container from its start to its end, or a pod as a whole (`container_id` is None). Times
    are nanoseconds since 1970. What is not known is None. A container that a signal ended has an
    `exit_code` too, as runtimes tell it: 128 and the signal."""

    pod_uid: str | None = None
    namespace: str | None = None
    pod: str | None = None
    container: str | None = None
    container_id: str | None = None
    runtime: str | None = None
    began_ns: int | None = None
    ended_ns: int | None = None
    exit_code: int | None = None
    signal: int | None = None

    @property
    def title(self) -> str:
        """`namespace/pod`, or the known part of it, else the container's name or id."""
        if self.pod is None:
            return self.pod_uid or self.container or self.container_id or ""
        return f"{self.namespace}/{self.pod}" if self.namespace else self.pod


@dataclass(frozen=True, slots=True)
class Item:
    """`json` is one line of docs/events.md: of the event, the verdict or the loss; for `health` it
    is `Health.json`. `time_ns` is since 1970. `sentence` is the same in words. Names in it are
    hostile: a publisher escapes them for where they go. `about` is the key of an event's affected
    process."""

    kind: ItemKind
    time_ns: int
    severity: Severity
    sentence: str
    json: bytes
    life: Life | None = None
    about: str | None = None

    @property
    def size(self) -> int:
        return 500 + size_of(self.sentence, self.json)

    def told(self) -> dict[str, Any]:
        """The keys of docs/events.md."""
        told: dict[str, Any] = orjson.loads(self.json)
        return told

    def verdict(self) -> VerdictBody:
        """Of an item of this kind."""
        body: VerdictBody = orjson.loads(self.json)
        return body


def life_of(place: Place, clock: Clock) -> Life:
    """The life of this cgroup, as far as the cgroup tells it."""
    pod, container, identity = place.pod, place.container, place.identity
    return Life(
        pod_uid=identity.pod_uid or (pod.uid if pod else None),
        namespace=pod.namespace if pod else None,
        pod=pod.name if pod else None,
        container=container.name if container else None,
        container_id=identity.container_id,
        runtime=container.runtime if container else None,
        began_ns=None if place.began is None else clock.utc_ns(place.began),
        ended_ns=None if place.ended is None else clock.utc_ns(place.ended),
    )
