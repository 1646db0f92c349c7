# SPDX-License-Identifier: Apache-2.0
"""What Prometheus reads: the counts of what happened, by hostile and by many names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.agent.test_feed import KINDS
from tests.unit.documents import page
from tests.unit.why.world import CLOCK, CRON, INIT, World, process
from tracer.agent import metrics as module
from tracer.agent.feed import Feed
from tracer.agent.health import Counts, Health, HistoryState
from tracer.agent.history.lives import Lives
from tracer.agent.judge import Judge
from tracer.agent.metrics import MAX_SERIES, MAX_VALUE, Metrics
from tracer.agent.outlet import Outlet
from tracer.agent.publishers import Means, get
from tracer.agent.publishers.prometheus import PATH, PrometheusOptions, PrometheusSender
from tracer.backends import Cost
from tracer.model.event import Event
from tracer.why.crash import FaultFinder

HOSTILE = 'a"} 1\nktrace_up{x="\\\x1b[31m\udc80é'

EVERYTHING = Health(
    attached={"signals": "tp", "oom": "kprobe"},
    missing=("resets",),
    events=23,
    lost={"signals": 5},
    silent={"cri": "no such file"},
    publishers={"otlp": Counts(sent=1, retried=2, dropped=3, queued=4, queued_bytes=5)},
    history=HistoryState(bytes=7, most_bytes=8, files=2, oldest_ns=1),
    cpu_seconds=1.5,
    memory_bytes=60 << 20,
    cost=Cost(100, 8 << 20, {"signals/on_signal": (0.25, 50)}),
)


class Target(World):
    """A world that Prometheus scrapes."""

    def __init__(self, *, pods: bool = False, health: Health = Health()) -> None:  # noqa: B008
        super().__init__()
        self.health = health
        means = Means("n1", CLOCK, print, lambda: self.health)
        sender = get("prometheus").make(PrometheusOptions(on=True, pods=pods), means)
        assert isinstance(sender, PrometheusSender)
        self.sender = sender
        self.outlet = Outlet("prometheus", sender, print)
        lives = Lives(CLOCK, lambda life: None)
        self.feed = Feed(KINDS, [self.outlet], CLOCK, "n1", lives, lambda told, item: None)
        self.feed.judge = Judge(self.timelines, FaultFinder(), self.feed.explained)

    def add(self, event: Event) -> Event:
        self.feed.event(event)
        self.now += 1_000_000
        return event

    def scrape(self) -> dict[tuple[str, ...], float]:
        """The samples, by their name and the values of their labels in the order of names."""
        self.outlet.start()
        self.outlet.stop(60)
        _, page = self.sender.pages()[PATH]()
        samples = [s for f in text_string_to_metric_families(page.decode()) for s in f.samples]
        found = {(s.name, *(s.labels[key] for key in sorted(s.labels))): s.value for s in samples}
        assert len(found) == len(samples), "no series comes twice"
        return found


def test_counts() -> None:
    target = Target()
    for number in range(23):
        target.exit(code=number % 2, who=process(100 + number), ends_container=False)
    target.signal("SIGKILL", "host", CRON)
    target.exit(by=9)
    target.feed.judge.look(at_the_end=True)
    found = target.scrape()
    assert found["ktrace_exits_total", "success", "false", "shop"] == 12
    assert found["ktrace_exits_total", "error", "false", "shop"] == 11
    assert found["ktrace_exits_total", "signal", "true", "shop"] == 1
    assert found["ktrace_signals_total", "shop", "host", "SIGKILL"] == 1
    assert found["ktrace_verdicts_total", "certain", "shop", "killed_from_host"] == 1


def test_an_event_counts_what_it_stands_for() -> None:
    target = Target()
    target.drop(count=23)
    assert [n for key, n in target.scrape().items() if key[0] == "ktrace_backlog_drops_total"] == [
        23
    ]


def test_every_probe_that_says_how_is_counted() -> None:
    counted = set(Metrics("n1", "1")._counted)
    assert counted == {kind for kind, probe in KINDS.items() if probe.metric}
    assert len(counted) > 8


def test_what_ktrace_does_and_costs() -> None:
    found = Target(health=EVERYTHING).scrape()
    expected = {
        ("ktrace_healthy",): 1,
        ("ktrace_probe_attached", "oom"): 1,
        ("ktrace_probe_attached", "resets"): 0,
        ("ktrace_events_total",): 23,
        ("ktrace_lost_events_total", "signals"): 5,
        ("ktrace_lost_events_total", "oom"): 0,
        ("ktrace_name_source_failed", "cri"): 1,
        ("ktrace_publisher_sent_total", "otlp"): 1,
        ("ktrace_publisher_retried_total", "otlp"): 2,
        ("ktrace_publisher_dropped_total", "otlp"): 3,
        ("ktrace_publisher_queue_items", "otlp"): 4,
        ("ktrace_publisher_queue_bytes", "otlp"): 5,
        ("ktrace_history_bytes",): 7,
        ("ktrace_cpu_seconds_total",): 1.5,
        ("ktrace_memory_bytes",): 60 << 20,
        ("ktrace_ring_bytes",): 100,
        ("ktrace_program_run_seconds_total", "signals/on_signal"): 0.25,
        ("ktrace_program_runs_total", "signals/on_signal"): 50,
    }
    assert {key: found.get(key) for key in expected} == expected


def _in_pod(target: Target, namespace: str, name: str) -> None:
    place = INIT.place
    assert place is not None and place.pod is not None
    pod = replace(place.pod, namespace=namespace, name=name)
    who = replace(process(9), place=replace(place, pod=pod))
    target.exit(code=0, who=who, ends_container=False)


def test_hostile_names() -> None:
    target = Target(pods=True)
    _in_pod(target, HOSTILE, "x" * 10_000)
    _in_pod(target, HOSTILE, "x" * 10_001)
    found = target.scrape()
    name = HOSTILE.replace("\udc80", "?")
    key = ("ktrace_exits_total", "success", "false", name, "x" * MAX_VALUE)
    assert found[key] == 2
    assert ("ktrace_up",) not in {key[:1] for key in found}


def test_pods_only_if_asked_for() -> None:
    for pods in (False, True):
        target = Target(pods=pods)
        _in_pod(target, "shop", "web-0")
        _in_pod(target, "shop", "web-1")
        exits = [key[3:] for key in target.scrape() if key[0] == "ktrace_exits_total"]
        assert exits == ([("shop", "web-0"), ("shop", "web-1")] if pods else [("shop",)])


def test_series_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target()
    monkeypatch.setattr(module, "MAX_SERIES", 10)
    for number in range(33):
        _in_pod(target, "steady", "web")
        _in_pod(target, f"n{number}", "web")
    found = target.scrape()
    exits = {key[3]: n for key, n in found.items() if key[0] == "ktrace_exits_total"}
    assert len(exits) == 10
    assert exits["steady"] == 33, "what is in use is not forgotten"
    assert found["ktrace_forgotten_series_total",] == 33 + 1 - 10
    assert MAX_SERIES == 1000


def test_labels_are_bounded() -> None:
    target = Target()
    for letter in "nü":
        _in_pod(target, letter * 300, "web")
    found = [key[3] for key in target.scrape() if key[0] == "ktrace_exits_total"]
    assert sorted(found) == ["n" * module.MAX_VALUE, "ü" * module.MAX_VALUE]


def test_every_metric_is_explained() -> None:
    explained = page("metrics.md")
    target = Target(health=EVERYTHING)
    text = target.sender.pages()[PATH]()[1].decode()
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(names) > 30
    assert [name for name in names if f"`{name}`" not in explained] == []
    assert len(set(names)) == len(names), "no metric comes twice"
