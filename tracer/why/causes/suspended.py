# SPDX-License-Identifier: Apache-2.0
"""A process was stopped with SIGSTOP and not continued: Kubernetes sees it as running, but it does
nothing."""

from __future__ import annotations

from tracer.probes.signals import SignalBody
from tracer.why.cause import Cause
from tracer.why.common.children import is_of_master
from tracer.why.common.phrases import descent, where, who
from tracer.why.common.stopped import between
from tracer.why.common.suspended import STOP, suspension
from tracer.why.entry import SIGKILL, Entry
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
    killed = _killed_by_master(story, last)
    over = story.end is not None or killed is not None
    after = "" if killed is None else _after(last, killed)
    return Verdict(
        "suspended",
        f"{who(last.event.about)} {'did' if over else 'does'} not run: SIGSTOP from {who(sender)}"
        f" {where(last)}{descent(sender)} stopped it, and nobody"
        f" {'continued' if over else 'has continued'} it{after}",
        Certainty.CERTAIN if killed is None else Certainty.LIKELY,
        (*found, *([killed] if killed is not None else [])),
        f"{'kill -CONT lets it go on; ' if killed is None else ''}look at the sender and at who"
        " started it: a debugger, or a script that pauses programs; Kubernetes shows nothing but"
        " probes that fail",
        () if killed is None else ("that it was killed for that is told by the order of events",),
    )


def _holds(story: Story, entry: Entry[SignalBody]) -> bool:
    """Whether the signal still holds the process. A program may stop its own processes and a
    debugger (whose SIGSTOP is the kernel's) any process; neither counts. An ended process is not
    held, but its master may have killed it for that."""
    process, origin = entry.event.about, entry.body["origin"]
    if entry.body["signal"]["name"] != STOP or process is None:
        return False
    inside = origin == "same-container" and is_from_executed(entry.event.by, process)
    if origin not in FOREIGN and not inside:
        return False
    if entry is not suspension(story, process, story.until_ns()):
        return False
    return not _has_ended(story, entry) or _killed_by_master(story, entry) is not None


def _killed_by_master(story: Story, stop: Entry[SignalBody]) -> Entry[SignalBody] | None:
    """The SIGKILL of a master that waited in vain for its stopped worker, as after gunicorn's
    --timeout."""
    killed = story.deadly(SIGKILL, stop.event.about)
    late = killed is not None and killed.boot_ns >= stop.last_ns
    return killed if killed is not None and late and is_of_master(killed) else None


def _after(stop: Entry[SignalBody], killed: Entry[SignalBody]) -> str:
    return (
        f"; its own master {who(killed.event.by)} killed it {between(stop, killed)} later, as one"
        " that hangs; it was not out of memory"
    )


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
