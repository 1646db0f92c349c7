# SPDX-License-Identifier: Apache-2.0
"""The kubelet's own words when it stops a container, if nothing says more."""

from __future__ import annotations

from tracer.why.statement import Hearing, Listener, Statement, last, quoted

_PLAIN = "Stopping container "


def _hear(hearing: Hearing) -> Statement | None:
    stop = hearing.stop
    if stop is None:
        return None
    event = last(
        event
        for event in hearing.events("Killing", "SandboxChanged", "FailedPostStartHook")
        if hearing.near(event, stop.decided_ns)
    )
    if event is None:
        return None
    means = ", as of a pod that is deleted" if event.message.startswith(_PLAIN) else ""
    return Statement(f"{quoted(event.message)}{means}")


LISTENER = Listener(90, _hear)
