# SPDX-License-Identifier: Apache-2.0
"""A child ended badly, and the container's first process passed its code on or exited at once with
another: a pool that lost a worker, a shell whose pipe broke."""

from __future__ import annotations

from tracer.probes.exits import ExitBody
from tracer.probes.oom.decoder import KillBody
from tracer.probes.signals import SignalBody
from tracer.why.cause import Cause
from tracer.why.common.children import Lost, lost_child, oom_of, was_next
from tracer.why.common.faults import handled_before, in_full, is_own
from tracer.why.common.memory import hints_of, remedy_of_child
from tracer.why.common.phrases import (
    ending,
    executes_others,
    is_shell,
    where,
    who,
    whose_limit,
)
from tracer.why.common.senders import is_foreign, sender_of
from tracer.why.common.stopped import between
from tracer.why.entry import SIGKILL, Entry
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

# A shell passes a code on at once. A signal's code is specific, so a little clean-up in between is
# allowed; a plain code is too common for that.
SIGNAL_NS, PLAIN_NS = 2_000_000_000, 50_000_000

_LOOK_AT_SENDER = (
    "look at who sent that, and at who started it; for Kubernetes the container has ended by itself"
)


def _judge(story: Story) -> Verdict | None:
    if story.end is None or story.end.body["exit_code"] is None:
        return None
    child = _child_that_explains(story, story.end)
    lost = lost_child(story)
    if lost is not None and (child is None or lost.end is not child):
        return _judged_lost(story, lost)
    if child is None:
        return None
    how, oom, blow = _how(story, child)
    first = handled_before(story, blow) if blow is not None else None
    evidence = tuple(entry for entry in (oom, first, blow) if entry is not None)
    asked = _asked(story, blow)
    if asked is not None:
        got = "which had got it" if story.is_init(asked.event.about) else "as it had got it"
        how += f", {got} from {sender_of(asked)}"
        evidence = (asked, *evidence)
    remedy = "look at the child: it is what failed"
    if is_shell(story.init):
        remedy += (
            "; with exec in the start script there would be no shell in between, and Kubernetes"
            " would show the cause itself"
        )
    if any(entry is not None and is_foreign(entry) for entry in (asked, blow)):
        remedy = _LOOK_AT_SENDER
    return Verdict(
        "exited_after_child",
        f"its child {who(child.event.about)} {how}, and {who(story.init)} passed that on as exit"
        f" code {story.end.body['exit_code']}{_no_oom(blow)}",
        Certainty.LIKELY,
        (*evidence, child, story.end),
        remedy,
        ("that the code is the child's is told by the order of events and the number",),
    )


def _no_oom(blow: Entry[SignalBody] | None) -> str:
    """Words for a SIGKILL that is known to come from a process and not from the OOM killer."""
    if blow is None or blow.body["signal"]["number"] != SIGKILL or blow.event.by is None:
        return ""
    return "; it was not out of memory"


def _asked(story: Story, blow: Entry[SignalBody] | None) -> Entry[SignalBody] | None:
    """The same signal, which its sender had received itself: tini and the like forward signals, and
    many programs clean up and then end by the signal."""
    if blow is None or not (story.is_init(blow.event.by) or is_own(blow)):
        return None
    if handled_before(story, blow) is not None:
        return None
    got = [
        entry
        for entry in story.signals(blow.event.by)
        if entry.body["signal"]["number"] == blow.body["signal"]["number"]
        and not is_own(entry)
        and 0 <= blow.boot_ns - entry.last_ns <= SIGNAL_NS
    ]
    return got[-1] if got else None


def _judged_lost(story: Story, lost: Lost) -> Verdict:
    assert story.end is not None
    how, oom, blow = _how(story, lost.end)
    code = story.end.body["exit_code"]
    remedy = (
        remedy_of_child(lost.oom.body)
        if lost.oom is not None
        else _LOOK_AT_SENDER
        if blow is not None and is_foreign(blow)
        else "look at the child: it is what failed, and its parent gave up for it"
    )
    if code == 0:
        remedy += "; with set -o pipefail a pipe of a shell ends with the code of what failed in it"
    return Verdict(
        "exited_after_child",
        f"its child {who(lost.end.event.about)} {how}, and {who(story.init)} ended"
        f" {between(lost.end, story.end)} later with {ending(story.end.body)}{_no_oom(blow)}",
        Certainty.LIKELY,
        (*(entry for entry in (oom, blow) if entry is not None), lost.end, story.end),
        remedy,
        ("that the one ended because of the other is told by the order of events",),
        hints=hints_of(lost.oom.body) if lost.oom is not None else (),
    )


def _child_that_explains(story: Story, end: Entry[ExitBody]) -> Entry[ExitBody] | None:
    """The first process's last child that ended just before it with the same code."""
    children = [
        entry
        for entry in story.of("exit")
        if entry is not end
        and 0 <= end.boot_ns - entry.boot_ns <= SIGNAL_NS
        and _shell_code(entry) == end.body["exit_code"] != 0
        and _is_child(story, entry)
        and (entry.body["signal"] is not None or _hands_on(story, entry, end))
    ]
    return children[-1] if children else None


def _hands_on(story: Story, child: Entry[ExitBody], end: Entry[ExitBody]) -> bool:
    """Whether a plain code came at once, or next from a program that hands codes on, however slow
    the node is."""
    at_once = end.boot_ns - child.boot_ns <= PLAIN_NS
    return at_once or (executes_others(story.init) and was_next(story, child, end, PLAIN_NS))


def _shell_code(entry: Entry[ExitBody]) -> int | None:
    signal = entry.body["signal"]
    return 128 + signal["number"] if signal else entry.body["exit_code"]


def _is_child(story: Story, entry: Entry[ExitBody]) -> bool:
    child, init = entry.event.about, story.init
    return bool(child and init and child.ancestry[:1] and child.ancestry[0][0] == init.pid)


def _how(
    story: Story, child: Entry[ExitBody]
) -> tuple[str, Entry[KillBody] | None, Entry[SignalBody] | None]:
    """How the child ended, in words; and the OOM kill or the signal that ended it."""
    process, signal = child.event.about, child.body["signal"]
    assert process is not None
    oom = oom_of(story, process)
    if signal and oom is not None:
        return f"was killed because {whose_limit(oom.body)} was used up", oom, None
    blow = story.deadly(signal["number"], process) if signal else None
    if blow is not None:
        name = blow.body["signal"]["name"]
        if not blow.event.by or is_own(blow):
            known = is_own(blow) or blow.body["origin"] == "kernel"
            return f"was ended by {name}{f', {in_full(story, blow)}' * known}", None, blow
        sender = sender_of(blow) if is_foreign(blow) else f"{who(blow.event.by)} {where(blow)}"
        return f"was ended by {name} from {sender}", None, blow
    return f"ended with {ending(child.body)}", None, None


CAUSE = Cause(50, _judge)
