# SPDX-License-Identifier: Apache-2.0
"""The runtime's SIGTERM reached a process that SIGSTOP had stopped and nothing had continued: its
handler could not run."""

from __future__ import annotations

from tracer.probes.signals import SignalBody
from tracer.why.cause import Cause
from tracer.why.common.phrases import descent, where, who
from tracer.why.common.stopped import between, final_blow, request
from tracer.why.common.suspended import suspension
from tracer.why.entry import Entry, target_state, took_effect
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    asked, blow = request(story), final_blow(story)
    if asked is None or blow is None or not took_effect(asked):
        return None
    state = target_state(asked.event)
    stop = suspension(story, story.init, asked.boot_ns)
    if state != "stopped" and (state is not None or stop is None):
        return None
    assert story.end is not None
    name = asked.body["signal"]["name"]
    doubts = () if state else ("that nobody continued it is told by the order of events",)
    return Verdict(
        "stop_suspended",
        f"stopped by the runtime: {who(story.init)} could not take {name}: {_by(stop, asked)};"
        f" SIGKILL followed {between(asked, blow)} later",
        Certainty.LIKELY if doubts else Certainty.CERTAIN,
        (*([stop] if stop else []), asked, blow, story.end),
        "find out who stopped it and forgot it (kill -STOP, a debugger, a script that pauses"
        " programs), and continue it with kill -CONT; more grace would not have helped",
        doubts,
    )


def _by(stop: Entry[SignalBody] | None, asked: Entry[SignalBody]) -> str:
    if stop is None:
        return "it had been stopped before, and who did that was not seen"
    sender = f"{who(stop.event.by)} {where(stop)}{descent(stop.event.by)}"
    return f"SIGSTOP from {sender} had stopped it {between(stop, asked)} before, and nobody had" + (
        " continued it"
    )


CAUSE = Cause(75, _judge, was_ordered=True)
