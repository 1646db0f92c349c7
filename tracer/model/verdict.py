# SPDX-License-Identifier: Apache-2.0
"""The body of a `verdict` event. docs/verdicts.md explains the keys."""

from __future__ import annotations

from typing import TypedDict, TypeGuard

from tracer.model.event import Event


class Reference(TypedDict):
    """An event, which its kind and `boot_ns` identify."""

    kind: str
    time: str
    boot_ns: int


class Moment(Reference):
    """A line of the timeline: an event, or several that are alike."""

    offset_ns: int
    text: str
    count: int


class CauseBody(TypedDict):
    verdict: str
    sentence: str
    certainty: str
    doubts: list[str]
    reasons: list[str]
    hints: list[str]


class KubeObject(TypedDict):
    kind: str
    name: str


KubeEventBody = TypedDict(
    "KubeEventBody",
    {
        "reason": str,
        "message": str,
        "from": "str | None",
        "object": KubeObject,
        "container": "str | None",
        "count": int,
        "first": str,
        "last": str,
    },
)


class KubeEndBody(TypedDict):
    reason: str
    exit_code: int


class KubeProbeBody(TypedDict):
    kind: str
    action: str
    period_seconds: int
    timeout_seconds: int
    failure_threshold: int


class KubeContainerBody(TypedDict):
    name: str
    restarts: int
    ready: bool
    waiting: str | None
    last_end: KubeEndBody | None
    probes: list[KubeProbeBody]
    pre_stop: str | None


class KubePodBody(TypedDict):
    phase: str | None
    reason: str | None
    message: str | None
    termination_grace_period_seconds: int | None
    deleted: str | None
    deletion_grace_period_seconds: int | None
    containers: list[KubeContainerBody]


class KubernetesBody(TypedDict):
    events: list[KubeEventBody]
    pod: KubePodBody | None


class _Told(TypedDict, total=False):
    kubernetes: KubernetesBody


class VerdictBody(CauseBody, _Told):
    headline: str
    evidence: list[Reference]
    remedy: str
    timeline: list[Moment]
    others: list[CauseBody]


def is_verdict(event: Event) -> TypeGuard[Event[VerdictBody]]:
    return event.kind == "verdict"
