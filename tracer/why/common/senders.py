# SPDX-License-Identifier: Apache-2.0
"""Senders of signals that are not the container's own programs: processes outside, or commands that
the runtime executed in the container."""

from __future__ import annotations

from tracer.probes.signals import SignalBody
from tracer.why.common.phrases import descent, where, who
from tracer.why.entry import Entry
from tracer.why.executed import is_from_executed

INSIDE = "same-container"
OUTSIDE = ("same-pod", "other-pod", "host")
_COMMAND = "a command that the runtime executed there: kubectl exec, a probe or a hook"
DOUBT = "that the runtime executed the sender is told by its descent"


def is_executed_sender(entry: Entry[SignalBody]) -> bool:
    """Whether a command executed beside the container's own program sent it."""
    inside = entry.body["origin"] == INSIDE
    return inside and is_from_executed(entry.event.by, entry.event.about)


def is_foreign(entry: Entry[SignalBody]) -> bool:
    """Whether the sender is foreign. A program may signal its own processes freely."""
    return entry.body["origin"] in OUTSIDE or is_executed_sender(entry)


def sender_of(entry: Entry[SignalBody]) -> str:
    """`kill[12] (/bin/kill) on the host, started by bash[9]`."""
    place = where(entry) + (f", {_COMMAND}" if is_executed_sender(entry) else "")
    return f"{who(entry.event.by)} {place}{descent(entry.event.by)}"


def doubts_of(entry: Entry[SignalBody]) -> tuple[str, ...]:
    return (DOUBT,) if is_executed_sender(entry) else ()
