# SPDX-License-Identifier: Apache-2.0
"""The first process passed the runtime's SIGTERM to an intermediate child, mostly a shell. That
child ended, and the program behind it never got the signal, as with `npm start`."""

from __future__ import annotations

from tracer.model.event import Process
from tracer.probes.exits import ExitBody
from tracer.probes.signals import SignalBody
from tracer.why.cause import Cause
from tracer.why.common.children import parent_of
from tracer.why.common.commands import quoted
from tracer.why.common.phrases import executes_others, who
from tracer.why.common.stopped import between, request
from tracer.why.entry import Entry, took_effect
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

# How soon after its own start a shell starts its program.
AT_ONCE_NS = 1_000_000_000


def _judge(story: Story) -> Verdict | None:
    asked = request(story)
    if asked is None or story.end is None or not took_effect(asked):
        return None
    found = [one for entry in story.of("signal") if (one := _passed(story, asked, entry))]
    if not found:
        return None
    passed, ended, unasked = found[-1]
    name, later = asked.body["signal"]["name"], between(asked, story.end)
    return Verdict(
        "stop_not_passed_on",
        f"stopped by the runtime: {name} reached {who(story.init)}, which passed it on to"
        f" {who(passed.event.about)}; that ended by it, and {who(unasked)}, which it"
        f" {'had' if _is_below(unasked, passed.event.about) else 'most likely had'} started,"
        f" never got one: it was killed with the container {later} after {name}",
        Certainty.LIKELY,
        (asked, passed, ended, story.end),
        f"start the program itself {quoted(unasked)} as the container's command, instead of a shell"
        " or npm in front of it, or exec it in the script: then it gets the signal",
        ("which of the processes was to be asked is told by who started whom",),
    )


def _passed(
    story: Story, asked: Entry[SignalBody], entry: Entry[SignalBody]
) -> tuple[Entry[SignalBody], Entry[ExitBody], Process] | None:
    """The signal that was passed on, the exit of its target, and the program that the target had
    started."""
    child, number = entry.event.about, asked.body["signal"]["number"]
    if child is None or entry.boot_ns < asked.boot_ns or not story.is_init(entry.event.by):
        return None
    if entry.body["signal"]["number"] != number or story.is_init(child):
        return None
    ends = [one for one in story.of("exit") if _is_end(one, child, number)]
    left = [one for one in story.survivors if not _got(story, one)]
    unasked = [one for one in left if _is_below(one, child)] or [
        one for one in left if _may_be_orphan(story, one, child)
    ]
    return (entry, ends[-1], unasked[0]) if ends and unasked else None


def _is_end(entry: Entry[ExitBody], child: Process, number: int) -> bool:
    about, signal = entry.event.about, entry.body["signal"]
    if about is None or about.pid != child.pid or signal is None:
        return False
    return bool(signal["number"] == number)


def _is_below(process: Process, child: Process | None) -> bool:
    return child is not None and any(pid == child.pid for pid, _ in process.ancestry)


def _may_be_orphan(story: Story, process: Process, child: Process) -> bool:
    """Whether it may have been a child of the intermediate process. Orphans are reparented to the
    first process, and a renamed process is described anew, so its parent is not known. A shell
    starts programs and lives no longer than they."""
    began, its_own = child.start_boot_ns, process.start_boot_ns
    init = story.init
    return (
        executes_others(child)
        and init is not None
        and parent_of(process) == init.pid
        and began is not None
        and its_own is not None
        and began <= its_own <= began + AT_ONCE_NS
    )


def _got(story: Story, process: Process) -> bool:
    """Whether it got a signal that may have ended it."""
    return any(took_effect(entry) for entry in story.signals(process))


CAUSE = Cause(74, _judge, was_ordered=True)
