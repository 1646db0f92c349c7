# SPDX-License-Identifier: Apache-2.0
"""The kubelet's events about a pod, as kubectl describe shows them: failed probes and evictions."""

from __future__ import annotations

import re

from tracer.decode.kind import Answer, Kernel, Kind
from tracer.decode.lines import Line

# pkg/kubelet/prober/prober.go
_PROBE = re.compile(
    r"\b(?P<which>Liveness|Readiness|Startup) probe (?P<how>failed|errored)"
    r"(?: and resulted in unknown state)?:? ?(?P<why>[^\n]{0,400})"
)
# pkg/kubelet/kuberuntime/kuberuntime_manager.go
_RESTART = re.compile(
    r"Container (?P<name>[\w.-]{1,63}) failed (?P<which>liveness|startup) probe,"
    r" will be restarted"
)
# pkg/kubelet/eviction
_LOW = re.compile(r"The node was low on resource: (?P<what>[\w./-]{1,64}[\w])")
_OVER = re.compile(
    r"Usage of EmptyDir volume \"(?P<volume>[\w.-]{1,253})\" exceeds the limit|"
    r"Pod ephemeral local storage usage exceeds the total limit|"
    r"Container (?P<name>[\w.-]{1,63}) exceeded its local ephemeral storage limit"
)
_THEN = {
    "Liveness": "after failureThreshold failures in a row the kubelet restarts the container",
    "Readiness": "the pod gets no traffic of its Services until it succeeds; nothing is restarted",
    "Startup": "after failureThreshold failures in a row the kubelet restarts the container",
}


def _read(line: Line, _kernel: Kernel) -> Answer | None:
    if found := _RESTART.search(line.text):
        return [
            f"the kubelet stops container {found['name']} because its {found['which']} probe"
            " failed: SIGTERM, then SIGKILL when the grace period is over",
            "why the probe failed: ktrace why POD",
        ]
    if found := _LOW.search(line.text):
        return [
            f"the kubelet evicted the pod because the node lacked {found['what']}: its processes"
            " were killed, whatever the pod's own limits",
            "the pods that use more than they requested go first",
        ]
    if found := _OVER.search(line.text):
        what = "its containers used more local storage than they may together"
        if found["volume"]:
            what = f"its emptyDir {found['volume']} is larger than its sizeLimit"
        elif found["name"]:
            what = f"container {found['name']} used more local storage than its limit"
        return [f"the kubelet evicted the pod because {what}: it was not the node that lacked disk"]
    if found := _PROBE.search(line.text):
        which, why = found["which"], found["why"].strip()
        because = f": {why}" if why else ""
        if found["how"] == "errored":
            return [
                f"the kubelet could not make its {which.lower()} probe{because}",
                "it counts as neither success nor failure: nothing is restarted for it",
            ]
        return [f"the kubelet's {which.lower()} probe failed{because}", _THEN[which]]
    return None


KIND = Kind(_read, marks=(" probe", "low on resource", "exceed"), rank=35)
