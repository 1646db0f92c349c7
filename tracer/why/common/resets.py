# SPDX-License-Identifier: Apache-2.0
"""Reset connections: picking them by sort, and how verdicts describe both ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from tracer.model.event import Event
from tracer.model.units import span
from tracer.probes.columns import pod_name
from tracer.probes.resets import ResetBody, is_reset
from tracer.why.common.phrases import address, shortened
from tracer.why.entry import Entry, OtherEnd
from tracer.why.sorts import Since, Sort, at_service, idle_ns
from tracer.why.story import ANY_PROBE, Story
from tracer.why.verdict import Certainty

RESTS_ON = frozenset(("resets",))
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


def ports(found: Sequence[Entry[ResetBody]]) -> str:
    ports = (entry.body["local"]["port"] for entry in found)
    every = sorted({port for port in ports if port is not None})
    names = shortened(map(str, every), found)
    return f"port{'s' * (len(every) > 1)} {names}" if every else "a port"


def peers(found: Iterable[Entry[ResetBody] | Part]) -> str:
    """Up to three peers: by pod if known, else by address; a service by both. Of clients it is not
    known how many they are."""
    found = list(found)
    every = dict.fromkeys(name for one in found for name in _names(one))
    entries = [_entry(one) for one in found]
    return shortened(every, (entry for entry in entries if not at_service(entry.body)))


def pods(found: Iterable[Part]) -> str:
    """The same without addresses where pods are known."""
    return shortened(dict.fromkeys(_pod(p) or peer(p.event, p.other) for p in found))


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
