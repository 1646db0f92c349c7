# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes says, as rows of the live view. Its Events become events of a kind of their own,
at the time that they name, on the pod that they concern."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from tracer.identity.resolver import Resolver
from tracer.model.cgroup import CgroupIdentity
from tracer.model.event import Clock, Event, Place
from tracer.model.kubernetes import Fact, KubeEvent
from tracer.model.names import Pod
from tracer.model.selection import Selection
from tracer.recording.view import wants
from tracer.why.attributed import ORDINARY, event_json

KIND = "kubernetes"

Places = Mapping[tuple[str | None, str | None], list[Place]]


def told_events(
    facts: Iterable[Fact], resolver: Resolver, clock: Clock, wanted: Selection
) -> list[Event]:
    """The Events among the facts that explain something, of the wanted pods, in order of time."""
    said = [one for one in facts if isinstance(one, KubeEvent) and one.reason not in ORDINARY]
    if not said:
        return []
    places = _by_name(resolver)
    events = []
    for one in said:
        place = _place_of(one, places)
        if place is not None:
            boot_ns = one.last_ns - clock.offset_ns
            event = Event(KIND, boot_ns, None, None, event_json(one), place)
            if wants(wanted, event):
                events.append(event)
    return sorted(events, key=lambda event: event.boot_ns)


def sentence(body: Mapping[str, Any]) -> str:
    """Of an event of this kind."""
    about, count = body["object"], body["count"]
    by = "" if about["kind"] == "Pod" else f" of {about['kind']} {about['name']}"
    again = f" ({count} times)" if count > 1 else ""
    return f"Kubernetes says {body['reason']}{by}{again}: {body['message']}"


def _by_name(resolver: Resolver) -> Places:
    found: dict[tuple[str | None, str | None], list[Place]] = {}
    for place in resolver.places():
        if place.pod is not None:
            found.setdefault((place.pod.namespace, place.pod.name), []).append(place)
    return found


def _place_of(event: KubeEvent, places: Places) -> Place | None:
    """Its container's, else its pod's. None if it is about another object, and the pod is not
    known."""
    uid = event.object_uid if event.kind == "Pod" else ""
    there = [
        place
        for place in places.get((event.namespace, event.pod), ())
        if not uid or _uid(place) == uid
    ]
    if there:
        own = (p for p in there if event.container and _container(p) == event.container)
        named = next(own, None)
        if named is not None:
            return named
        last = there[-1]
        identity = replace(last.identity, container_id=None, runtime=None)
        return Place(last.cgroup, None, identity, last.pod)
    if not uid:
        return None
    return Place(0, None, CgroupIdentity(uid), Pod(uid, event.namespace, event.pod))


def _uid(place: Place) -> str | None:
    return place.identity.pod_uid or (place.pod.uid if place.pod else None)


def _container(place: Place) -> str | None:
    return place.container.name if place.container else None
