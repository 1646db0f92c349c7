# SPDX-License-Identifier: Apache-2.0
"""A preStop hook ran before the stop. An unfinished hook uses up the grace period and leaves the
program only the two seconds that a kubelet always grants."""

from __future__ import annotations

from tracer.model.units import span
from tracer.why.common.commands import quoted
from tracer.why.common.kubectl import describe, kubectl
from tracer.why.reason import Finder, Reason, Stop


def _find(stop: Stop) -> Reason | None:
    hook = stop.hook
    if hook is None or hook.about is None or hook.about.start_boot_ns is None:
        return None
    command, place = quoted(hook.about), stop.story.place
    ran = stop.first.boot_ns - hook.about.start_boot_ns
    finished = hook.boot_ns <= stop.first.boot_ns
    name = stop.first.body["signal"]["name"]
    if finished:
        words = f"preStop hook {command} ran for {span(ran)} before {name}"
    else:
        words = f"preStop hook {command} had not finished after {span(ran)}, when {name} came"
    return Reason(
        "pre_stop_hook",
        words,
        f"{command} was a preStop hook",
        "its descent from the runtime and the order of events; kubectl exec looks the same",
        tuple(entry for entry in stop.story.entries if entry.event is hook),
        ("" if finished else "let the hook end well within terminationGracePeriodSeconds; ")
        + f"the hook stands in {kubectl('get pod', place)} -o yaml, and {describe(place)} tells"
        " whether it failed",
    )


FINDER = Finder(20, _find)
