# SPDX-License-Identifier: Apache-2.0
"""kubectl command lines for what the node does not know, with the names filled in. The names come
from a container runtime and end up in a user's shell, so they are quoted."""

from __future__ import annotations

import shlex

from tracer.model.event import Place


def kubectl(verb: str, place: Place, *, container: bool = False) -> str:
    """`kubectl VERB -n NAMESPACE POD [-c CONTAINER]`; unknown names are left out."""
    words = ["kubectl", *verb.split()]
    pod = place.pod
    if pod is not None and pod.name is not None:
        words += ["-n", pod.namespace, pod.name] if pod.namespace else [pod.name]
    if container and place.container is not None and place.container.name is not None:
        words += ["-c", place.container.name]
    return shlex.join(words)


def describe(place: Place) -> str:
    return kubectl("describe pod", place)


def events(place: Place) -> str:
    """Shows who ordered a stop and why a probe failed. Kubernetes keeps events for an hour."""
    pod = place.pod
    if pod is None or pod.name is None:
        return "kubectl get events"
    words = ["kubectl", "get", "events", *(["-n", pod.namespace] if pod.namespace else [])]
    return shlex.join([*words, "--field-selector", f"involvedObject.name={pod.name}"])


def ask_kubernetes(place: Place) -> tuple[str, ...]:
    """The commands whose answer is there already when Kubernetes has been asked."""
    return events(place), describe(place)


def logs(place: Place) -> str:
    """Shows the output of the ended container."""
    container = place.container
    if place.identity.pod_uid is None and container is not None:
        tool = {"docker": "docker", "podman": "podman"}.get(container.runtime or "", "crictl")
        return shlex.join([tool, "logs", container.name or container.id[:12]])
    return kubectl("logs --previous", place, container=True)
