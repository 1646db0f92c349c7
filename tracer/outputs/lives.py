# SPDX-License-Identifier: Apache-2.0
"""The lives of containers, from their cgroups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tracer.model.event import Place


def lives(places: Iterable[Place]) -> Iterator[tuple[str, int, int | None]]:
    """Each container's id, begin and end in nanoseconds since boot, from its outermost cgroup. It
    has one in each hierarchy that is followed."""
    cgroups: dict[str, list[Place]] = {}
    for place in sorted(places, key=lambda place: len(place.path or "")):
        id_ = place.identity.container_id
        if id_ is not None and place.began is not None:
            own = cgroups.setdefault(id_, [])
            if not own or place.path == own[0].path:
                own.append(place)
    for id_, own in cgroups.items():
        began = min(place.began for place in own if place.began is not None)
        ended = max((place.ended for place in own if place.ended is not None), default=None)
        if ended is None or ended >= began:
            yield id_, began, ended
