# SPDX-License-Identifier: Apache-2.0
"""Killed by a program that hides: its file is deleted, exists in memory only, or lies in a
world-writable directory. A weaker sign: a node's program outside the directories of packages."""

from __future__ import annotations

from tracer.model.origin import outside_of_packages, suspicious
from tracer.probes.signals import SignalBody
from tracer.why.cause import Cause
from tracer.why.common.killed import blow_of_a_process, judged, sentence
from tracer.why.common.stopped import request
from tracer.why.entry import Entry
from tracer.why.story import Story
from tracer.why.verdict import Verdict


def _judge(story: Story) -> Verdict | None:
    blow = blow_of_a_process(story)
    sender = blow.event.by if blow else None
    if blow is not None and sender is not None and suspicious(sender):
        return _judged(
            story,
            blow,
            f"{sentence(blow)}; its program {_hides(sender.exe or '')}",
            "treat the node as compromised until the program is known",
        )
    blow = _blow_of_a_stranger(story)
    if blow is None:
        return None
    return _judged(
        story,
        blow,
        f"{sentence(blow, 'on the host')}; its program lies where no package puts programs",
        "find out who put it there; unless that was one of you",
        ("where a program lies is a sign, and no proof: administrators have tools of their own",),
    )


def _blow_of_a_stranger(story: Story) -> Entry[SignalBody] | None:
    """The blow of a node's program outside the directories of packages. Excludes an orderly stop by
    a runtime that is installed there. A runtime's file name alone proves nothing."""
    blow = story.blow()
    if blow is None or blow.event.by is None or not outside_of_packages(blow.event.by.exe):
        return None
    poses = blow.body["origin"] == "runtime" and request(story) is None
    return blow if poses or blow.body["origin"] == "host" else None


def _judged(
    story: Story, blow: Entry[SignalBody], words: str, advice: str, doubts: tuple[str, ...] = ()
) -> Verdict:
    assert blow.event.by is not None
    return judged(
        story,
        blow,
        "killed_by_suspicious_process",
        words,
        f"{advice}: keep its file (cp /proc/{blow.event.by.pid}/exe while it runs), look at who"
        " started it, and at what else it signals: ktrace signals --all",
        doubts,
    )


def _hides(exe: str) -> str:
    if exe.startswith("/memfd:"):
        return "is in memory only"
    if exe.endswith(" (deleted)"):
        return "has deleted its file"
    return "lies where everybody may write"


CAUSE = Cause(95, _judge, headline="KilledByProcess")
