# SPDX-License-Identifier: Apache-2.0
"""A command that the runtime executes in the container fails again and again: an exec probe. The
container lives on; Kubernetes removes it from its services and does not show the exit code."""

from __future__ import annotations

import shlex

from tracer.model.units import span
from tracer.probes.exits import ExitBody
from tracer.why.cause import Cause
from tracer.why.common.kubectl import kubectl
from tracer.why.common.phrases import code_words, times
from tracer.why.common.starting import is_preparing
from tracer.why.entry import SIGKILL, Entry
from tracer.why.executed import may_be_executed
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

# Two may be a person who retries.
TIMES = 3
MAX_COMMAND = 120


def _judge(story: Story) -> Verdict | None:
    failing = [entry for entry in story.of("exit") if _fails_regularly(story, entry)]
    if not failing:
        return None
    entry = max(failing, key=lambda one: one.last_ns)
    period = entry.period_ns
    assert period is not None
    return Verdict(
        "exec_probe_failing",
        f"{_what(entry)}, every {span(period)}: likely a readiness or liveness exec probe",
        Certainty.LIKELY,
        tuple(failing),
        f"{_try_it(story, entry)}; {kubectl('describe pod', story.place)} has what it printed,"
        " under Unhealthy",
        ("that it is a probe is told by its descent from the runtime and by its rhythm",),
    )


def _fails_regularly(story: Story, entry: Entry[ExitBody]) -> bool:
    process = entry.event.about
    return (
        entry is not story.end
        and entry.body["exit_code"] != 0
        and entry.count >= TIMES
        and entry.period_ns is not None
        and process is not None
        and may_be_executed(process)
    )


def _what(entry: Entry[ExitBody]) -> str:
    if is_preparing(entry.event.about):
        return f"the runtime failed {times(entry.count, 'time')} to execute a command there"
    process = entry.event.about
    command = f"a command that the runtime executed in this container{_command(entry)}"
    signal, code = entry.body["signal"], entry.body["exit_code"]
    if signal is None:
        assert code is not None
        return f"{command} failed {times(entry.count, 'time')} with exit code {code}" + (
            code_words(code, process)
        )
    late = ", perhaps because it took too long" if signal["number"] == SIGKILL else ""
    return f"{command} was ended {times(entry.count, 'time')} by {signal['name']}{late}"


def _command(entry: Entry[ExitBody]) -> str:
    process = entry.event.about
    if process is None or not process.argv:
        return ""
    words = shlex.join(process.argv)
    return f" ({words if len(words) <= MAX_COMMAND else words[: MAX_COMMAND - 1] + '…'})"


def _try_it(story: Story, entry: Entry[ExitBody]) -> str:
    process = entry.event.about
    if is_preparing(process) or process is None or not process.argv:
        return "does the image have the command?"
    command = kubectl("exec", story.place, container=True)
    return f"run it by hand: {command} -- {shlex.join(process.argv)}"


CAUSE = Cause(21, _judge, rests_on=frozenset(("exits",)))
