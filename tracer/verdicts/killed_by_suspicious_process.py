# SPDX-License-Identifier: Apache-2.0
"""Killed by a program that hides: its file is deleted, in memory only, or where everybody may
write."""

from __future__ import annotations

from tracer.origin import suspicious
from tracer.timeline import Story
from tracer.verdicts import Cause, Verdict
from tracer.verdicts._killed import blow_of_a_process, judged, sentence


def _judge(story: Story) -> Verdict | None:
    blow = blow_of_a_process(story)
    sender = blow.event.by if blow else None
    if blow is None or sender is None or not suspicious(sender):
        return None
    return judged(
        story,
        blow,
        "killed_by_suspicious_process",
        f"{sentence(blow)}; its program {_hides(sender.exe or '')}",
        "treat the node as compromised until the program is known: keep its file"
        f" (cp /proc/{sender.pid}/exe while it runs), look at who started it, and at what else it"
        " signals: ktrace signals --all",
    )


def _hides(exe: str) -> str:
    if exe.startswith("/memfd:"):
        return "is in memory only"
    if exe.endswith(" (deleted)"):
        return "has deleted its file"
    return "lies where everybody may write"


CAUSE = Cause(95, _judge)
