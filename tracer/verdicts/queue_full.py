# SPDX-License-Identifier: Apache-2.0
"""Connections turned away because the accept queue or the SYN queue was full."""

from __future__ import annotations

from tracer.timeline import Entry, Story
from tracer.verdicts import Cause, Certainty, Verdict
from tracer.verdicts._phrases import times, who

_REMEDIES = {
    "accept": "the program accepts too slowly, or not at all: look at what it does (a thread pool"
    " that is full, a pause of the garbage collector); a longer backlog in listen(), up to"
    " net.core.somaxconn, only bridges peaks",
    "syn": "more connections are being opened than answered: net.ipv4.tcp_max_syn_backlog and"
    " net.ipv4.tcp_syncookies, or a flood of SYNs",
}


def _judge(story: Story) -> Verdict | None:
    found = [entry for entry in story.of("backlog_drop") if entry.body["queue"] in _REMEDIES]
    if not found:
        return None
    most = max(found, key=lambda entry: entry.count)
    queue = most.body["queue"]
    listener = most.last.about or most.event.about
    port = most.body["local"]["port"]
    return Verdict(
        f"{queue}_queue_full",
        f"{times(most.count, 'connection')} turned away"
        f"{f' at port {port}' if port else ''}: the {queue} queue was full{_depth(most)}"
        + (f"; {who(listener)} listens there" if listener else ""),
        Certainty.CERTAIN,
        tuple(found),
        _REMEDIES[queue],
    )


def _depth(entry: Entry) -> str:
    depth, limit = entry.last.body["depth"], entry.last.body["limit"]
    if limit is None:
        return ""
    if depth is None or depth < limit:  # looked at when the storm was over
        return f" (limit {limit})"
    return f" ({depth} waiting, limit {limit})"


CAUSE = Cause(18, _judge, rests_on=frozenset(("backlog",)))
