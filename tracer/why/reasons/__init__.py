# SPDX-License-Identifier: Apache-2.0
"""Why the runtime was told to stop a container. Each module here knows one reason and describes
itself with `FINDER`; no other list of them exists.

The kernel sees how a stop proceeds, but only Kubernetes knows who ordered it. Still, the events
just before it often show the reason: a refused probe, an unfinished hook. Every finder is asked
about every stop, and the reasons go before the verdict.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from tracer.model.event import Event, Process
from tracer.probes.exits import ExitBody
from tracer.probes.signals import SignalBody
from tracer.why.common.stopped import deciding_blow, request
from tracer.why.entry import Entry
from tracer.why.executed import command_of, is_executed
from tracer.why.reason import AT_ONCE_NS, Finder, Reason, Stop
from tracer.why.story import Story


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


@cache
def _finders() -> tuple[Finder, ...]:
    every = [importlib.import_module(f"{__name__}.{name}").FINDER for name in names()]
    return tuple(sorted(every, key=lambda finder: finder.order))


def stop_of(story: Story) -> Stop | None:
    first = request(story) or deciding_blow(story)
    if first is None:
        return None
    hook = _hook(story, first)
    started = hook.about.start_boot_ns if hook and hook.about else None
    return Stop(story, first, hook, started or first.boot_ns)


def reasons_of(stop: Stop) -> list[Reason]:
    return [reason for finder in _finders() if (reason := finder.find(stop)) is not None]


def _hook(story: Story, first: Entry[SignalBody]) -> Event[ExitBody] | None:
    """The exit of a command that the runtime executed once and that ran at least until the stop's
    first signal. A probe would come again."""
    exits = [entry.event for entry in story.of("exit") if entry.count == 1]
    found = [event for event in (*exits, *story.outlived) if _ran_until(event, first)]
    once = [event for event in found if _is_only_one(story, event)]
    return once[-1] if once else None


def _ran_until(event: Event[ExitBody], first: Entry[SignalBody]) -> bool:
    process = event.about
    if process is None or process.start_boot_ns is None or not is_executed(process):
        return False
    return process.start_boot_ns < first.boot_ns and first.boot_ns - event.boot_ns <= AT_ONCE_NS


def _is_only_one(story: Story, event: Event[ExitBody]) -> bool:
    assert event.about is not None
    command = command_of(event.about)
    others = [
        entry
        for entry in story.of("exit")
        if entry.event is not event and _is_command(entry.event.about, command)
    ]
    return not others


def _is_command(process: Process | None, command: object) -> bool:
    return process is not None and is_executed(process) and command_of(process) == command
