# SPDX-License-Identifier: Apache-2.0
"""A child ended badly, and the container's first process passed that on as its own exit code."""

from __future__ import annotations

from tracer.timeline import Entry, Story
from tracer.verdicts import Cause, Certainty, Verdict
from tracer.verdicts._phrases import ending, where, who, whose_limit

# A shell passes a code on at once; with longer in between it need not be the reason.
AT_ONCE_NS = 2_000_000_000


def _judge(story: Story) -> Verdict | None:
    if story.end is None or not story.end.body["exit_code"]:
        return None
    child = _child_that_explains(story, story.end)
    if child is None:
        return None
    how, evidence = _how(story, child)
    return Verdict(
        "exited_after_child",
        f"its child {who(child.event.about)} {how}, and {who(story.init)} passed that on as exit"
        f" code {story.end.body['exit_code']}",
        Certainty.LIKELY,
        (*evidence, child, story.end),
        "look at the child: it is what failed; with exec in the start script there would be no"
        " shell in between, and Kubernetes would show the cause itself",
        ("that the code is the child's is told by the order of events and the number",),
    )


def _child_that_explains(story: Story, end: Entry) -> Entry | None:
    """The last child of the first process that ended just before, with the same code."""
    children = [
        entry
        for entry in story.of("exit")
        if entry is not end
        and 0 <= end.boot_ns - entry.boot_ns <= AT_ONCE_NS
        and _shell_code(entry) == end.body["exit_code"]
        and _is_child(story, entry)
    ]
    return children[-1] if children else None


def _shell_code(entry: Entry) -> int:
    signal, code = entry.body["signal"], entry.body["exit_code"]
    return 128 + int(signal["number"]) if signal else int(code)


def _is_child(story: Story, entry: Entry) -> bool:
    child, init = entry.event.about, story.init
    return bool(child and init and child.ancestry[:1] and child.ancestry[0][0] == init.pid)


def _how(story: Story, child: Entry) -> tuple[str, tuple[Entry, ...]]:
    process, signal = child.event.about, child.body["signal"]
    assert process is not None
    ooms = [e for e in story.of("oom") if e.event.about and e.event.about.pid == process.pid]
    if signal and ooms:
        return f"was killed because {whose_limit(ooms[-1].body)} was used up", (ooms[-1],)
    blow = story.deadly(signal["number"], process) if signal else None
    if blow is not None:
        return (
            f"was ended by {signal['name']} from {who(blow.event.by)} {where(blow)}"
            if blow.event.by
            else f"was ended by {signal['name']}"
        ), (blow,)
    return f"ended with {ending(child.body)}", ()


CAUSE = Cause(50, _judge)
