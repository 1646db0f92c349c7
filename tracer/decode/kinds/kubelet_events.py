# SPDX-License-Identifier: Apache-2.0
"""The kubelet's events about a pod, as kubectl describe shows them: failed probes and hooks,
evictions, restarts, sandboxes that cannot be made."""

from __future__ import annotations

import re
import shlex

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
# pkg/kubelet/kuberuntime, with the pod since 1.27
_BACK_OFF = re.compile(
    r"[Bb]ack-off (?:\d[\dhms]{0,16} )?restarting failed container"
    r"(?:[= ](?P<name>[a-z0-9-]{1,63}) (?:in )?pod[= ](?P<pod>[a-z0-9.-]{1,253})_"
    r"(?P<namespace>[a-z0-9-]{1,63})\()?"
)
_HOOK = re.compile(r"\b(?:Failed)?(?P<which>PreStop|PostStart)Hook(?: failed|(?=\s))")
# pkg/kubelet/kuberuntime/kuberuntime_container.go, killContainer(): in words until 1.18
_KILLING = re.compile(
    r"Killing container \"?(?P<id>[\w.-]{1,32}://[0-9a-f]{12,64})\"? with (?P<seconds>-?\d{1,9})"
    r"[ -]second grace period|"
    r"Killing container with a grace period[\" ](?:[^\n]{0,100}?pod=\"(?P<pod>[\w./-]{1,320})\")?"
    r"[^\n]{0,200}?containerName=\"(?P<name>[\w.-]{1,63})\"[^\n]{0,200}?"
    r"gracePeriod=(?P<period>-?\d{1,9})"
)
_STOPPING = re.compile(r"\bStopping container (?P<name>[a-z0-9-]{1,63})\s*\Z")
_SANDBOX = re.compile(
    r"Failed to create pod sandbox: (?:rpc error: code = \w{1,32} desc = )?(?P<why>[^\n]{1,400})"
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
    if found := _BACK_OFF.search(line.text):
        return _backed_off(found)
    if found := _KILLING.search(line.text):
        what = f"container {found['name'] or found['id']}"
        what += f" of pod {found['pod']}" if found["pod"] else ""
        seconds = found["seconds"] or found["period"]
        return [
            f"the kubelet stops {what}: its stop signal, mostly SIGTERM, and SIGKILL if it still"
            f" runs {seconds} s later",
            _WHY_STOPPED,
        ]
    if found := _STOPPING.search(line.text):
        return [
            f"the kubelet stops container {found['name']}: its stop signal, mostly SIGTERM, and"
            " SIGKILL when the grace period is over",
            _WHY_STOPPED,
        ]
    if found := _HOOK.search(line.text):
        return [_HOOKS[found["which"]]]
    if found := _SANDBOX.search(line.text):
        return [f"no container of the pod could start: its sandbox was not made: {found['why']}"]
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


_WHY_STOPPED = (
    "the line does not say why: a deletion, a failed probe, a change of the pod or an eviction;"
    " its neighbours do, or ktrace why POD"
)
_HOOKS = {
    "PreStop": "the preStop hook failed: the container is stopped all the same",
    "PostStart": "the postStart hook failed: the kubelet ends the container and starts it anew",
}


def _backed_off(found: re.Match[str]) -> Answer:
    lines = ["the container has ended again and again; the kubelet waits before it starts it anew"]
    if not found["pod"]:
        return lines
    namespace, pod, name = (shlex.quote(found[key]) for key in ("namespace", "pod", "name"))
    return [
        lines[0].replace("the container", f"container {found['name']} of pod {found['pod']}"),
        f"its last words: kubectl logs -n {namespace} {pod} -c {name} --previous",
    ]


KIND = Kind(
    _read,
    marks=(
        " probe",
        "low on resource",
        "exceed",
        "ack-off",
        "Hook",
        "pod sandbox",
        "Killing container",
        "Stopping ",
    ),
    rank=35,
)
