# SPDX-License-Identifier: Apache-2.0
"""The OOM killer ended the container's first process: what the verdicts about that share."""

from __future__ import annotations

from tracer.timeline import SIGKILL, Entry, Story
from tracer.units import size
from tracer.verdicts import Certainty, Verdict
from tracer.verdicts._phrases import who, whose_limit


def fatal_oom(story: Story) -> Entry | None:
    """The kill of the container's first process, alone or as a member of a group."""
    ooms = [entry for entry in story.of("oom") if _hit(story, entry)]
    return ooms[-1] if ooms else None


def _hit(story: Story, entry: Entry) -> bool:
    if story.end is None or entry.boot_ns > story.end.boot_ns:
        return False
    return any(story.is_init(p) for p in (entry.event.about, *entry.body["members"]))


def judged(story: Story, oom: Entry, verdict_id: str, remedy: str, more: str = "") -> Verdict:
    assert story.end is not None
    doubts: tuple[str, ...] = ()
    if story.end.body["signal"] is None or story.end.body["signal"]["number"] != SIGKILL:
        doubts = (f"yet its end was another: {story.end.body['meaning']}",)
    body = oom.body
    anon = size(body["victim"].facts["anon_bytes"])
    used = f", with {anon} of its own memory" if anon else ""
    return Verdict(
        verdict_id,
        f"out of memory: {who(story.init)} was killed because {whose_limit(body)} was used up{used}"
        f"{more}",
        Certainty.LIKELY if doubts else Certainty.CERTAIN,
        (oom, story.end),
        remedy,
        doubts,
    )
