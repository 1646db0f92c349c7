# SPDX-License-Identifier: Apache-2.0
"""Reset connections: picking those of one sort."""

from __future__ import annotations

from collections.abc import Iterable

from tracer.timeline import Entry, Story
from tracer.verdicts import Certainty
from tracer.views.columns import pod_name

RESTS_ON = frozenset(("resets",))


def resets(story: Story, direction: str, reasons: Iterable[str]) -> list[Entry]:
    wanted = set(reasons)
    return [
        entry
        for entry in story.of("tcp_reset")
        if entry.body["direction"] == direction and entry.body["reason"] in wanted
    ]


def total(found: Iterable[Entry]) -> int:
    return sum(entry.count for entry in found)


def ports(found: Iterable[Entry]) -> str:
    every = sorted({entry.body["local"]["port"] for entry in found} - {None})
    return f"port{'s' * (len(every) > 1)} {', '.join(map(str, every))}" if every else "a port"


def peers(found: Iterable[Entry]) -> str:
    """Up to three of those on the other side, by pod where it is known, else by address."""
    every = dict.fromkeys(
        pod_name(event.by_place) or event.body["remote"]["address"] or "unknown"
        for entry in found
        for event in (entry.event, entry.last)
    )
    shown = list(every)[:3]
    return ", ".join(shown) + (" and others" if len(every) > 3 else "")


def certainty(found: Iterable[Entry]) -> tuple[Certainty, tuple[str, ...]]:
    """The kernel's own reason is certain; one that ktrace inferred is likely."""
    if any(entry.body["reason_inferred"] for entry in found):
        return Certainty.LIKELY, ("the kernel named no reason: it follows from the socket's state",)
    return Certainty.CERTAIN, ()
