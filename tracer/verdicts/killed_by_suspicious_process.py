# SPDX-License-Identifier: Apache-2.0
"""Killed by a program that hides: its file is deleted, in memory only, or where everybody may
write. Or, which is a sign and no more, by one of the node that no package has put there."""

from __future__ import annotations

from tracer.origin import outside_of_packages, suspicious
from tracer.timeline import Entry, Story
from tracer.verdicts import Cause, Verdict
from tracer.verdicts._killed import blow_of_a_process, judged, sentence

ID = "killed_by_suspicious_process"


def _judge(story: Story) -> Verdict | None:
    blow = blow_of_a_process(story)
    sender = blow.event.by if blow else None
    if blow is None or sender is None:
        return None
    look = (
        f"keep its file (cp /proc/{sender.pid}/exe while it runs), look at who started it, and at"
        " what else it signals: ktrace signals --all"
    )
    if suspicious(sender):
        hides = f"{sentence(blow)}; its program {_hides(sender.exe or '')}"
        return judged(
            story, blow, ID, hides, f"treat the node as compromised until it is known: {look}"
        )
    if blow.body["origin"] == "host" and outside_of_packages(sender.exe):
        return _by_a_stranger(story, blow, look)
    return None


def _by_a_stranger(story: Story, blow: Entry, look: str) -> Verdict:
    return judged(
        story,
        blow,
        ID,
        f"{sentence(blow)}; its program lies where no package puts programs",
        f"find out who put it there; unless that was one of you, {look}",
        ("where a program lies is a sign, and no proof: administrators have tools of their own",),
    )


def _hides(exe: str) -> str:
    if exe.startswith("/memfd:"):
        return "is in memory only"
    if exe.endswith(" (deleted)"):
        return "has deleted its file"
    return "lies where everybody may write"


CAUSE = Cause(95, _judge)
