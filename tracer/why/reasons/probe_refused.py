# SPDX-License-Identifier: Apache-2.0
"""A liveness or startup probe on a port without a listener reached its failure threshold."""

from __future__ import annotations

from tracer.probes.resets import CLOSED_PORT, ResetBody
from tracer.why.common.kubectl import events
from tracer.why.common.phrases import times
from tracer.why.common.resets import is_of_resets, peers
from tracer.why.entry import Entry
from tracer.why.reason import Finder, Reason, Stop

# Fewer may be any client's attempts.
TIMES = 2


def _find(stop: Stop) -> Reason | None:
    shared = (entry for entry in stop.story.network if is_of_resets(entry))
    every = dict.fromkeys((*stop.story.of("tcp_reset"), *shared))
    found = [entry for entry in every if _is_of_a_probe(stop, entry)]
    if not found:
        return None
    entry = max(found, key=lambda one: one.last_ns)
    port = entry.body["local"]["port"]
    return Reason(
        "probe_refused",
        f"liveness probe of port {port} refused {times(entry.count, 'time')}",
        f"a liveness or startup probe of port {port} was the reason",
        f"the order of events: {peers([entry])}, which is no pod, was refused just before",
        (entry,),
        "compare the probe's port with what the program listens on (ss -ltn in the container), and"
        " give it time to start (startupProbe, initialDelaySeconds); for Kubernetes' own word:"
        f" {events(stop.story.place)}",
        seen=f"nothing listened on port {port}: {times(entry.count, 'attempt')} to connect refused",
    )


def _is_of_a_probe(stop: Stop, entry: Entry[ResetBody]) -> bool:
    """Whether the attempts are regular and come from the node's own address, which belongs to no
    pod, as the kubelet's do."""
    if entry.count < TIMES:
        return False
    if not (stop.came_just_before(entry) or stop.ceased(entry)):
        return False
    body, place = entry.body, entry.last.by_place
    refused = body["direction"] == "sent" and body["meaning"] == CLOSED_PORT
    from_pod = place is not None and place.identity.pod_uid is not None
    regular = len(entry.gaps) < 2 or entry.period_ns is not None
    return refused and not from_pod and regular


FINDER = Finder(10, _find)
