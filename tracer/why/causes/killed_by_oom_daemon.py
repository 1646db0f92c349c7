# SPDX-License-Identifier: Apache-2.0
"""Killed by a program that kills others before the kernel's OOM killer has to, such as earlyoom."""

from __future__ import annotations

from tracer.model.origin import outside_of_packages, suspicious
from tracer.why.cause import Cause
from tracer.why.common.killed import blow_of_a_process, judged, sentence
from tracer.why.daemons import oom_daemon
from tracer.why.story import Story
from tracer.why.verdict import Verdict


def _judge(story: Story) -> Verdict | None:
    blow = blow_of_a_process(story)
    sender = blow.event.by if blow else None
    if blow is None or sender is None or suspicious(sender):
        return None
    in_image = sender.place is not None and sender.place.container is not None
    if not in_image and outside_of_packages(sender.exe):
        return None
    daemon = oom_daemon(sender)
    if daemon is None:
        return None
    return judged(
        story,
        blow,
        "killed_by_oom_daemon",
        f"{sentence(blow)}; {daemon.name} kills for want of memory: {daemon.says}",
        f"the kernel's OOM killer had no part in it, so that the container does not count as"
        f" OOMKilled. {daemon.do}. Give the node more memory, or its containers limits that fit"
        " into it",
        (f"that it was for want of memory follows from what {daemon.name} is for",),
    )


CAUSE = Cause(85, _judge, headline="KilledByOOMDaemon")
