# SPDX-License-Identifier: Apache-2.0
"""The API as a source of facts, and what may happen to it meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.wait import wait_for
from tests.unit.kubernetes.objects import Json, event, pod
from tests.unit.kubernetes.server import Answer, Asked, serving
from tracer.kubernetes.access import Access
from tracer.kubernetes.watch import EVENTS, PODS, RBAC, Cluster
from tracer.model.kubernetes import Fact, KubeEvent, KubePod


class Api:
    """Lists what it has, and watches what is put; `refuse` answers instead, once for each."""

    def __init__(self) -> None:
        self.items: dict[str, list[Json]] = {PODS: [pod()], EVENTS: []}
        self.lines: dict[str, list[Any]] = {PODS: [], EVENTS: []}
        self.refuse: list[Answer] = []
        self.over = threading.Event()
        self.changed = threading.Condition()
        self.version = 10
        self.watches = {PODS: 0, EVENTS: 0}

    def __call__(self, asked: Asked) -> Answer:
        if self.refuse:
            return self.refuse.pop(0)
        if asked.watches:
            with self.changed:
                self.watches[asked.path] += 1
                own = self.watches[asked.path]
                self.changed.notify_all()
            return Answer(lines=self._watch(asked, own))
        meta = {"resourceVersion": str(self.version)}
        return Answer(body={"kind": "PodList", "metadata": meta, "items": self.items[asked.path]})

    def put(self, path: str, *lines: Any) -> None:
        with self.changed:
            self.lines[path] += lines
            self.changed.notify_all()

    def _watch(self, asked: Asked, own: int) -> Iterator[Any]:
        """Until the client asks for another one."""

        def old() -> bool:
            return self.over.is_set() or own != self.watches[asked.path]

        while not old():
            with self.changed:
                self.changed.wait_for(lambda: self.lines[asked.path] or old(), 60)
                if old():
                    return
                lines, self.lines[asked.path] = self.lines[asked.path], []
            for line in lines:
                if line is None:
                    return
                yield line


def line(what: str, item: Json, version: int = 11) -> Json:
    return {
        "type": what,
        "object": {**item, "metadata": {**item["metadata"], "resourceVersion": str(version)}},
    }


class Watching:
    def __init__(self, api: Api, **options: Any) -> None:
        self.api = api
        self.said: list[str] = []
        self.facts: list[Fact] = []
        self._stack = serving(api)
        self._options = options

    def __enter__(self) -> Watching:
        self.server = self._stack.__enter__()
        options = {"first_pause": 0.01, **self._options}
        self.cluster = Cluster(self.server.access, "node1", self.said.append, **options)
        self.cluster.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self.api.changed:
            self.api.over.set()
            self.api.changed.notify_all()
        self.cluster.stop()
        self._stack.__exit__(None, None, None)

    def wait(self, count: int = 1) -> list[Fact]:
        def come() -> bool:
            self.facts += self.cluster.take()
            return len(self.facts) >= count

        wait_for("facts to come", come, 60, 0.01)
        return self.facts

    def waits_for(self, path: str, number: int, watches: bool = True) -> list[Asked]:
        def asked() -> list[Asked]:
            every = list(self.server.asked)
            return [one for one in every if one.path == path and one.watches == watches]

        wait_for(f"question {number} of {path}", lambda: len(asked()) >= number, 60)
        return asked()


def test_pods_of_this_node_and_their_events_come() -> None:
    api = Api()
    api.items[EVENTS] = [event("Unhealthy", "before")]
    with Watching(api) as watching:
        watching.wait(2)
        api.put(EVENTS, line("ADDED", event("Killing", "now"), 12))
        api.put(PODS, line("DELETED", pod(deleted=10), 13))
        facts = watching.wait(4)
        of_pods = watching.waits_for(PODS, 1)
        of_events = watching.waits_for(EVENTS, 1)
    assert {f.message for f in facts if isinstance(f, KubeEvent)} == {"before", "now"}
    assert [f.deleted_ns is None for f in facts if isinstance(f, KubePod)] == [True, False]
    assert of_pods[0].query["fieldSelector"] == "spec.nodeName=node1"
    assert "reason!=Scheduled" in of_events[0].query["fieldSelector"]
    assert of_pods[0].query["resourceVersion"] == "10"
    assert of_pods[0].query["allowWatchBookmarks"] == "true"


def test_events_of_other_nodes_are_nobodys() -> None:
    other = event("Killing", "other", name="other-0", uid="o")
    other["source"]["host"] = "node2"
    own = event("Failed", "own", name="new-0", uid="n")  # its kubelet is this node's
    api = Api()
    api.items[EVENTS] = [other, own]
    with Watching(api) as watching:
        facts = watching.wait(2)
    assert [f.message for f in facts if isinstance(f, KubeEvent)] == ["own"]


def test_what_is_listed_again_is_told_once() -> None:
    api = Api()
    with Watching(api) as watching:
        watching.wait()
        api.put(PODS, {"type": "ERROR", "object": {"code": 410, "message": "too old"}})
        watching.waits_for(PODS, 2)
        api.put(PODS, line("MODIFIED", pod()), line("MODIFIED", pod(grace=5)))
        facts = watching.wait(2)
        listed = watching.waits_for(PODS, 2, watches=False)
    assert [f.grace for f in facts if isinstance(f, KubePod)] == [30, 5]
    assert len(listed) == 2
    assert watching.said == []  # that is in order


def test_a_watch_that_ends_goes_on_where_it_was() -> None:
    api = Api()
    with Watching(api) as watching:
        watching.wait()
        bookmark = {"kind": "Pod", "metadata": {"resourceVersion": "77"}}
        api.put(PODS, {"type": "BOOKMARK", "object": bookmark}, None)
        asked = watching.waits_for(PODS, 2)
        assert asked[1].query["resourceVersion"] == "77"
        assert len(watching.waits_for(PODS, 1, watches=False)) == 1
    assert watching.said == []


def test_gone_as_an_answer() -> None:
    api = Api()
    with Watching(api) as watching:
        watching.wait()
        watching.waits_for(EVENTS, 1)  # so that only the watch of pods can be refused
        api.refuse.append(Answer(410, {"message": "too old resource version"}))
        api.put(PODS, None)
        assert watching.waits_for(PODS, 2, watches=False)
    assert watching.said == []


def test_a_list_in_pages() -> None:
    def act(asked: Asked) -> Answer:
        if asked.watches or asked.path == EVENTS:
            return api(asked)
        if "continue" not in asked.query:
            meta = {"resourceVersion": "10", "continue": "next page"}
            return Answer(body={"metadata": meta, "items": [pod()]})
        one = pod()
        one["metadata"] |= {"name": "web-1", "uid": "1"}
        return Answer(body={"metadata": {"resourceVersion": "10"}, "items": [one]})

    api = Api()
    api.items[PODS] = []
    watching = Watching(api)
    watching._stack = serving(act)
    with watching:
        assert {fact.name for fact in watching.wait(2)} == {"web-0", "web-1"}


def test_no_rights_are_said_once_with_the_line_that_mends_it() -> None:
    forbidden = {"message": 'events is forbidden: User "system:x" cannot list resource "events"'}
    refusing = True

    def act(asked: Asked) -> Answer:
        refused = refusing and asked.path == EVENTS
        return Answer(403, forbidden) if refused else api(asked)

    api = Api()
    watching = Watching(api)
    watching._stack = serving(act)
    with watching:
        watching.wait()  # pods come all the same
        watching.waits_for(EVENTS, 3, watches=False)
        assert len(watching.said) == 1
        assert "cannot list resource" in watching.said[0] and RBAC in watching.said[0]
        refusing = False
        api.put(EVENTS, line("ADDED", event("Killing", "now")))
        watching.wait(2)


def test_a_server_that_is_gone_for_a_while() -> None:
    said: list[str] = []
    api = Api()
    with serving(api) as server:
        access = server.access
    cluster = Cluster(access, "node1", said.append, first_pause=0.01)
    cluster.start()
    wait_for("it to be said", lambda: said, 60)
    cluster.stop()
    assert len(said) == 1 and "cannot be reached" in said[0]  # both ask, and one says it


def test_a_server_that_is_gone_for_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the hour: each pause is noted and over. Pods and Events are asked for once a
    minute each, it is said once, and afterwards what happened meanwhile comes."""
    said: list[str] = []
    pauses: list[float] = []
    over, back = threading.Event(), threading.Event()
    api = Api()
    with serving(api) as server:
        access, port = server.access, server.server_address[1]
    cluster = Cluster(access, "node1", said.append)

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        if sum(pauses) >= 2 * 3600:
            over.set()
            back.wait(60)
        return not cluster.stopping

    monkeypatch.setattr(cluster, "wait", wait)
    cluster.start()
    assert over.wait(60)
    assert 2 * 60 <= len(pauses) <= 2 * 140
    assert len(said) == 1 and "cannot be reached" in said[0]
    api.items[EVENTS] = [event("Unhealthy", "meanwhile")]
    with serving(api, int(port)):
        back.set()
        taken: list[Fact] = []

        def come() -> bool:
            taken.extend(cluster.take())
            return len(taken) == 2

        wait_for("the pod and its Event", come, 60)
        with api.changed:
            api.over.set()
            api.changed.notify_all()
        cluster.stop()
    assert len(said) == 1


def test_slow_down_and_server_errors_and_garbage() -> None:
    api = Api()
    api.refuse = [
        Answer(429, {"message": "slow down"}, {"Retry-After": "0"}),
        Answer(500, b"\xff"),
        Answer(200, b"<html>"),
        Answer(200, {"items": "no"}),
        Answer(200, []),
        Answer(401, {"message": "Unauthorized"}),
    ]
    with Watching(api) as watching:
        watching.wait()
        assert not api.refuse
        api.put(PODS, b"garbage\n")
        watching.waits_for(PODS, 2)
        api.put(PODS, b'[1, 2]\n{"type": "ADDED"}\n')
        watching.waits_for(PODS, 3)
        api.put(PODS, line("MODIFIED", pod(grace=7)))
        watching.wait(2)
    assert any("has expired" in words for words in watching.said)
    assert all("tracing goes on" in words and "\n" not in words for words in watching.said)


def test_what_waits_is_bounded_in_bytes_and_counted() -> None:
    api = Api()
    api.items[EVENTS] = [event("Unhealthy", f"{n} " + "x" * 1000) for n in range(300)]
    with Watching(api, most=100_000) as watching:
        wait_for("the queue to be full", lambda: watching.cluster.dropped > 200, 60)
        taken = list(watching.cluster.take())
        assert sum(fact.size for fact in taken) <= 100_000

        def every_one() -> bool:
            taken.extend(watching.cluster.take())
            return watching.cluster.dropped + len(taken) == 301

        wait_for("all to be taken or dropped", every_one, 60)


def test_it_ends_at_once_whatever_it_waits_for() -> None:
    silent = Access("http://192.0.2.1:9", token="x")  # documentation's: nobody is there
    cluster = Cluster(silent, "node1", print, first_pause=60)
    cluster.start()
    cluster.stop()
