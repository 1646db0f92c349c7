# SPDX-License-Identifier: Apache-2.0
"""What a collector gets: the same as an export, and each item once, whatever the collector does."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from tests.support.otlp import Receiver, free_port
from tests.support.wait import wait_for
from tests.unit.agent.test_feed import KINDS
from tests.unit.why.world import CLOCK, CRON, INIT, World, process
from tracer.agent.feed import Feed
from tracer.agent.health import Health
from tracer.agent.history.lives import Lives
from tracer.agent.item import Item, Severity
from tracer.agent.judge import Judge
from tracer.agent.outlet import Outlet
from tracer.agent.publishers import Means, get
from tracer.agent.publishers import otlp as module
from tracer.agent.publishers.otlp import MAX_REQUEST, OtlpOptions, OtlpSender
from tracer.model.errors import UsageError
from tracer.model.event import Event
from tracer.outputs.exporters import Target
from tracer.outputs.exporters.otlp import OtlpExport
from tracer.why.crash import FaultFinder

COUNT = 23


class Node(World):
    """A world whose verdicts and events go to a collector."""

    def __init__(self, url: str, events: str = "info", *, pause: float = 0.01) -> None:
        super().__init__()
        means = Means("n1", CLOCK, print, lambda: Health(attached={"exits": "tp"}, events=7))
        options = OtlpOptions(on=url, events=events)
        publisher = get("otlp")
        publisher.require(options)
        sender = publisher.make(options, means)
        assert isinstance(sender, OtlpSender)
        self.said: list[str] = []
        self.outlet = Outlet("otlp", sender, self.said.append, pause=pause)
        self.feed = Feed(
            KINDS, [self.outlet], CLOCK, "n1", Lives(CLOCK, print), lambda told, item: None
        )
        self.feed.judge = Judge(self.timelines, FaultFinder(), self.feed.explained)
        self.events: list[Event] = []

    def add(self, event: Event) -> Event:
        self.events.append(event)
        self.feed.event(event)
        self.now += 1_000_000
        return event

    def exits(self, count: int = COUNT) -> None:
        for number in range(count):
            self.exit(code=number, who=process(100 + number), ends_container=False)

    def tell_health(self) -> None:
        self.feed.put(Item("health", 0, Severity.INFO, "well", b"{}"))

    def sent(self, count: int) -> None:
        wait_for("the outlet to send", lambda: self.outlet.counts.sent >= count)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture
def node(receiver: Receiver) -> Iterator[Node]:
    made = Node(receiver.url)
    yield made
    made.outlet.stop(5)


def test_logs_are_those_of_an_export(receiver: Receiver, node: Node) -> None:
    node.exits()
    node.signal("SIGKILL", "host", CRON)
    node.outlet.start()
    node.sent(COUNT + 1)
    out = io.BytesIO()
    export = OtlpExport(Target(out, CLOCK, "n1", KINDS, list))
    for event in node.events:
        export.event(event)
    export.close()
    (line,) = out.getvalue().splitlines()
    whole = orjson.loads(line)["resourceLogs"]
    exported = [record for one in whole for record in one["scopeLogs"][0]["logRecords"]]
    got = [record.whole for record in receiver.records]
    assert len(got) == COUNT + 1
    assert [_comparable(r) for r in got] == [_comparable(r) for r in exported]
    for record in receiver.records:
        assert record.resource["k8s.namespace.name"] == "shop"
        assert record.resource["k8s.pod.name"] == "web-0"
        assert record.resource["k8s.node.name"] == "n1"


def test_hostile_names(receiver: Receiver, node: Node) -> None:
    """Each reaches the collector as it is; what is no text at all is counted."""
    hostile = ("\x1b[31m\n\u202e", "x" * 5000, 'a"} 1\n', "\0")
    for name in (*hostile, "\ud800"):
        assert INIT.place is not None and INIT.place.pod is not None
        place = replace(INIT.place)  # of its JSON, which another test may have made, none is kept
        place.rename(replace(INIT.place.pod, name=name), INIT.place.container)
        who = replace(process(50, name[:15]), place=place, argv=[name])
        node.exit(code=3, who=who, ends_container=False)
    node.exits()
    node.outlet.start()
    node.sent(len(hostile) + COUNT)
    names = [record.resource["k8s.pod.name"] for record in receiver.records]
    assert sorted(names) == sorted([*hostile, *["web-0"] * COUNT])
    assert node.outlet.counts.dropped == 1


def _comparable(record: Any) -> dict[str, Any]:
    """As protobuf writes it; orders of keys mean nothing."""
    told: dict[str, Any] = MessageToDict(ParseDict(record, LogRecord()))
    return {**told, "attributes": sorted(told["attributes"], key=lambda one: str(one["key"]))}


def test_metrics(receiver: Receiver, node: Node) -> None:
    node.exits()
    node.signal("SIGKILL", "host", CRON)
    node.exit(by=9)
    node.feed.judge.look(at_the_end=True)
    node.tell_health()
    node.outlet.start()
    node.sent(COUNT + 2 + 1 + 1)
    found = receiver.metrics
    assert found["ktrace.exits", "shop", "error", "false"] == COUNT - 1
    assert found["ktrace.verdicts", "shop", "certain", "killed_from_host"] == 1
    assert found["ktrace.events",] == 7
    assert found["ktrace.healthy",] == 1


@pytest.mark.parametrize(
    ("events", "codes"), [("", []), ("warn", [1]), ("info", [0, 1])], ids=["none", "warn", "info"]
)
def test_events_by_severity(receiver: Receiver, events: str, codes: Sequence[int]) -> None:
    node = Node(receiver.url, events)
    node.exit(code=0, who=process(12), ends_container=False)
    node.exit(code=1)
    node.tell_health()
    node.outlet.start()
    node.sent(len(codes) + 1)
    assert [r.attributes["ktrace.exit_code"] for r in receiver.records] == list(codes)
    node.outlet.stop(5)


def test_a_collector_that_is_busy(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter itself tries for some time; here it has none."""
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.5)
    node = Node(receiver.url)
    receiver.answers = [(503, {"Retry-After": "1"}), (429, {"Retry-After": "1"})]
    node.exits()
    node.outlet.start()
    node.sent(COUNT)
    assert [r.attributes["ktrace.exit_code"] for r in receiver.records] == list(range(COUNT))
    counts = node.outlet.counts
    assert (counts.retried, counts.dropped, counts.queued) == (2, 0, 0)
    assert node.said[0].startswith("ktrace: otlp: the collector answers 503 ")
    node.outlet.stop(5)


@pytest.mark.parametrize("status", [400, 413])
def test_what_is_refused_for_good_is_counted(receiver: Receiver, node: Node, status: int) -> None:
    receiver.answers = [(status, {})]
    node.exits()
    node.outlet.start()
    wait_for("the refusal", lambda: node.outlet.counts.dropped == COUNT)
    node.exits(1)
    node.sent(1)
    assert len(receiver.records) == 1
    assert node.outlet.counts.retried == 0


def test_records_that_the_collector_refuses(receiver: Receiver, node: Node) -> None:
    receiver.rejected = 5
    node.exits()
    node.outlet.start()
    node.sent(COUNT - 5)
    assert node.outlet.counts.dropped == 5


def test_no_rights_name_their_remedy(receiver: Receiver, node: Node) -> None:
    receiver.answers = [(401, {})]
    node.exits()
    node.outlet.start()
    node.sent(COUNT)
    assert "401" in node.said[0] and "OTEL_EXPORTER_OTLP_HEADERS" in node.said[0]


def test_nobody_there_and_then_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.5)
    port = free_port()
    node = Node(f"http://127.0.0.1:{port}")
    node.exits()
    node.signal("SIGKILL", "host", CRON)
    node.exit(by=9)
    node.feed.judge.look(at_the_end=True)
    node.tell_health()
    node.outlet.start()
    wait_for("some attempts", lambda: node.outlet.counts.retried >= 2)
    with Receiver(port) as receiver:
        node.sent(COUNT + 4)
        assert len(receiver.records) == COUNT + 3
        assert receiver.metrics["ktrace.verdicts", "shop", "certain", "killed_from_host"] == 1
        node.outlet.stop(5)


def test_a_redirection_takes_no_headers_away(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-secret=s3cret")
    with Receiver() as other:
        receiver.answers = [(307, {"Location": f"{other.url}/v1/logs"})]
        node = Node(receiver.url)
        node.exits(1)
        node.outlet.start()
        node.sent(1)
        assert other.asked == 0
        assert receiver.headers[0]["x-secret"] == "s3cret"
        node.outlet.stop(5)


def test_requests_are_bounded(receiver: Receiver, node: Node) -> None:
    """Collectors refuse requests of more than 4 MiB."""
    long = b"x" * 400_000
    padding = b'{"kind":"lost","node":null,"pod":null,"container":null,"probe":"%s"}' % long
    for number in range(10):
        node.feed.put(Item("lost", number, Severity.WARN, "lost", padding))
    node.outlet.start()
    wait_for("all", lambda: node.outlet.counts.queued == 0)
    counts = node.outlet.counts
    assert counts.sent == len(receiver.records) and counts.sent + counts.dropped == 10
    assert receiver.requests >= counts.sent * 400_000 / MAX_REQUEST


def test_what_the_exporter_cannot_send_is_dropped(
    receiver: Receiver, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_attributes", lambda named: {"x": "\udc80"})
    node.exits()
    node.outlet.start()
    wait_for("the items to go", lambda: node.outlet.counts.queued == 0)
    counts = node.outlet.counts
    assert counts.sent + counts.dropped == COUNT and counts.retried == 0


@pytest.mark.parametrize(
    "url",
    ["collector", "http://collector", "ftp://x:1", "http://:4318", "http://x:y", "http://x:1?a"],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UsageError, match="--otlp takes the address"):
        get("otlp").require(OtlpOptions(on=url))
    with pytest.raises(UsageError, match="takes info or warn"):
        get("otlp").require(OtlpOptions(on="http://x:1", events="all"))
