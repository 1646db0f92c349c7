# SPDX-License-Identifier: Apache-2.0
"""The pod had to make room for one that is more important."""

from __future__ import annotations

from tracer.why.statement import Hearing, Listener, Statement, last, quoted


def _hear(hearing: Hearing) -> Statement | None:
    event = last(hearing.events("Preempted", "Preempting"))
    if event is None:
        return None
    return Statement(
        f"the pod was preempted: {quoted(event.message)}",
        remedy="give it a priorityClassName that is as high, or add nodes",
    )


LISTENER = Listener(11, _hear)
