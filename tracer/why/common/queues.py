# SPDX-License-Identifier: Apache-2.0
"""How verdicts describe full queues of listening sockets."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.probes.backlog import DropBody
from tracer.why.common.phrases import who
from tracer.why.entry import Entry
from tracer.why.story import Story


def drops(story: Story, queue: str) -> list[Entry[DropBody]]:
    return [entry for entry in story.of("backlog_drop") if entry.body["queue"] == queue]


def where(found: Sequence[Entry[DropBody]]) -> str:
    """The ports of the queues. If several dropped at once, some may have no name."""
    named = [port for entry in found if (port := entry.body["local"]["port"])]
    if not named:
        return ""
    ports = sorted(set(named))
    several = f"ports {', '.join(map(str, ports[:3]))}{' and others' * (len(ports) > 3)}"
    unnamed = " and one that cannot be named" if len(named) < len(found) else ""
    return f" at {f'port {ports[0]}' if len(ports) == 1 else several}{unnamed}"


def depth(found: Sequence[Entry[DropBody]]) -> str:
    """The queue's depth and limit at the port with the most drops."""
    most = max(found, key=lambda entry: entry.count)
    depth, limit = most.last.body["depth"], most.last.body["limit"]
    if limit is None:
        return ""
    if depth is None or depth < limit:  # sampled after the storm
        return f" (limit {limit})"
    return f" ({depth} waiting, limit {limit})"


def listener(found: Sequence[Entry[DropBody]]) -> str:
    most = max(found, key=lambda entry: entry.count)
    process = most.last.about or most.event.about
    return f"; {who(process)} listens there" if process else ""
