# SPDX-License-Identifier: Apache-2.0
"""A supervisor in the container starts the same child again and again, and it fails each time. The
container runs, so Kubernetes shows nothing."""

from __future__ import annotations

from itertools import pairwise

from tracer.model.event import Process
from tracer.model.units import span
from tracer.probes.exits import ExitBody
from tracer.why.cause import Cause
from tracer.why.common.children import parent_of
from tracer.why.common.commands import quoted
from tracer.why.common.phrases import ending, executes_others, who
from tracer.why.entry import Entry
from tracer.why.executed import command_of, may_be_executed
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

# Two may be coincidence.
TIMES = 3


def _judge(story: Story) -> Verdict | None:
    rows: dict[object, list[Entry[ExitBody]]] = {}
    for entry in story.of("exit"):
        process = entry.event.about
        if process is not None and entry is not story.end and _is_child(process):
            rows.setdefault((command_of(process), parent_of(process)), []).append(entry)
    loops = [row for row in rows.values() if _is_loop(story, row)]
    if not loops:
        return None
    row = max(loops, key=lambda entries: entries[-1].boot_ns)
    last = row[-1]
    gaps = [after.boot_ns - before.boot_ns for before, after in pairwise(row)]
    shortest, longest = span(min(gaps)), span(max(gaps))
    apart = shortest if shortest == longest else f"{shortest} to {longest}"
    return Verdict(
        "child_loop",
        f"the same child is started again and again: {who(last.event.about)} ended {len(row)} times"
        f" with {ending(last.body)}, {apart} apart",
        Certainty.LIKELY,
        tuple(row),
        f"look at the child {quoted(last.event.about)}: its supervisor's log has what it printed;"
        " Kubernetes shows nothing as long as the supervisor lives",
        ("that a supervisor starts it again is told by the order of events",),
    )


def _is_child(process: Process) -> bool:
    """Whether its parent is no shell, which may run anything in a loop: `false` and `grep` answer
    by failing. Commands of the runtime have a verdict of their own."""
    parents = process.ancestry[:1]
    if not parents or may_be_executed(process) or not process.argv:
        return False
    return not executes_others(Process(parents[0][0], parents[0][0], parents[0][1]))


def _is_loop(story: Story, row: list[Entry[ExitBody]]) -> bool:
    """Whether each run began after the one before had ended, and all failed alike by themselves.
    Crashes have a verdict of their own."""
    codes = {entry.body["exit_code"] for entry in row}
    if len(row) < TIMES or len(codes) != 1 or codes & {0, None}:
        return False
    starts = [entry.event.about.start_boot_ns if entry.event.about else None for entry in row]
    return all(
        start is not None and start >= before.boot_ns
        for before, start in zip(row, starts[1:], strict=False)
    )


CAUSE = Cause(22, _judge, rests_on=frozenset(("exits",)))
