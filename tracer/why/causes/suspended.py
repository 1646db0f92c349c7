# SPDX-License-Identifier: Apache-2.0
"""A process was stopped with SIGSTOP and not continued: Kubernetes sees it as running, but it does
nothing."""

from __future__ import annotations

from tracer.probes.signals import SignalBody
from tracer.why.cause import Cause
from tracer.why.common.phrases import descent, where, who
from tracer.why.common.suspended import STOP, suspension
from tracer.why.entry import Entry
from tracer.why.executed import is_from_executed
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

FOREIGN = ("same-pod", "other-pod", "host")


def _judge(story: Story) -> Verdict | None:
    found = [entry for entry in story.of("signal") if _holds(story, entry)]
    if not found:
        return None
    last = found[-1]
    sender = last.event.by
    over = story.end is not None
    return Verdict(
        "suspended",
        f"{who(last.event.about)} {'did' if over else 'does'} not run: SIGSTOP from {who(sender)}"
        f" {where(last)}{descent(sender)} stopped it, and nobody"
        f" {'continued' if over else 'has continued'} it",
        Certainty.CERTAIN,
        tuple(found),
        "kill -CONT lets it go on; look at the sender and at who started it: a debugger, or a"
        " script that pauses programs; Kubernetes shows nothing but probes that fail",
    )


def _holds(story: Story, entry: Entry[SignalBody]) -> bool:
    """Whether the signal still holds the process. A program may stop its own processes and a
    debugger (whose SIGSTOP is the kernel's) any process; neither counts. An ended process is not
    held."""
    process, origin = entry.event.about, entry.body["origin"]
    if entry.body["signal"]["name"] != STOP or process is None:
        return False
    inside = origin == "same-container" and is_from_executed(entry.event.by, process)
    if origin not in FOREIGN and not inside:
        return False
    return entry is suspension(story, process, story.until_ns()) and not _has_ended(story, entry)


def _has_ended(story: Story, entry: Entry[SignalBody]) -> bool:
    process = entry.event.about
    assert process is not None
    return any(
        exited.event.about is not None
        and exited.event.about.pid == process.pid
        and exited.boot_ns >= entry.boot_ns
        and exited is not story.end
        for exited in story.of("exit")
    )


CAUSE = Cause(26, _judge, rests_on=frozenset(("signals",)))
