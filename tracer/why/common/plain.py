# SPDX-License-Identifier: Apache-2.0
"""A verdict on a container without a pod, in Docker's and podman's words instead of Kubernetes'."""

from __future__ import annotations

from dataclasses import replace

from tracer.model.event import Place
from tracer.why.verdict import Verdict

# Longer phrases first: a shorter one may be a part of them.
_INSTEAD = {
    "kubectl exec, a probe or a hook": "docker exec, podman exec or a health check",
    "commands run with kubectl exec": "commands run with docker exec or podman exec",
    "kubectl exec": "docker exec or podman exec",
    "a person, a probe or a hook": "a person or a health check",
    "for Kubernetes the container has ended by itself and is started again if its restartPolicy"
    " says so": "for the runtime the container has ended by itself, and is started again if its"
    " restart policy says so",
    "for Kubernetes the container": "for the runtime the container",
    "and Kubernetes would show the cause itself": "and the runtime would show the cause itself",
    "Kubernetes shows nothing of it until then, and mostly OOMKilled, whatever ends it": "the"
    " runtime shows nothing of it until then, and mostly OOMKilled, whatever ends it",
    "Kubernetes shows nothing": "the runtime shows nothing",
    "resources.limits.memory": "its memory limit (--memory)",
    "raise terminationGracePeriodSeconds": "raise the time that a stop leaves it (--time,"
    " --stop-timeout)",
    "its message is in kubectl describe pod": "its message is in what started it, and in inspect",
    "tmpfs and emptyDir in memory count": "tmpfs counts",
    "kubectl describe pod has what it printed, under Unhealthy": "inspect has what it printed,"
    " under State.Health",
    "mount an emptyDir with medium: Memory at /dev/shm, which counts as memory": "give it more"
    " (--shm-size), which counts as memory",
    "for Kubernetes it runs": "for the runtime it runs",
}


def with_plain_words(verdict: Verdict, place: Place) -> Verdict:
    if place.identity.pod_uid is not None or place.identity.container_id is None:
        return verdict
    return replace(
        verdict,
        sentence=_plain(verdict.sentence),
        remedy=_plain(verdict.remedy),
        doubts=tuple(map(_plain, verdict.doubts)),
        hints=tuple(map(_plain, verdict.hints)),
    )


def _plain(text: str) -> str:
    for words, others in _INSTEAD.items():
        text = text.replace(words, others)
    return text
