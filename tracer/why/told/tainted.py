# SPDX-License-Identifier: Apache-2.0
"""The pod was deleted because it does not tolerate a taint of its node, as when the node was not
ready."""

from __future__ import annotations

from tracer.why.statement import Hearing, Listener, Statement, last, quoted


def _hear(hearing: Hearing) -> Statement | None:
    event = last(
        event
        for event in hearing.events("TaintManagerEviction")
        if not event.message.startswith("Cancelling")
    )
    if event is None:
        return None
    ready = last(hearing.events("NodeNotReady"))
    why = f" ({quoted(ready.message)})" if ready else ""
    return Statement(
        f"the pod was deleted because of a taint of its node{why}",
        remedy="kubectl describe node shows the taints; tolerationSeconds gives it time",
    )


LISTENER = Listener(12, _hear)
