# SPDX-License-Identifier: Apache-2.0
"""Events on pods: what is sent to an API server, and what is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.unit.kubernetes.server import Answer, Asked, Server, serving
from tests.unit.why.world import CLOCK, CRON, RUNC, UID, World
from tracer.agent.item import Item, Life, Severity
from tracer.agent.publishers import Means, NotSent, Refused, get
from tracer.agent.publishers import events as module
from tracer.agent.publishers.events import MAX_MESSAGE, POD_BURST, RBAC, EventsOptions, EventsSender
from tracer.kubernetes.client import Client
from tracer.model.errors import UsageError
from tracer.why.render import to_event

LIFE = Life(UID, "shop", "web-0", "app", "a" * 64, "containerd", exit_code=137)
NS = 1_000_000_000
NOON = 1_700_000_000 * NS


class Post:
    """An API server that keeps what it gets. `answers` come first, one each."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.seconds = 0.0

    def __call__(self, asked: Asked) -> Answer:
        return self.answers.pop(0) if self.answers else Answer(201, {})


@pytest.fixture
def post() -> Post:
    return Post()


@pytest.fixture
def server(post: Post) -> Iterator[Server]:
    with serving(post) as running:
        yield running


@pytest.fixture
def sender(server: Server, post: Post) -> EventsSender:
    return EventsSender(Client(server.access), "node1", lambda: post.seconds)


def item(
    verdict: str = "stop_ignored",
    sentence: str = "stopped",
    at: int = 0,
    life: Life | None = LIFE,
    headline: str = "StopIgnored",
) -> Item:
    told = {
        "verdict": verdict,
        "sentence": sentence,
        "certainty": "certain",
        "headline": headline,
    }
    return Item("verdict", NOON + at * NS, Severity.WARN, "x", orjson.dumps(told), life)


def test_an_event(sender: EventsSender, server: Server) -> None:
    sender.send([item()])
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/api/v1/namespaces/shop/events")
    body: dict[str, Any] = asked.body
    assert re.fullmatch(r"web-0\.[0-9a-f]+", body["metadata"].pop("name"))
    assert body == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": "shop"},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": "shop",
            "name": "web-0",
            "uid": UID,
            "fieldPath": "spec.containers{app}",
        },
        "reason": "StopIgnored",
        "message": "stopped (certain)",
        "type": "Warning",
        "source": {"component": "ktrace", "host": "node1"},
        "reportingComponent": "ktrace",
        "reportingInstance": "node1",
        "firstTimestamp": "2023-11-14T22:13:20Z",
        "lastTimestamp": "2023-11-14T22:13:20Z",
        "count": 1,
    }


def test_the_same_again_is_one_event_with_a_count(sender: EventsSender, server: Server) -> None:
    for at in range(3):
        sender.send([item(sentence=f"stopped, {at}", at=at)])
    sender.send([item("closed_port")])
    sender.send([item(life=replace(LIFE, container="side"))])
    first, *more = server.asked
    path = f"{first.path}/{first.body['metadata']['name']}"
    assert [one.method for one in more] == ["PATCH", "PATCH", "POST", "POST"]
    assert more[1].path == path and more[1].content == "application/merge-patch+json"
    assert more[1].body == {
        "count": 3,
        "lastTimestamp": "2023-11-14T22:13:22Z",
        "message": "stopped, 2 (certain)",
    }


def test_one_that_the_server_has_forgotten(
    sender: EventsSender, server: Server, post: Post
) -> None:
    sender.send([item()])
    post.answers = [Answer(404, {})]
    sender.send([item(at=1)])
    post.seconds += module.LASTS_SECONDS
    sender.send([item(at=2)])
    assert [one.method for one in server.asked] == ["POST", "PATCH", "POST", "POST"]


def test_an_attempt_that_had_come_through(sender: EventsSender, post: Post) -> None:
    post.answers = [Answer(409, {"message": "already exists"})]
    sender.send([item()])


@pytest.mark.parametrize("status", [401, 408, 429, 500, 503])
def test_what_may_work_later(sender: EventsSender, post: Post, status: int) -> None:
    post.answers = [Answer(status, {"message": "not now"}, {"Retry-After": "3"})]
    with pytest.raises(NotSent, match="not now") as raised:
        sender.send([item()])
    assert raised.value.after == 3 and raised.value.rest is None
    sender.send([item()])


def test_another_attempt_costs_nothing(sender: EventsSender, post: Post) -> None:
    post.answers = [Answer(500, {})] * (2 * POD_BURST)
    one = item()
    for _ in post.answers.copy():
        with pytest.raises(NotSent):
            sender.send([one])
    sender.send([one])


def test_no_rights(sender: EventsSender, post: Post) -> None:
    post.answers = [Answer(403, {"message": 'User "x" cannot create resource "events"'})]
    with pytest.raises(Refused, match="cannot create") as raised:
        sender.send([item()])
    assert raised.value.remedy == RBAC
    post.answers = [Answer(403, {"message": "it is being terminated"})]
    with pytest.raises(Refused) as raised:
        sender.send([item()])
    assert raised.value.remedy is None


def test_too_many_of_one_pod(sender: EventsSender, server: Server, post: Post) -> None:
    for at in range(POD_BURST):
        sender.send([item(f"verdict_{at}")])
    with pytest.raises(Refused, match=f"more than {POD_BURST} Events of one pod"):
        sender.send([item("one_more")])
    sender.send([item(life=replace(LIFE, pod_uid="another", pod="web-1"))])
    post.seconds += module.POD_SECONDS
    sender.send([item("one_more")])
    assert len(server.asked) == POD_BURST + 2


def test_too_many_of_the_node(sender: EventsSender, server: Server) -> None:
    for at in range(module.NODE_BURST):
        sender.send([item(life=replace(LIFE, pod_uid=f"{at}"))])
    with pytest.raises(Refused, match="of this node"):
        sender.send([item(life=replace(LIFE, pod_uid="one more"))])


def test_what_it_remembers_is_bounded(
    sender: EventsSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN", 10)
    for at in range(50):
        sender.send([item(life=replace(LIFE, pod_uid=f"{at}"))])
    assert len(sender._known) == len(sender._pods) == 10


@pytest.mark.parametrize(
    "life", [None, Life(), replace(LIFE, pod=None), replace(LIFE, pod_uid=None)]
)
def test_a_verdict_on_no_pod(sender: EventsSender, server: Server, life: Life | None) -> None:
    if life is not None and life.pod_uid is not None:
        assert sender.takes(item(life=life))
        with pytest.raises(Refused, match="whose name is not known"):
            sender.send([item(life=life)])
    else:
        assert not sender.takes(item(life=life))
    assert server.asked == []


def test_hostile_words(sender: EventsSender, server: Server) -> None:
    hostile = "\x1b[31m\n\u202eé" * 300
    life = replace(LIFE, namespace="../../x?y#z", pod="\n" * 300)
    sender.send([item(sentence=hostile, life=life, headline="X" * 500)])
    (asked,) = server.asked
    assert asked.path == "/api/v1/namespaces/..%2F..%2Fx%3Fy%23z/events"
    message = asked.body["message"]
    assert message.isprintable() and len(message.encode()) <= MAX_MESSAGE
    assert len(asked.body["reason"]) <= 128 and len(asked.body["metadata"]["name"]) <= 253


def test_an_end_in_order_is_no_warning(sender: EventsSender, server: Server) -> None:
    sender.send([item(life=replace(LIFE, exit_code=0))])
    assert server.asked[0].body["type"] == "Normal"


def test_reasons_are_what_causes_say() -> None:
    def headline(world: World) -> str:
        return str(to_event(world.only(), CLOCK).body["headline"])

    killed, refused, ignored, starved = (World() for _ in range(4))
    killed.signal("SIGKILL", "host", CRON)
    killed.exit(by=9)
    refused.reset("sent", "no_socket", "closed port")
    ignored.signal("SIGTERM", "runtime", RUNC, result="ignored")
    ignored.at(2500).signal("SIGKILL", "runtime", RUNC)
    ignored.exit(by=9)
    starved.oom()
    starved.signal("SIGKILL", "kernel")
    starved.exit(by=9)
    assert [headline(world) for world in (killed, refused, ignored, starved)] == [
        "KilledByProcess",
        "ConnectionsRefused",
        "StopIgnored",
        "OutOfMemory",
    ]


def test_the_publisher_says_what_it_would_do(
    monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    publisher = get("events")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(UsageError, match="no way to the API"):
        publisher.require(EventsOptions(on=True))
    monkeypatch.setattr(module, "find", lambda kubeconfig: server.access)
    assert server.access.server in "".join(publisher.plan(EventsOptions(on=True)))
    made = publisher.make(EventsOptions(on=True), Means("n1", CLOCK, print, lambda: None))  # type: ignore[arg-type,return-value]
    made.send([item()])
    made.close()
    assert server.asked[0].body["source"]["host"] == "n1"
