# SPDX-License-Identifier: Apache-2.0
"""A signal of another process ended the container: what these verdicts share."""

from __future__ import annotations

from tracer.probes.signals import SignalBody
from tracer.why.common.phrases import descent, where, who
from tracer.why.entry import Entry
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

BY_PROCESSES = ("same-container", "same-pod", "other-pod", "host")


def blow_of_a_process(story: Story) -> Entry[SignalBody] | None:
    blow = story.blow()
    if blow is None or story.is_init(blow.event.by):
        return None
    return blow if blow.body["origin"] in BY_PROCESSES else None


def sentence(blow: Entry[SignalBody], place: str | None = None) -> str:
    """`place` overrides the location derived from the sender's name."""
    sender = blow.event.by
    name = blow.body["signal"]["name"]
    return f"killed: {name} from {who(sender)} {place or where(blow)}{descent(sender)}"


def judged(
    story: Story,
    blow: Entry[SignalBody],
    verdict_id: str,
    words: str,
    remedy: str,
    doubts: tuple[str, ...] = (),
) -> Verdict:
    """If two processes killed it at the same time, the earlier one is named."""
    assert story.end is not None
    number = blow.body["signal"]["number"]
    rivals = [
        entry
        for entry in story.signals()
        if entry is not blow
        and entry.body["signal"]["number"] == number
        and entry.body["signal"]["result"] == "delivered"
    ]
    doubts += tuple(f"{who(entry.event.by)} sent the same signal as well" for entry in rivals)
    if blow.event.by is not None and blow.event.by.comm is None:
        doubts += ("the kernel's description of the sender was lost",)
    return Verdict(
        verdict_id,
        words,
        Certainty.LIKELY if doubts else Certainty.CERTAIN,
        (blow, *rivals, story.end),
        remedy,
        doubts,
    )
