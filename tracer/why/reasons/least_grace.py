# SPDX-License-Identifier: Apache-2.0
"""SIGKILL came two seconds after SIGTERM: a kubelet's minimum, whatever grace period was asked
for."""

from __future__ import annotations

from tracer.why.common.kubectl import kubectl
from tracer.why.common.stopped import final_blow, request
from tracer.why.reason import Finder, Reason, Stop

# A kubelet's minimum. The runtime starts a program for each signal, which adds a little, or more on
# a busy node. A grace period of three seconds is never shorter than three.
LEAST_NS, NEXT_NS = 2_000_000_000, 3_000_000_000


def _find(stop: Stop) -> Reason | None:
    asked, blow = request(stop.story), final_blow(stop.story)
    if asked is None or blow is None or stop.story.place.identity.pod_uid is None:
        return None
    if stop.hook is not None or not LEAST_NS < blow.boot_ns - asked.boot_ns < NEXT_NS:
        return None
    return Reason(
        "least_grace",
        "given 2 s only, as when a deletion is forced",
        "kubectl delete --force --grace-period=0 was the reason",
        "the time between the two signals; terminationGracePeriodSeconds: 2 looks the same",
        (asked, blow),
        "without --grace-period=0 it gets the time that the pod asks for:"
        f" {kubectl('get pod', stop.story.place)} -o yaml (terminationGracePeriodSeconds)",
    )


FINDER = Finder(30, _find)
