# SPDX-License-Identifier: Apache-2.0
"""The runtime's SIGTERM was ignored by PID 1, and SIGKILL followed."""

from __future__ import annotations

from tracer.probes.signals import SignalBody
from tracer.why.cause import Cause
from tracer.why.common.faults import DUMP_CORE
from tracer.why.common.phrases import who
from tracer.why.common.stopped import between, final_blow, request
from tracer.why.entry import Entry, target_state, took_effect
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

# A program that emulates a signal's default action raises it again at once.
AT_ONCE_NS = 1_000_000_000


def _judge(story: Story) -> Verdict | None:
    asked, blow = request(story), final_blow(story)
    if asked is None or blow is None:
        return None
    raised = _raised_again(story, asked)
    if raised is not None:
        return _dropped(story, asked, raised, blow)
    ignored = asked.body["signal"]["result"] == "ignored"
    if not ignored or target_state(asked.event) in ("dying", "dumping_core"):
        return None
    assert story.end is not None
    name = asked.body["signal"]["name"]
    doubts = _may_be_dying(story, asked)
    return Verdict(
        "stop_ignored",
        f"stopped by the runtime: {who(story.init)}{_as_first(story)} ignored {name} because it has"
        f" no handler for it, and SIGKILL followed {between(asked, blow)} later",
        Certainty.LIKELY if doubts else Certainty.CERTAIN,
        (asked, blow, story.end),
        f"let the program itself be PID 1 (exec in the shell script, or the array form of the"
        f" command) and handle {name}, or put an init such as tini in front",
        doubts,
    )


def _raised_again(story: Story, asked: Entry[SignalBody]) -> Entry[SignalBody] | None:
    """The same signal, sent by the first process to itself in answer to the request. It does not
    end PID 1: the second signal waits while the first is handled, and then the kernel drops it."""
    if story.init is None or story.init.pid_in_pod != 1 or not took_effect(asked):
        return None
    number = asked.body["signal"]["number"]
    found = [
        entry
        for entry in story.signals()
        if entry.body["signal"]["number"] == number
        and story.is_init(entry.event.by)
        and 0 <= entry.boot_ns - asked.boot_ns <= AT_ONCE_NS
    ]
    return found[0] if found else None


def _dropped(
    story: Story, asked: Entry[SignalBody], raised: Entry[SignalBody], blow: Entry[SignalBody]
) -> Verdict:
    assert story.end is not None
    name = asked.body["signal"]["name"]
    ignored = raised.body["signal"]["result"] == "ignored"
    doubts = () if ignored else ("that the kernel dropped it is told by the program's going on",)
    return Verdict(
        "stop_ignored",
        f"stopped by the runtime: {name} reached {who(story.init)}, which raised it once more for"
        " itself, to end by it as programs without a handler of their own do; it is PID 1, which"
        f" is spared that, and SIGKILL followed {between(asked, blow)} later",
        Certainty.LIKELY if doubts else Certainty.CERTAIN,
        (asked, raised, blow, story.end),
        f"handle {name} in the program (in Node.js: process.on('{name}', …) and exit there), or put"
        " an init such as tini in front; more grace would not have helped",
        doubts,
    )


def _may_be_dying(story: Story, asked: Entry[SignalBody]) -> tuple[str, ...]:
    """Without the target's state, a crash that writes its core dump looks the same."""
    if target_state(asked.event) is not None:
        return ()
    faults = [
        entry.body["signal"]["name"]
        for entry in story.signals()
        if entry.body["signal"]["name"] in DUMP_CORE
        and took_effect(entry)
        and entry.boot_ns <= asked.boot_ns
    ]
    return (f"{faults[-1]} had reached it before: it may have been dying",) if faults else ()


def _as_first(story: Story) -> str:
    """Only PID 1 is spared signals without a handler; other processes ignore them explicitly."""
    return ", as PID 1," if story.init and story.init.pid_in_pod == 1 else ""


CAUSE = Cause(72, _judge, was_ordered=True)
