# SPDX-License-Identifier: Apache-2.0
"""What the API server says of this node's pods, from now on: one thread for the pods, one for their
Events.

Each lists, then watches from there. A watch that ends goes on where it was; one that is too old
begins anew. What a server refuses, or does not answer, is said once and asked again after a pause
that grows. Nothing of this ever waits in the thread that traces.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tracer.kubernetes.access import Access
from tracer.kubernetes.client import ApiError, Client
from tracer.kubernetes.objects import fact_of, mapping
from tracer.model.backoff import Backoff
from tracer.model.bounded import Table, size_of
from tracer.model.kubernetes import Fact, KubeEvent

PODS, EVENTS = "/api/v1/pods", "/api/v1/events"
# Of a pod that is well. The server leaves them out, which spares both sides most Events.
ORDINARY = ("Scheduled", "Pulling", "Pulled", "Created", "Started")
PAGE = 500
WATCH_SECONDS, SHORT_SECONDS = 240.0, 5.0
# What waits for the session, and what is taken in one turn.
MAX_WAITING, MAX_TURN = 4 << 20, 1 << 20
# Objects whose last state is remembered, so that the same is not told twice.
MAX_KNOWN = 2 << 20
MAX_SAID = 8
GONE = 410

RBAC = (
    "kubectl create clusterrole ktrace-reads --verb=get,list,watch --resource=pods,events &&"
    " kubectl create clusterrolebinding ktrace-reads --clusterrole=ktrace-reads"
    " --serviceaccount=NAMESPACE:ACCOUNT"
)

Say = Callable[[str], None]


class Cluster:
    """`dropped` counts facts that found no room. Call `start`, `take` often, and `stop`."""

    def __init__(
        self,
        access: Access,
        node: str,
        say: Say,
        *,
        first_pause: float = 1.0,
        watch_seconds: float = WATCH_SECONDS,
        most: int = MAX_WAITING,
    ) -> None:
        self.dropped = 0
        self._node = node
        self._say = say
        self._most = most
        self._lock = threading.Lock()
        self._waiting: deque[Fact] = deque()
        self._bytes = 0
        self._pods: Table[tuple[str, str], bool] = Table(MAX_KNOWN, lambda _: 0)
        self._said: dict[str, list[str]] = {PODS: [], EVENTS: []}
        self._stop = threading.Event()
        reasons = ",".join(f"reason!={reason}" for reason in ORDINARY)
        self._watches = [
            _Watch(self, Client(access), PODS, f"spec.nodeName={node}", first_pause, watch_seconds),
            _Watch(self, Client(access), EVENTS, reasons, first_pause, watch_seconds),
        ]

    def start(self) -> None:
        for watch in self._watches:
            watch.start()

    def stop(self) -> None:
        self._stop.set()
        for watch in self._watches:
            watch.client.close()
        for watch in self._watches:
            watch.join(1.0)

    def take(self) -> Sequence[Fact]:
        """The facts that have come, as many as one turn takes."""
        if not self._waiting:
            return ()
        taken: list[Fact] = []
        size = 0
        with self._lock:
            while self._waiting and size < MAX_TURN:
                fact = self._waiting.popleft()
                size += fact.size
                taken.append(fact)
            self._bytes -= size
        return taken

    def put(self, fact: Fact, host: str) -> None:
        """Called by the watches. `host` is the node whose kubelet says so."""
        with self._lock:
            if isinstance(fact, KubeEvent):
                its = host == self._node or (fact.namespace, fact.pod) in self._pods
                if not (fact.pod and its):
                    return
            else:
                self._pods.keep((fact.namespace, fact.name), True)
            if self._bytes + fact.size > self._most:
                self.dropped += 1
                return
            self._waiting.append(fact)
            self._bytes += fact.size

    def tell(self, path: str, words: str) -> None:
        """Says each failure once until that watch works again."""
        with self._lock:
            own, known = self._said[path], any(words in said for said in self._said.values())
            if words in own or len(own) >= MAX_SAID or self._stop.is_set():
                return
            own.append(words)
        if not known:
            self._say(f"ktrace: Kubernetes: {words}; tracing goes on")

    def works(self, path: str) -> None:
        with self._lock:
            self._said[path].clear()

    def wait(self, seconds: float) -> bool:
        """Returns whether to go on."""
        return not self._stop.wait(seconds)

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()


class _Watch(threading.Thread):
    """One list and its watch."""

    def __init__(
        self,
        cluster: Cluster,
        client: Client,
        path: str,
        selector: str,
        first_pause: float,
        seconds: float,
    ) -> None:
        super().__init__(name=f"watch {path}", daemon=True)
        self.client = client
        self._cluster = cluster
        self._path = path
        self._selector = selector
        self._seconds = seconds
        self._backoff = Backoff(first_pause)
        self._version = ""
        self._known: Table[str, int] = Table(MAX_KNOWN, size_of)

    def run(self) -> None:
        while not self._cluster.stopping:
            try:
                if not self._version:
                    self._list()
                self._follow()
            except ApiError as error:
                if self._cluster.stopping:
                    return
                if error.status == GONE:
                    self._version = ""
                self._tell(error)
                if not self._cluster.wait(self._backoff.next(error.after)):
                    return

    def _list(self) -> None:
        query = {"fieldSelector": self._selector, "limit": str(PAGE)}
        while True:
            told = self.client.ask("GET", self._path, query)
            for item in _list_of(told):
                self._put(item)
            meta = mapping(mapping(told).get("metadata"))
            version, more = meta.get("resourceVersion"), meta.get("continue")
            if not isinstance(version, str) or not version:
                raise ApiError("the API server answers with no list")
            if not (isinstance(more, str) and more):
                break
            query["continue"] = more
        self._works()
        self._version = version

    def _follow(self) -> None:
        seconds = self._seconds * random.uniform(0.75, 1)  # noqa: S311
        query = {
            "watch": "1",
            "fieldSelector": self._selector,
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(1, int(seconds))),
        }
        began = time.monotonic()
        for line in self.client.lines(self._path, query, seconds):
            told = mapping(line)
            what, item = told.get("type"), mapping(told.get("object"))
            if what == "ERROR":
                code = item.get("code")
                raise ApiError(
                    f"the watch ends with {code}", code if isinstance(code, int) else None
                )
            version = mapping(item.get("metadata")).get("resourceVersion")
            if not isinstance(version, str) or not version:
                raise ApiError("the API server sends what is no object")
            self._version = version
            self._works()
            if what != "BOOKMARK":
                self._put(item)
        if time.monotonic() - began < SHORT_SECONDS:  # a server may end every watch at once
            self._cluster.wait(self._backoff.next())

    def _put(self, item: Mapping[str, Any]) -> None:
        fact = fact_of({"kind": "Pod", **item} if self._path == PODS else {"kind": "Event", **item})
        if fact is None:
            return
        mark = hash(fact)
        if self._known.touch(fact.uid) == mark:
            return
        self._known.keep(fact.uid, mark)
        source = mapping(item.get("source"))
        host = source.get("host") or item.get("reportingInstance")
        self._cluster.put(fact, host if isinstance(host, str) else "")

    def _works(self) -> None:
        self._backoff.reset()
        self._cluster.works(self._path)

    def _tell(self, error: ApiError) -> None:
        if error.status != GONE:
            words = "; ".join(filter(None, (str(error), error.remedy(RBAC))))
            self._cluster.tell(self._path, words)


def _list_of(told: object) -> Iterator[Mapping[str, Any]]:
    items = mapping(told).get("items")
    return (mapping(item) for item in items) if isinstance(items, list) else iter(())
