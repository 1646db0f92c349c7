# SPDX-License-Identifier: Apache-2.0
"""The kernel ended a child because its parent had ended. The child, or the program that started it,
had asked for that signal (PR_SET_PDEATHSIG)."""

from __future__ import annotations

from tracer.probes.exits import ExitBody
from tracer.probes.signals import SignalBody
from tracer.why.cause import Cause
from tracer.why.common.children import ended_by, is_stopping, was_asked
from tracer.why.common.phrases import ending, who
from tracer.why.entry import Entry, took_effect
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = [
        (entry, end)
        for entry in story.of("signal")
        if (end := _end_of_parent(story, entry)) is not None and ended_by(story, entry) is not None
    ]
    if not found:
        return None
    blow, parent = found[-1]
    end = ended_by(story, blow)
    return Verdict(
        "child_killed_with_parent",
        f"the child {who(blow.event.about)} was ended by {blow.body['signal']['name']} because its"
        f" parent {who(parent.event.about)} had ended before, with {ending(parent.body)}:"
        " PR_SET_PDEATHSIG",
        Certainty.CERTAIN,
        tuple(entry for entry in (parent, blow, end) if entry is not None),
        "look why the parent ended; prctl(PR_SET_PDEATHSIG), setpriv --pdeathsig and"
        " --die-with-parent bind a process to whoever started it; Kubernetes shows nothing as long"
        " as the first process lives",
    )


def _end_of_parent(story: Story, blow: Entry[SignalBody]) -> Entry[ExitBody] | None:
    """The exit of the signal's sender, if it came before the signal.

    An ended process sends nothing by itself. The child's own description may be younger than the
    parent's end, so its ancestry is not used. An orderly end takes its children with it and does
    not count.
    """
    child, sender = blow.event.about, blow.event.by
    if child is None or sender is None or blow.body["origin"] != "same-container":
        return None
    if not took_effect(blow) or is_stopping(story, blow):
        return None
    ends = [
        entry
        for entry in story.of("exit")
        if entry is not story.end
        and entry.event.about is not None
        and entry.event.about.pid == sender.pid
        and sender.start_boot_ns in (entry.event.about.start_boot_ns, None)
        and entry.boot_ns <= blow.boot_ns
    ]
    return ends[-1] if ends and not was_asked(story, sender, blow.boot_ns) else None


CAUSE = Cause(24, _judge, rests_on=frozenset(("signals", "exits")))
