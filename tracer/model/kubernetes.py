# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes itself says: its Events, and how its pods are.

The kernel cannot know that a probe failed or that a pod was evicted. Every text here is others':
bounded where it is read, escaped where it is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tracer.model.bounded import Table, size_of

NS = 1_000_000_000
# Who makes the agent's own Events. They say what ktrace said, and not what Kubernetes says.
COMPONENT = "ktrace"
# Facts about pods, and of one pod.
MAX_FACTS = 8 << 20
MAX_OF_POD = 64


@dataclass(frozen=True, slots=True)
class KubeEvent:
    """An Event of Kubernetes. `kind`, `name` and `object_uid` are the object that it is about,
    `pod` is the pod that it concerns. Times are nanoseconds since 1970, of whole seconds. `count`
    is how often it came from `first_ns` to `last_ns`. `component` is who says so."""

    uid: str
    reason: str
    message: str
    component: str = ""
    kind: str = "Pod"
    namespace: str = ""
    name: str = ""
    object_uid: str = ""
    pod: str = ""
    container: str = ""
    count: int = 1
    first_ns: int = 0
    last_ns: int = 0

    @property
    def size(self) -> int:
        return 400 + size_of(self.reason, self.message, self.name, self.object_uid, self.pod)

    def json(self) -> dict[str, Any]:
        """The object of the API, with only what is kept of it."""
        path = f"spec.containers{{{self.container}}}" if self.container else ""
        return {
            "kind": "Event",
            "metadata": {"uid": self.uid, "namespace": self.namespace},
            "reason": self.reason,
            "message": self.message,
            "source": {"component": self.component},
            "involvedObject": {
                "kind": self.kind,
                "namespace": self.namespace,
                "name": self.name,
                "uid": self.object_uid,
                "fieldPath": path,
            },
            "count": self.count,
            "firstTimestamp": moment(self.first_ns),
            "lastTimestamp": moment(self.last_ns),
        }


@dataclass(frozen=True, slots=True)
class KubeEnd:
    """How a container ended, as the kubelet shows it."""

    reason: str
    exit_code: int
    finished_ns: int = 0


@dataclass(frozen=True, slots=True)
class KubeProbe:
    """`how` is in words: `http-get of port 8080`. Times are in seconds."""

    what: str
    how: str
    period: int = 10
    timeout: int = 1
    failures: int = 3


@dataclass(frozen=True, slots=True)
class KubeContainer:
    """`waiting` is what it waits for, `message` the words to that. `ended` is its last end."""

    name: str
    restarts: int = 0
    ready: bool = False
    waiting: str = ""
    message: str = ""
    ended: KubeEnd | None = None
    probes: tuple[KubeProbe, ...] = ()
    pre_stop: str = ""


@dataclass(frozen=True, slots=True)
class KubePod:
    """`grace` is its terminationGracePeriodSeconds. `deleted_ns` is when its deletion was asked
    for, with `deletion_grace` seconds of grace; None if it was not."""

    uid: str
    namespace: str
    name: str
    node: str = ""
    phase: str = ""
    reason: str = ""
    message: str = ""
    grace: int | None = None
    deleted_ns: int | None = None
    deletion_grace: int | None = None
    containers: tuple[KubeContainer, ...] = ()

    @property
    def size(self) -> int:
        return 600 + 1000 * len(self.containers) + size_of(self.reason, self.message)

    def json(self) -> dict[str, Any]:
        """The object of the API, with only what is kept of it."""
        meta: dict[str, Any] = {"uid": self.uid, "namespace": self.namespace, "name": self.name}
        if self.deleted_ns is not None:
            grace = self.deletion_grace or 0
            meta["deletionTimestamp"] = moment(self.deleted_ns + grace * NS)
            meta["deletionGracePeriodSeconds"] = grace
        spec = {
            "nodeName": self.node,
            "terminationGracePeriodSeconds": self.grace,
            "containers": [_spec_json(one) for one in self.containers],
        }
        status = {
            "phase": self.phase,
            "reason": self.reason,
            "message": self.message,
            "containerStatuses": [_status_json(one) for one in self.containers],
        }
        return {"kind": "Pod", "metadata": meta, "spec": spec, "status": status}


Fact = KubeEvent | KubePod


@dataclass(frozen=True, slots=True)
class Told:
    """What Kubernetes says of one pod. `offset_ns` turns nanoseconds since boot into nanoseconds
    since 1970."""

    events: tuple[KubeEvent, ...]
    pod: KubePod | None
    offset_ns: int

    def boot_ns(self, moment_ns: int) -> int:
        return moment_ns - self.offset_ns

    def container(self, name: str | None) -> KubeContainer | None:
        every = self.pod.containers if self.pod else ()
        return next((one for one in every if one.name == name), None)


@dataclass(slots=True)
class _About:
    events: dict[str, KubeEvent] = field(default_factory=dict)
    pods: dict[str, KubePod] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(fact.size for held in (self.events, self.pods) for fact in held.values())


class Facts:
    """The facts by pod, in at most `most` bytes. The pod of which nothing came for the longest time
    goes first."""

    def __init__(self, most: int = MAX_FACTS) -> None:
        self._about: Table[tuple[str, str], _About] = Table(most, lambda about: about.size)
        self.learned = 0

    def __bool__(self) -> bool:
        return bool(self._about)

    def learn(self, facts: Iterable[Fact]) -> None:
        """A fact takes the place of an earlier state of the same object."""
        for fact in facts:
            self.learned += 1
            key = fact.namespace, fact.pod if isinstance(fact, KubeEvent) else fact.name
            about = self._about.touch(key) or _About()
            if isinstance(fact, KubeEvent):
                held: dict[str, Any] = about.events
            else:
                held = about.pods
                fact = _with_grace(fact, about.pods.get(fact.uid))
            held.pop(fact.uid, None)
            held[fact.uid] = fact
            while len(held) > MAX_OF_POD:
                del held[next(iter(held))]
            self._about.keep(key, about)

    def all(self) -> list[Fact]:
        return [
            fact
            for about in self._about.values()
            for held in (about.pods, about.events)
            for fact in held.values()
        ]

    def about(self, namespace: str, name: str, uid: str | None, offset_ns: int) -> Told | None:
        """What is known of the pod; None if nothing. Another pod of the same name is another."""
        about = self._about.get((namespace, name))
        if about is None:
            return None
        pod = about.pods.get(uid or "")
        events = [
            event
            for event in about.events.values()
            if event.kind != "Pod" or not event.object_uid or event.object_uid == uid
        ]
        if pod is None and not events:
            return None
        events.sort(key=lambda event: (event.last_ns, event.first_ns, event.uid))
        return Told(tuple(events), pod, offset_ns)


def _with_grace(pod: KubePod, before: KubePod | None) -> KubePod:
    """A kubelet that is done deletes once more, without grace: what was asked for is known from
    before."""
    if before is None or not before.deletion_grace or pod.deletion_grace:
        return pod
    return replace(pod, deleted_ns=before.deleted_ns, deletion_grace=before.deletion_grace)


def moment(ns: int) -> str:
    """RFC 3339 in whole seconds, as Kubernetes writes it."""
    from datetime import datetime, timezone

    return datetime.fromtimestamp(ns // NS, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _spec_json(container: KubeContainer) -> dict[str, Any]:
    spec: dict[str, Any] = {"name": container.name}
    if container.pre_stop:
        spec["lifecycle"] = {"preStop": {"ktrace": container.pre_stop}}
    for probe in container.probes:
        spec[f"{probe.what}Probe"] = {
            "ktrace": probe.how,
            "periodSeconds": probe.period,
            "timeoutSeconds": probe.timeout,
            "failureThreshold": probe.failures,
        }
    return spec


def _status_json(container: KubeContainer) -> dict[str, Any]:
    status: dict[str, Any] = {
        "name": container.name,
        "restartCount": container.restarts,
        "ready": container.ready,
    }
    if container.waiting:
        status["state"] = {"waiting": {"reason": container.waiting, "message": container.message}}
    if container.ended:
        status["lastState"] = {"terminated": _end_json(container.ended)}
    return status


def _end_json(end: KubeEnd) -> Mapping[str, Any]:
    finished = {"finishedAt": moment(end.finished_ns)} if end.finished_ns else {}
    return {"reason": end.reason, "exitCode": end.exit_code, **finished}
