# SPDX-License-Identifier: Apache-2.0
"""The container runtime stopped the container: how far that went."""

from __future__ import annotations

from tracer.model.units import span
from tracer.probes.signals import SignalBody
from tracer.why.entry import SIGKILL, Entry, took_effect
from tracer.why.story import Story

ASK = ("SIGTERM", "SIGINT", "SIGQUIT")
# Programs that answer this signal with a report and go on: for a JVM, jstack and jcmd send it.
REPORT, REPORTING = "SIGQUIT", ("java",)


def asks_to_end(entry: Entry[SignalBody]) -> bool:
    """Whether the signal asks the process that it reached to end."""
    name, about = entry.body["signal"]["name"], entry.event.about
    program = ((about and about.exe) or "").rpartition("/")[2]
    if name == REPORT and program in REPORTING:
        return False
    return name in ASK and took_effect(entry)


def request(story: Story) -> Entry[SignalBody] | None:
    """The last signal by which the runtime asked the first process to end: mostly SIGTERM."""
    asked = [
        entry
        for entry in story.signals()
        if entry.body["origin"] == "runtime" and entry.body["signal"]["number"] != SIGKILL
    ]
    return asked[-1] if asked else None


def final_blow(story: Story) -> Entry[SignalBody] | None:
    """The runtime's SIGKILL, if it is what ended the first process."""
    blow = story.blow()
    if blow is None or blow.body["signal"]["number"] != SIGKILL:
        return None
    return blow if blow.body["origin"] == "runtime" else None


def deciding_blow(story: Story) -> Entry[SignalBody] | None:
    """The signal by which the runtime or the kubelet ended the first process."""
    blow = story.blow()
    return blow if blow is not None and blow.body["origin"] in ("runtime", "kubelet") else None


def between(first: Entry, last: Entry) -> str:
    return span(last.boot_ns - first.boot_ns)
