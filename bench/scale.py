# SPDX-License-Identifier: Apache-2.0
"""The publishers of many agents against one real Prometheus and one real OpenTelemetry collector.

    python -m bench.scale [AGENTS]

All publishers are in this process, with their own queues, threads and counts. Each agent has seen
the same: the deaths of ten containers in each of three namespaces. Prometheus scrapes every agent
every 30 seconds; then every agent sends its verdicts and metrics at the same moment.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import psutil

from tests.support.otlp import Receiver, collector
from tests.support.prometheus import prometheus
from tests.support.wait import wait_for
from tests.unit.why.world import CLOCK, CRON, INIT, World
from tracer.agent.health import Counts, Health, HistoryState
from tracer.agent.item import Item, Life, Severity
from tracer.agent.listener import Listener
from tracer.agent.metrics import Metrics
from tracer.agent.outlet import Outlet
from tracer.agent.publishers import Means, Page
from tracer.agent.publishers.otlp import HttpExporters, OtlpSender
from tracer.agent.publishers.prometheus import PATH, PrometheusSender
from tracer.backends import Cost
from tracer.model.event import Event, to_json
from tracer.why.engine import explain_all
from tracer.why.render import to_event

AGENTS = 1000
NAMESPACES, DEATHS = 3, 10
SCRAPE_SECONDS = 30
PATIENCE_SECONDS = 600.0
HEALTH = Health(
    attached=dict.fromkeys(("backlog", "exits", "oom", "pagealloc", "resets", "signals"), "tp"),
    events=1000,
    publishers={"otlp": Counts(), "prometheus": Counts()},
    history=HistoryState(oldest_ns=1),
    cost=Cost(0, 8 << 20),
)


class Incident(World):
    """A container that a process of the host killed: its events, and the verdict."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.signal("SIGKILL", "host", CRON)
        self.exit(by=9)
        (explanation,) = explain_all(self.timelines.stories({INIT.place.identity.pod_uid or ""}))  # type: ignore[union-attr]
        self.verdict = to_event(explanation, CLOCK)

    def add(self, event: Event) -> Event:
        self.events.append(event)
        return super().add(event)


class Agent:
    """The publishers of one node."""

    def __init__(self, number: int, incident: Incident, url: str) -> None:
        node = f"node{number}"
        means = Means(node, CLOCK, print, lambda: HEALTH)
        self.served = PrometheusSender(Metrics(node, version("ktrace")), means, None)
        sender = OtlpSender(HttpExporters(url), Metrics(node, version("ktrace")), means, "")
        self.outlet = Outlet("otlp", sender, lambda words: None)
        told = to_json(incident.verdict, CLOCK, node)
        self.items = [
            Item("verdict", time.time_ns(), Severity.WARN, "killed", told, Life(namespace=f"n{n}"))
            for n in range(NAMESPACES)
            for _ in range(DEATHS)
        ]
        for event in incident.events * DEATHS:
            for n in range(NAMESPACES):
                self.served.observe(_in_namespace(event, f"n{n}"))
        self.served.send(self.items)

    def send(self) -> None:
        for item in self.items:
            self.outlet.accept(item)
        self.outlet.accept(Item("health", time.time_ns(), Severity.INFO, "", b"{}"))
        self.outlet.start()


def _in_namespace(event: Event, namespace: str) -> Event:
    place = INIT.place
    assert place is not None and place.pod is not None
    moved = replace(place, pod=replace(place.pod, namespace=namespace))
    return replace(event, about=replace(INIT, place=moved))


def main(count: int) -> None:
    threading.stack_size(256 << 10)
    incident = Incident()
    with (
        tempfile.TemporaryDirectory() as scratch,
        Receiver() as receiver,
        collector(receiver, Path(scratch)) as addresses,
    ):
        agents = [Agent(n, incident, addresses["http"]) for n in range(count)]
        _scraped(agents, Path(scratch))
        _sent(agents, receiver)


def _scraped(agents: list[Agent], scratch: Path) -> None:
    pages: dict[str, Page] = {f"/{n}": a.served.pages()[PATH] for n, a in enumerate(agents)}
    listener = Listener("127.0.0.1:0", pages)
    listener.start()
    page = pages["/0"]()[1]
    targets = [f"{listener.address}/{n}" for n in range(len(agents))]
    with prometheus(scratch, targets, seconds=SCRAPE_SECONDS) as asked:
        wait_for(
            "all to be scraped",
            lambda: asked.query(f"sum(up) == {len(agents)}"),
            PATIENCE_SECONDS,
            interval=1,
        )
        ((_, series),) = asked.query('count({__name__=~"ktrace_.*"})')
        ((_, slowest),) = asked.query("max(scrape_duration_seconds)")
        memory = psutil.Process(asked.pid).memory_info().rss
    listener.stop()
    print(
        f"Prometheus: {len(agents)} agents, {series:.0f} series, {series / len(agents):.0f} each;"
        f" a scrape is {len(page)} bytes and takes at most {slowest:.2f} s;"
        f" Prometheus has {memory / 1e6:.0f} MB"
    )


def _sent(agents: list[Agent], receiver: Receiver) -> None:
    began = time.monotonic()
    for agent in agents:
        agent.send()
    items = sum(len(agent.items) + 1 for agent in agents)
    wait_for(
        "all to be sent or dropped",
        lambda: sum(a.outlet.counts.sent + a.outlet.counts.dropped for a in agents) == items,
        PATIENCE_SECONDS,
        interval=0.5,
    )
    took = time.monotonic() - began
    counts = [agent.outlet.counts for agent in agents]
    expected = sum(c.sent for c in counts) - len(agents)
    wait_for(
        "the collector to send on",
        lambda: len(receiver.records) >= expected,
        PATIENCE_SECONDS,
        interval=1,
    )
    print(
        f"OTLP: {items} items of {len(agents)} agents at once in {took:.0f} s;"
        f" {sum(c.sent for c in counts)} sent, {sum(c.retried for c in counts)} attempts repeated,"
        f" {sum(c.dropped for c in counts)} dropped; {len(receiver.records)} records came out of"
        " the collector"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else AGENTS)
