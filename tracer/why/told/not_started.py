# SPDX-License-Identifier: Apache-2.0
"""Why a container or its sandbox does not start: a volume, the network, an image."""

from __future__ import annotations

from tracer.model.units import span
from tracer.why.common.starting import is_preparing
from tracer.why.statement import NEAR_NS, Hearing, Listener, Statement, last, named, quoted

_REASONS = (
    *("FailedMount", "FailedAttachVolume", "FailedMapVolume"),
    *("FailedCreatePodSandBox", "FailedScheduling", "Failed", "InspectFailed", "ErrImageNeverPull"),
)


def _hear(hearing: Hearing) -> Statement | None:
    story = hearing.story
    waits = story.state is not None
    if not waits and (story.end is None or not is_preparing(story.init)):
        return None
    events = hearing.events(*_REASONS)
    around = (event for event in events if waits or hearing.near(event, story.until_ns()))
    event = last(around)
    if event is None:
        return _waiting(hearing)
    again = f" ({event.count} times in {_over(event.last_ns - event.first_ns)})"
    return Statement(
        f"{named(event.reason)}{again if event.count > 1 else ''}: {quoted(event.message)}"
    )


def _over(ns: int) -> str:
    return span(ns) if ns else span(NEAR_NS // 10)


def _waiting(hearing: Hearing) -> Statement | None:
    for container in hearing.told.pod.containers if hearing.told.pod else ():
        if container.waiting and container.message:
            words = f"{named(container.name)} waits: {named(container.waiting)}"
            return Statement(f"{words}: {quoted(container.message)}")
    return None


LISTENER = Listener(30, _hear)
