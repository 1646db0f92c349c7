# SPDX-License-Identifier: Apache-2.0
"""Failed page allocations: whether memory was gone, in small pieces, or forbidden by a limit."""

from __future__ import annotations

from tracer.decode.buddyinfo import NOTHING, free_bytes, usable
from tracer.model.units import size
from tracer.probes.pagealloc import AllocationBody
from tracer.why.common.phrases import times, who
from tracer.why.entry import Entry
from tracer.why.story import Story

FRAGMENTED, LACK, LIMIT = "fragmented", "lack", "limit"


def failures(story: Story, state: str) -> list[Entry[AllocationBody]]:
    """Of alike ones the last decides, of which the verdict speaks."""
    found = story.of("page_alloc_failure")
    return [entry for entry in found if state_of(entry.last.body) == state]


def state_of(body: AllocationBody) -> str | None:
    """None where the free lists are not known or explain nothing. A charged allocation that fails
    although there is such a piece was refused by the cgroup's limit, or by what is kept back."""
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
    """Before a single page is refused to a caller who can wait, everything that can be given up has
    been. For larger pieces, and for who cannot wait, the kernel does not try as hard."""
    return bool(body["order"]) or not body["can_wait"]


def sentence(found: list[Entry[AllocationBody]]) -> str:
    """The part that all have in common: who, how often, how much."""
    last = found[-1].last
    count = sum(entry.count for entry in found)
    again = f", {times(count, 'time')} in all" if count > 1 else ""
    return f"{who(last.about)} could not get {size(last.body['bytes'])} in one piece{again}"
