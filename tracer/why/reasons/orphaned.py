# SPDX-License-Identifier: Apache-2.0
"""The kubelet was restarted after the container started, and kills the rest of a pod that was
deleted meanwhile."""

from __future__ import annotations

from tracer.model.units import span
from tracer.why.common.kubectl import kubectl
from tracer.why.reason import Finder, Reason, Stop

# A kubelet looks for orphans every two seconds once it knows its pods.
SOON_NS = 300_000_000_000


def _find(stop: Stop) -> Reason | None:
    kubelet, init = stop.first.event.by, stop.story.init
    if stop.first.body["origin"] != "kubelet" or kubelet is None or init is None:
        return None
    if kubelet.start_boot_ns is None or init.start_boot_ns is None:
        return None
    age = stop.first.boot_ns - kubelet.start_boot_ns
    if kubelet.start_boot_ns <= init.start_boot_ns or age > SOON_NS:
        return None
    return Reason(
        "orphaned",
        f"orphaned: the kubelet was restarted {span(age)} before and did not know the pod any more",
        "the pod had been deleted while the kubelet did not run",
        "the kubelet's start, which is later than the container's",
        (stop.first,),
        f"see whether the pod is there still: {kubectl('get pod', stop.story.place)}",
    )


FINDER = Finder(5, _find)
