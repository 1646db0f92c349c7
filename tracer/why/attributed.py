# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes says of a pod, in its own words, beside a verdict."""

from __future__ import annotations

from collections.abc import Iterator

from tracer.model.kubernetes import NS, KubeContainer, KubeEvent, KubePod, Told, moment
from tracer.model.units import span
from tracer.model.verdict import (
    KubeContainerBody,
    KubeEventBody,
    KubePodBody,
    KubernetesBody,
)
from tracer.why.story import Story

# Of all Events, the last ones.
MAX_LINES = 12
# Of a pod at its best: they explain nothing.
ORDINARY = frozenset(("Scheduled", "Pulling", "Pulled", "Created", "Started"))


def told_lines(told: Told, story: Story, *, until_ns: int) -> list[str]:
    """The Events with their offsets to the explained moment, then how the pod is. Of other
    containers of the pod there is nothing."""
    container = story.place.container
    own = container.name if container else None
    lines = ["  Kubernetes says"]
    shown = [
        event
        for event in told.events
        if event.reason not in ORDINARY and (not event.container or own in (event.container, None))
    ]
    for event in shown[-MAX_LINES:]:
        offset = told.boot_ns(event.last_ns) // NS - until_ns // NS
        sign = "-" if offset < 0 else "+" if offset > 0 else " "
        lines.append(f"  {sign + span(abs(offset) * NS) if offset else '0':>8}   {_event(event)}")
    if len(shown) > MAX_LINES:
        lines.append(f"           {len(shown) - MAX_LINES} earlier Events are not shown")
    known = told.container(own)
    if known:
        lines += [f"           {words}" for words in _container(known)]
    if told.pod:
        lines += [f"           {words}" for words in _pod(told.pod)]
    return lines if len(lines) > 1 else []


def told_json(told: Told) -> KubernetesBody:
    return {
        "events": [event_json(event) for event in told.events],
        "pod": _pod_json(told.pod) if told.pod else None,
    }


def event_json(event: KubeEvent) -> KubeEventBody:
    return {
        "reason": event.reason,
        "message": event.message,
        "from": event.component or None,
        "object": {"kind": event.kind, "name": event.name},
        "container": event.container or None,
        "count": event.count,
        "first": moment(event.first_ns),
        "last": moment(event.last_ns),
    }


def _event(event: KubeEvent) -> str:
    again = ""
    if event.count > 1:
        over = event.last_ns - event.first_ns
        again = f" ({event.count} times{f' in {span(over)}' if over else ''})"
    by = "" if event.kind == "Pod" else f" of {event.kind} {event.name}"
    return f"{event.reason}{by}{again}: {event.message}"


def _container(container: KubeContainer) -> Iterator[str]:
    for probe in container.probes:
        yield (
            f"{probe.what} probe: {probe.how}, every {probe.period} s, timeoutSeconds"
            f" {probe.timeout}, failureThreshold {probe.failures}"
        )
    if container.pre_stop:
        yield f"preStop: {container.pre_stop}"
    if container.restarts:
        yield f"restartCount: {container.restarts}"
    if container.ended:
        yield f"last end: {container.ended.reason}, exit code {container.ended.exit_code}"
    if container.waiting:
        words = f": {container.message}" if container.message else ""
        yield f"waits: {container.waiting}{words}"


def _pod(pod: KubePod) -> Iterator[str]:
    if pod.reason:
        yield f"status: {pod.phase}, {pod.reason}{f': {pod.message}' if pod.message else ''}"
    if pod.grace is not None:
        yield f"terminationGracePeriodSeconds: {pod.grace}"
    if pod.deleted_ns is not None:
        yield f"deleted at {moment(pod.deleted_ns)}, with {pod.deletion_grace} s of grace"


def _pod_json(pod: KubePod) -> KubePodBody:
    return {
        "phase": pod.phase or None,
        "reason": pod.reason or None,
        "message": pod.message or None,
        "termination_grace_period_seconds": pod.grace,
        "deleted": None if pod.deleted_ns is None else moment(pod.deleted_ns),
        "deletion_grace_period_seconds": pod.deletion_grace,
        "containers": [_container_json(container) for container in pod.containers],
    }


def _container_json(container: KubeContainer) -> KubeContainerBody:
    ended = container.ended
    return {
        "name": container.name,
        "restarts": container.restarts,
        "ready": container.ready,
        "waiting": container.waiting or None,
        "last_end": {"reason": ended.reason, "exit_code": ended.exit_code} if ended else None,
        "probes": [
            {
                "kind": probe.what,
                "action": probe.how,
                "period_seconds": probe.period,
                "timeout_seconds": probe.timeout,
                "failure_threshold": probe.failures,
            }
            for probe in container.probes
        ],
        "pre_stop": container.pre_stop or None,
    }
