# SPDX-License-Identifier: Apache-2.0
"""Children of the container's first process that did not end well."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.event import Process
from tracer.timeline import Entry, Story
from tracer.verdicts._faults import ABORT, FAULTS
from tracer.verdicts._senders import is_foreign

# A pool that has lost a worker, or a shell whose pipe broke, gives up at once.
AT_ONCE_NS = 100_000_000


@dataclass(frozen=True, slots=True)
class Lost:
    """A child that was taken by the OOM killer, crashed, or was killed by somebody else: its end,
    and what it ended by."""

    end: Entry
    oom: Entry | None
    blow: Entry | None

    @property
    def evidence(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in (self.oom, self.oom is None and self.blow) if entry)


def own_blow(story: Story, entry: Entry) -> Entry | None:
    """The fault of a child, or what it raised itself, by which it ended."""
    signal, child = entry.body["signal"], entry.event.about
    if child is None or signal is None or signal["name"] not in (*FAULTS, ABORT):
        return None
    blow = story.deadly(signal["number"], child)
    if blow is None:
        return None
    by_itself = blow.event.by is not None and blow.event.by.pid == child.pid
    return blow if by_itself or blow.body["origin"] == "kernel" else None


def oom_of(story: Story, process: Process) -> Entry | None:
    ooms = [
        entry
        for entry in story.of("oom")
        if entry.event.about is not None and entry.event.about.pid == process.pid
    ]
    return ooms[-1] if ooms else None


def lost_child(story: Story) -> Lost | None:
    """The last that was lost just before the first process ended by itself."""
    end = story.end
    if end is None or end.body["exit_code"] is None:
        return None
    found = [
        lost
        for entry in story.of("exit")
        if entry is not end
        and entry.body["signal"] is not None
        and 0 <= end.boot_ns - entry.last.boot_ns <= AT_ONCE_NS
        and (lost := _lost(story, entry)) is not None
    ]
    return found[-1] if found else None


def _lost(story: Story, entry: Entry) -> Lost | None:
    child = entry.event.about
    if child is None:
        return None
    oom = oom_of(story, child)
    blow = own_blow(story, entry)
    if blow is None:
        deadly = story.deadly(entry.body["signal"]["number"], child)
        blow = deadly if deadly is not None and is_foreign(deadly) else None
    return Lost(entry, oom, blow) if oom or blow else None
