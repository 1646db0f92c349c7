# SPDX-License-Identifier: Apache-2.0
"""Processes that SIGSTOP has stopped and nothing has continued."""

from __future__ import annotations

from tracer.model.event import Process
from tracer.probes.signals import SignalBody
from tracer.why.entry import Entry, took_effect
from tracer.why.story import Story

STOP, CONTINUE = "SIGSTOP", "SIGCONT"


def suspension(story: Story, process: Process | None, until_ns: int) -> Entry[SignalBody] | None:
    """The SIGSTOP that holds the process at that moment, as far as seen."""
    signals = [entry for entry in story.signals(process) if entry.boot_ns <= until_ns]
    stops = [entry for entry in signals if _is(entry, STOP) and took_effect(entry)]
    if not stops:
        return None
    last = max(stops, key=lambda entry: entry.last_ns)
    went_on = [entry for entry in signals if _is(entry, CONTINUE)]
    continued = any(entry.last_ns >= last.last_ns for entry in went_on)
    return None if continued else last


def _is(entry: Entry[SignalBody], name: str) -> bool:
    return bool(entry.body["signal"]["name"] == name)
