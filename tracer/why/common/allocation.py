# SPDX-License-Identifier: Apache-2.0
"""Failed page allocations: whether memory was used up, fragmented, or forbidden by a limit."""

from __future__ import annotations

from tracer.decode.buddyinfo import NOTHING, free_bytes, usable
from tracer.model.event import Event
from tracer.model.units import size
from tracer.probes.pagealloc import AllocationBody
from tracer.why.common.phrases import times, who
from tracer.why.entry import Entry
from tracer.why.story import Story

FRAGMENTED, LACK, LIMIT = "fragmented", "lack", "limit"


def failures(story: Story, state: str) -> list[Entry[AllocationBody]]:
    """Failures in this state, which their deciding event has."""
    found = story.of("page_alloc_failure")
    return [entry for entry in found if state_of(deciding(entry).body) == state]


def deciding(entry: Entry[AllocationBody]) -> Event[AllocationBody]:
    """The last of a group of like events, unless only the first one shows what was missing. The
    free lists are read after a failure, and compaction, which the failure starts, may have made
    large pieces by then."""
    for event in (entry.last, entry.event):
        if state_of(event.body) in (FRAGMENTED, LACK):
            return event
    return entry.last


def state_of(body: AllocationBody) -> str | None:
    """Which of the three it was; None if the free lists are unknown or explain nothing. A charged
    allocation that fails although a large enough piece is free was refused by the cgroup's limit,
    or by the kernel's reserves."""
    zones, order = body["buddyinfo"], body["order"]
    if not zones or not body["bytes"]:
        return None
    page = body["bytes"] >> order
    zones = usable(zones, page, body["gfp_flags"])
    little = free_bytes(zones, page) < NOTHING
    if not free_bytes(zones, page, order):
        return LACK if little else FRAGMENTED
    if any("ACCOUNT" in flag for flag in body["gfp_flags"] or ()):
        return LIMIT
    return LACK if little else None


def gives_up_early(body: AllocationBody) -> bool:
    """Whether the kernel fails without reclaiming everything. It reclaims all it can before it
    refuses a single page to a caller that can wait; for larger pieces, and for callers that cannot
    wait, it does not."""
    return bool(body["order"]) or not body["can_wait"]


def sentence(found: list[Entry[AllocationBody]]) -> str:
    """The part that all sentences share: who, how often, how much."""
    last = deciding(found[-1])
    count = sum(entry.count for entry in found)
    again = f", {times(count, 'time')} in all" if count > 1 else ""
    return f"{who(last.about)} could not get {size(last.body['bytes'])} in one piece{again}"
