# SPDX-License-Identifier: Apache-2.0
"""The pod was deleted: by its controller, or by whoever asked for it."""

from __future__ import annotations

from tracer.why.statement import NEAR_NS, Hearing, Listener, Statement, last, named

SETTLES = frozenset(("least_grace",))


def _hear(hearing: Hearing) -> Statement | None:
    if hearing.stop is None:
        return None
    by = last(
        event
        for event in hearing.told.events
        if event.kind != "Pod" and event.reason == "SuccessfulDelete"
    )
    pod = hearing.told.pod
    asked = pod.deleted_ns if pod else None
    if asked is not None and hearing.told.boot_ns(asked) > hearing.stop.decided_ns + NEAR_NS:
        asked = None
    if by is None and asked is None:
        return None
    who = f" by {named(by.kind)} {named(by.name)}" if by else ""
    if pod is None or asked is None:
        return Statement(f"the pod was deleted{who}, as at a rollout or when scaled down")
    grace = pod.deletion_grace
    asks = "" if pod.grace in (grace, None) else f", not the {pod.grace} s that the pod asks for"
    return Statement(f"the pod was deleted{who} with {grace} s of grace{asks}", settles=SETTLES)


LISTENER = Listener(50, _hear)
