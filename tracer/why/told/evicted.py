# SPDX-License-Identifier: Apache-2.0
"""The kubelet or a person evicted the pod: the node lacked something, or a volume was too large."""

from __future__ import annotations

from tracer.why.statement import Hearing, Listener, Statement, last, quoted


def _hear(hearing: Hearing) -> Statement | None:
    event = last(hearing.events("Evicted"))
    pod = hearing.told.pod
    if event is not None and event.message:
        words = event.message
    elif pod is not None and pod.reason == "Evicted":
        words = pod.message
    elif event is None:
        return None
    else:
        words = ""
    return Statement(
        "the pod was evicted" + (f": {quoted(words)}" if words else ""),
        remedy="pods that use more than they request go first: raise its requests, or free the node"
        if "low on resource" in words
        else "",
    )


LISTENER = Listener(10, _hear)
