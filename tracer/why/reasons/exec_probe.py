# SPDX-License-Identifier: Apache-2.0
"""An exec probe reached its failure threshold: its command ended badly, or the runtime killed it
for taking too long."""

from __future__ import annotations

from tracer.probes.exits import ExitBody
from tracer.probes.signals import SignalBody
from tracer.why.common.commands import quoted
from tracer.why.common.kubectl import events
from tracer.why.common.phrases import times
from tracer.why.entry import SIGKILL, Entry
from tracer.why.executed import is_executed
from tracer.why.reason import Finder, Reason, Stop

# A kubelet waits two minutes longer than the probe's own time-out.
HELD_UP_NS = 150_000_000_000


def _find(stop: Stop) -> Reason | None:
    found = [entry for entry in stop.story.of("exit") if _failed(stop, entry)]
    if not found:
        return None
    entry = max(found, key=lambda one: one.last_ns)
    command, again = quoted(entry.event.about), times(entry.count, "time")
    signal, killed = entry.body["signal"], _killed_by_runtime(stop, entry)
    if killed is not None:
        how, advice = f"took too long and was killed {again}", "raise its timeoutSeconds, or"
    elif signal is not None:
        how, advice = f"was ended {again} by {signal['name']}", "look who ended it, or"
    else:
        how, advice = f"failed {again} with exit code {entry.body['exit_code']}", "run it by hand,"
    return Reason(
        "exec_probe",
        f"liveness probe {command} {how}",
        f"{command} was a liveness or startup probe and the reason",
        "its descent from the runtime and the order of events",
        (entry, *([killed] if killed else [])),
        f"{advice} see what the probe does there; for Kubernetes' own word:"
        f" {events(stop.story.place)}",
        seen=f"{command} {how}",
    )


def _failed(stop: Stop, entry: Entry[ExitBody]) -> bool:
    """Whether the probe failed often enough. One kill for taking too long is enough, because a
    probe may have a failure threshold of one."""
    if entry is stop.story.end or entry.body["exit_code"] == 0 or entry.event is stop.hook:
        return False
    if not is_executed(entry.event.about):
        return False
    if not stop.came_just_before(entry) and not _was_held_up(stop, entry):
        return False
    regular = len(entry.gaps) < 2 or entry.period_ns is not None
    return regular and (entry.count > 1 or _killed_by_runtime(stop, entry) is not None)


def _was_held_up(stop: Stop, entry: Entry[ExitBody]) -> bool:
    """Whether a child of a killed command kept its output open. The runtime waits for that child
    and reports the probe's failure late to the kubelet."""
    killed = entry.last.about
    if killed is None or not 0 <= stop.decided_ns - entry.last_ns <= HELD_UP_NS:
        return False
    if _killed_by_runtime(stop, entry) is None:
        return False
    return any(pid == killed.pid for process in stop.story.survivors for pid, _ in process.ancestry)


def _killed_by_runtime(stop: Stop, entry: Entry[ExitBody]) -> Entry[SignalBody] | None:
    """The runtime's SIGKILL to the last command before the stop. A stop itself kills all at
    once."""
    signal, process = entry.last.body["signal"], entry.last.about
    if signal is None or signal["number"] != SIGKILL or process is None:
        return None
    blow = stop.story.deadly(SIGKILL, process)
    if blow is None or blow.body["origin"] != "runtime":
        return None
    by, first_by = blow.event.by, stop.first.event.by
    same = by is not None and first_by is not None and by.pid == first_by.pid
    return None if same else blow


FINDER = Finder(11, _find)
