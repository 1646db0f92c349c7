# SPDX-License-Identifier: Apache-2.0
"""Events of Kubernetes on the pod that a verdict is on: `kubectl describe pod` shows them.

The same verdict on the same container is one Event with a count, as a kubelet does it. Like a
kubelet it also stops at a pod, or a node, of which there is too much to say.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from tracer.agent.item import Item, Life
from tracer.agent.publishers import (
    Means,
    Needs,
    NotSent,
    Options,
    Publisher,
    Refused,
    Sender,
    option,
)
from tracer.kubernetes.access import find
from tracer.kubernetes.client import ApiError, Client
from tracer.model.bounded import keep, touch
from tracer.model.kubernetes import COMPONENT, moment
from tracer.model.names import MAX_NAME
from tracer.outputs.escape import escape

# Bytes of a message: newer servers take no more.
MAX_MESSAGE = 1024
MAX_REASON = 128
# Events that may still get a higher count, and pods with a bucket.
MAX_KNOWN = 4096
# A server forgets Events after an hour.
LASTS_SECONDS = 3600.0
# As kubelets have it for an object, and for all of a node together.
POD_BURST, POD_SECONDS = 25, 300.0
NODE_BURST, NODE_SECONDS = 100, 1.0
RBAC = (
    "kubectl create clusterrole ktrace-events --verb=create,patch --resource=events && kubectl"
    " create clusterrolebinding ktrace-events --clusterrole=ktrace-events"
    " --serviceaccount=NAMESPACE:ACCOUNT"
)


@dataclass(frozen=True)
class EventsOptions(Options):
    on: bool = option(False, "Make an Event of Kubernetes on the pod of each verdict.")
    kubeconfig: str = option(
        "", "How to reach the API; default: the pod's service account.", "FILE"
    )


@dataclass(slots=True)
class Bucket:
    """Tokens for `burst` Events at once, and one more each `seconds`."""

    burst: int
    seconds: float
    left: float = -1.0
    since: float = 0.0

    def take(self, now: float) -> bool:
        if self.left < 0:
            self.left, self.since = self.burst, now
        self.left = min(float(self.burst), self.left + (now - self.since) / self.seconds)
        self.since = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Known:
    """An Event that was made."""

    path: str
    count: int
    at: float = field(default=0.0)


class EventsSender(Sender):
    batch = 1

    def __init__(
        self, client: Client, node: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._node = node
        self._clock = clock
        self._known: dict[Key, Known] = {}
        self._pods: dict[str, Bucket] = {}
        self._all = Bucket(NODE_BURST, NODE_SECONDS)
        self._paid: Item | None = None

    def takes(self, item: Item) -> bool:
        """Not of containers without a pod."""
        return item.life is not None and item.life.pod_uid is not None

    def send(self, items: Sequence[Item]) -> None:
        for item in items:
            life = item.life
            if life is None or not (life.namespace and life.pod and life.pod_uid):
                raise Refused("a verdict is on a pod whose name is not known")
            self._pay(item, life.pod_uid)
            try:
                self._tell(item, life)
            except ApiError as error:
                remedy = error.remedy(RBAC)
                if error.lasting:
                    raise Refused(str(error), remedy=remedy) from error
                raise NotSent(str(error), after=error.after, remedy=remedy) from error
            self._paid = None

    def close(self) -> None:
        self._client.close()

    def _pay(self, item: Item, pod: str) -> None:
        """Another attempt costs nothing."""
        if self._paid is item:
            return
        now = self._clock()
        bucket = touch(self._pods, pod) or Bucket(POD_BURST, POD_SECONDS)
        keep(self._pods, pod, bucket, MAX_KNOWN)
        if not bucket.take(now):
            raise Refused(f"there are more than {POD_BURST} Events of one pod at once")
        if not self._all.take(now):
            raise Refused(f"there are more than {NODE_BURST} Events of this node at once")
        self._paid = item

    def _tell(self, item: Item, life: Life) -> None:
        told = item.verdict()
        message = _message(f"{told['sentence']} ({told['certainty']})")
        key = (life.pod_uid or "", life.container or "", told["verdict"])
        known = touch(self._known, key)
        now = self._clock()
        if known is not None and now - known.at < LASTS_SECONDS:
            more = replace(known, count=known.count + 1, at=now)
            if self._count_up(more, message, item.time_ns):
                keep(self._known, key, more, MAX_KNOWN)
                return
        path = f"/api/v1/namespaces/{quote(life.namespace or '', safe='')}/events"
        event = self._event(item, life, told["headline"], message)
        try:
            self._client.ask("POST", path, body=event)
        except ApiError as error:
            if error.status != 409:  # an earlier attempt had come through
                raise
        name = quote(event["metadata"]["name"], safe="")
        keep(self._known, key, Known(f"{path}/{name}", 1, now), MAX_KNOWN)

    def _count_up(self, known: Known, message: str, time_ns: int) -> bool:
        """False if the server has forgotten it."""
        patch = {"count": known.count, "lastTimestamp": moment(time_ns), "message": message}
        try:
            self._client.ask(
                "PATCH", known.path, body=patch, content="application/merge-patch+json"
            )
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def _event(self, item: Item, life: Life, reason: str, message: str) -> dict[str, Any]:
        about = {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": life.namespace,
            "name": life.pod,
            "uid": life.pod_uid,
        }
        if life.container:
            about["fieldPath"] = f"spec.containers{{{life.container}}}"
        when = moment(item.time_ns)
        mark = f".{item.time_ns:x}"
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "namespace": life.namespace,
                "name": f"{(life.pod or '')[: MAX_NAME - len(mark)]}{mark}",
            },
            "involvedObject": about,
            "reason": reason[:MAX_REASON],
            "message": message,
            "type": "Normal" if life.exit_code == 0 else "Warning",
            "source": {"component": COMPONENT, "host": self._node},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._node[:MAX_REASON],
            "firstTimestamp": when,
            "lastTimestamp": when,
            "count": 1,
        }


def _message(words: str) -> str:
    """Escaped, and cut to what a server takes."""
    whole = escape(words).encode()
    if len(whole) <= MAX_MESSAGE:
        return whole.decode()
    return whole[: MAX_MESSAGE - 3].decode(errors="ignore") + "…"


def _make(options: EventsOptions, means: Means) -> EventsSender:
    return EventsSender(Client(find(options.kubeconfig)), means.node)


def _plan(options: EventsOptions) -> Sequence[str]:
    return (
        f"an Event on the pod of each verdict, to {find(options.kubeconfig).server}",
        "needs to create and patch events, and nothing else",
    )


PUBLISHER = Publisher(
    "Events of Kubernetes on the pods.",
    EventsOptions,
    _make,
    _plan,
    require=lambda options: find(options.kubeconfig),
    needs=Needs(rights={"events": ("create", "patch")}),
)
