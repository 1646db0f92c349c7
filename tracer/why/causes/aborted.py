# SPDX-License-Identifier: Apache-2.0
"""The program gave up by itself with abort(3): a failed assertion, a failed allocation or a
runtime's panic."""

from __future__ import annotations

from tracer.probes.exits import ExitBody
from tracer.probes.signals import SignalBody
from tracer.why.cause import Cause
from tracer.why.common.faults import ABORT, abort_calls, kernel_fault_before, own_fault, reason
from tracer.why.common.kubectl import logs
from tracer.why.common.phrases import ending, executes_others, who
from tracer.why.entry import Entry
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

# abort(3) raises its signal first, then faults. A runtime that handles even that fault may write a
# long report before it exits. If the program executes no others, the exit code alone proves
# abort(3).
AT_ONCE_NS, LEAVING_NS = 100_000_000, 2_000_000_000
# abort(3) exits with this code if its fault is handled as well.
LAST_RESORT = 127


def _judge(story: Story) -> Verdict | None:
    calls, end = abort_calls(story), story.end
    last = _last_act(story)
    if last is None or not calls or end is None:
        return None
    leaves = last is end and not executes_others(story.init)
    if last.boot_ns - calls[-1].last_ns > (LEAVING_NS if leaves else AT_ONCE_NS):
        return None
    raised = last.body["signal"] if last is not end else None
    direct = raised is not None and raised["name"] == ABORT
    ignored = "" if direct else f": SIGABRT, which PID 1 ignores, and then {_end(end)}"
    fault = kernel_fault_before(story, calls[-1]) if _is_java(story) else None
    doubts: tuple[str, ...]
    doubts = () if direct else ("that abort() made it end is told by the order of events",)
    if fault is not None:
        doubts += ("which fault it was for is told by the order of events",)
    return Verdict(
        "aborted",
        f"gave up by itself: {who(story.init)} called abort(){ignored}"
        + (f"; {_before(fault)}" if fault else ""),
        Certainty.LIKELY if doubts else Certainty.CERTAIN,
        tuple(dict.fromkeys((*([fault] if fault else []), calls[-1], last, end))),
        _remedy(story),
        doubts,
    )


def _last_act(story: Story) -> Entry[SignalBody] | Entry[ExitBody] | None:
    """The event by which abort(3) ended the first process: a signal, or its own exit."""
    if story.end is not None and story.end.body["exit_code"] == LAST_RESORT:
        return story.end
    return own_fault(story, (ABORT, "SIGSEGV", "SIGILL", "SIGTRAP"))


def _end(end: Entry[ExitBody]) -> str:
    return ending(end.body, explained=False)


def _before(fault: Entry[SignalBody]) -> str:
    name = fault.body["signal"]["name"]
    sender = "" if fault.event.by is None else f" from {who(fault.event.by)}"
    return f"it had got {name}{sender} just before{reason(fault)}"


def _is_java(story: Story) -> bool:
    """The JVM handles faults, writes a report and calls abort()."""
    exe = story.init.exe if story.init else None
    return exe is not None and exe.rpartition("/")[2] == "java"


def _remedy(story: Story) -> str:
    if _is_java(story):
        pid = story.init.pid_in_pod if story.init else None
        return (
            f"the JVM crashed, or was told to by a flag: hs_err_pid{pid or '*'}.log in its working"
            " directory has the place (-XX:ErrorFile=… puts it where it stays; its first lines are"
            f" in the log, too: {logs(story.place)})"
        )
    return (
        "an assertion or a failed allocation, said in the container's log just before:"
        f" {logs(story.place)}"
    )


CAUSE = Cause(61, _judge)
