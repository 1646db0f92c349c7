# SPDX-License-Identifier: Apache-2.0
"""Reset connections: picking them by sort, and how verdicts describe both ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeGuard

from tracer.model.event import Event
from tracer.model.units import span
from tracer.probes.columns import pod_name
from tracer.probes.resets import ResetBody, is_reset
from tracer.why.common.phrases import address
from tracer.why.entry import Entry, OtherEnd
from tracer.why.sorts import Since, Sort, at_service, idle_ns
from tracer.why.story import ANY_PROBE, Story
from tracer.why.verdict import Certainty

RESTS_ON = frozenset(("resets",))
MAX_NAMES = 3
# The shortest idle time worth mentioning.
IDLE_NS = 1_000_000_000
NOT_SEEN = "who sent the reset was not seen: it may be something in between"
INFERRED = "the kernel named no reason: it follows from the socket's state"


@dataclass(frozen=True, slots=True)
class Part:
    """Resets of one entry about which the same is known: how many, the last one, and its other end.
    `from_elsewhere` marks resets received in the name of a pod of this node whose TCP sent
    nothing."""

    entry: Entry[ResetBody]
    count: int
    event: Event[ResetBody]
    other: OtherEnd | None
    from_elsewhere: bool = False

    def idle(self, since: Since) -> int | None:
        return idle_ns(self.event.body, since)


def of_sort(story: Story, *sorts: Sort) -> list[Entry[ResetBody]]:
    return [entry for entry in story.of("tcp_reset") if entry.sort in sorts]


def is_of_resets(entry: Entry) -> TypeGuard[Entry[ResetBody]]:
    return is_reset(entry.event)


def parts(story: Story, *sorts: Sort) -> Iterator[Part]:
    """Parts whose other end was seen come first."""
    for entry in of_sort(story, *sorts):
        unseen = entry.count
        for other in entry.others.values():
            unseen -= other.count
            yield Part(entry, other.count, other.own, other)
        if unseen > 0:
            yield Part(entry, unseen, entry.last, None, _is_from_elsewhere(story, entry.last))


def _is_from_elsewhere(story: Story, event: Event[ResetBody]) -> bool:
    """Whether the other end was not seen although a reset sent there would have been."""
    place = event.by_place
    of_pod = place is not None and place.identity.pod_uid is not None
    lost = any(loss.probe in (*RESTS_ON, ANY_PROBE) for loss in story.losses)
    received = event.body["direction"] == "received"
    return received and of_pod and story.both_ends and not lost and not event.doubts


def total(found: Iterable[Entry | Part]) -> int:
    return sum(one.count for one in found)


def evidence(found: Iterable[Part]) -> tuple[Entry[ResetBody], ...]:
    return tuple(dict.fromkeys(part.entry for part in found))


def ports(found: Iterable[Entry[ResetBody]]) -> str:
    ports = (entry.body["local"]["port"] for entry in found)
    every = sorted({port for port in ports if port is not None})
    names = _shortened(map(str, every), any(entry.folded for entry in found))
    return f"port{'s' * (len(every) > 1)} {names}" if every else "a port"


def peers(found: Iterable[Entry[ResetBody] | Part]) -> str:
    """Up to three peers: by pod if known, else by address; a service by both."""
    found = list(found)
    every = dict.fromkeys(name for one in found for name in _names(one))
    return _shortened(every, any(_entry(one).folded for one in found))


def pods(found: Iterable[Part]) -> str:
    """The same without addresses where pods are known."""
    return _shortened(dict.fromkeys(_pod(p) or peer(p.event, p.other) for p in found), False)


def _pod(part: Part) -> str | None:
    other = part.other
    return pod_name(other.event.place if other else None) or pod_name(part.event.by_place)


def _names(one: Entry[ResetBody] | Part) -> Iterator[str]:
    if isinstance(one, Part):
        yield peer(one.event, one.other)
        return
    others = list(one.others.values())
    met = {id(other.own): other for other in others}
    for event in (one.event, *(other.own for other in others), one.last):
        yield peer(event, met.get(id(event)))


def _entry(one: Entry[ResetBody] | Part) -> Entry[ResetBody]:
    return one.entry if isinstance(one, Part) else one


def peer(event: Event[ResetBody], other: OtherEnd | None = None) -> str:
    """The peer's name. An observation at the other end takes precedence."""
    body = event.body
    pod = pod_name(other.event.place if other else None) or pod_name(event.by_place)
    if body["remote"]["address"] is None:
        return pod or "unknown"
    if at_service(body):
        return pod or body["remote"]["address"]
    return f"{pod} ({address(body['remote'])})" if pod else address(body["remote"])


def here(story: Story) -> str:
    """How a sentence names the pod itself."""
    pod = story.place.pod
    return (pod and pod.name) or "this pod"


def idle(found: Iterable[Part]) -> str:
    """`, after 350 s without data`; empty unless idle long enough to suggest a time-out."""
    known = [
        (part.event.boot_ns, min(sent, received))
        for part in found
        if (sent := part.idle("sent_ns")) is not None
        and (received := part.idle("received_ns")) is not None
    ]
    if not known or max(known)[1] < IDLE_NS:
        return ""
    return f", the last one after {span(max(known)[1])} without data"


def certainty(found: Iterable[Entry[ResetBody]]) -> tuple[Certainty, tuple[str, ...]]:
    """Certain if the kernel gave the reason, likely if ktrace inferred it."""
    if any(entry.body["reason_inferred"] for entry in found):
        return Certainty.LIKELY, (INFERRED,)
    return Certainty.CERTAIN, ()


def seen(found: Iterable[Part]) -> tuple[Certainty, tuple[str, ...]]:
    """For received resets: certain only if all were seen being sent."""
    if all(part.other for part in found):
        return Certainty.CERTAIN, ()
    return Certainty.LIKELY, (NOT_SEEN,)


def _shortened(names: Iterable[str], more: bool) -> str:
    every = list(names)
    more = more or len(every) > MAX_NAMES
    return ", ".join(every[:MAX_NAMES]) + (" and others" if more else "")
