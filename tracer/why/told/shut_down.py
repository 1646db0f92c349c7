# SPDX-License-Identifier: Apache-2.0
"""The kubelet ended the pod and left its reason in the pod's status: a node that shuts down, a
deadline."""

from __future__ import annotations

from tracer.why.statement import Hearing, Listener, Statement, named, quoted


def _hear(hearing: Hearing) -> Statement | None:
    pod = hearing.told.pod
    if hearing.stop is None or pod is None or not pod.reason or pod.phase != "Failed":
        return None
    words = f" ({quoted(pod.message)})" if pod.message else ""
    return Statement(f"the pod failed with {named(pod.reason)}{words}")


LISTENER = Listener(20, _hear)
