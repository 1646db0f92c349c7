# SPDX-License-Identifier: Apache-2.0
"""The agent beside a real collector and a real Prometheus: exactly what happened arrives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.containerd import Containerd
from tests.support.ktrace import END_SECONDS, ROOT, START_SECONDS
from tests.support.otlp import Receiver, Record, collector, free_port
from tests.support.prometheus import prometheus
from tests.support.wait import wait_for

COUNT = 23
RUNS = ("ktrace_program_runs_total", "signals/on_signal_generate")
# Other tests may run beside this one, and an agent sees them all.
NAMESPACE = f"shop-{os.getpid()}"


@contextmanager
def agent(directory: Path, *words: str) -> Iterator[None]:
    """Traces in the block, and ends in order with it."""
    ready = directory / "ready"
    command = [sys.executable, "-m", "tracer", "agent", "--ready-file", str(ready)]
    command += ["--dir", str(directory / "history"), *words]
    with (directory / "said").open("wb") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=said, cwd=ROOT)
    try:
        wait_for("the agent", lambda: ready.exists() or process.poll() is not None, START_SECONDS)
        assert process.poll() is None, (directory / "said").read_text()
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(END_SECONDS) == 0, (directory / "said").read_text()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_collector(
    containerd: Containerd, cri: tuple[str, str], tmp_path: Path, protocol: str
) -> None:
    """Signals of a container, its death, the verdict, and the counts of them."""
    pod = containerd.run_pod("web-0", NAMESPACE)
    try:
        with Receiver() as receiver, collector(receiver, tmp_path) as addresses:
            words = ("--otlp", addresses[protocol], "--otlp-events", "info", "--listen", "")
            with agent(tmp_path, *words, *cri):
                container = pod.run("app", ["sleep", "100000"])
                for _ in range(COUNT):
                    os.kill(container.pid, signal.SIGCONT)
                os.kill(container.pid, signal.SIGKILL)
                container.wait_exit()
            metric = ("ktrace.verdicts", NAMESPACE, "certain", "killed_from_host")
            wait_for("the collector", lambda: metric in receiver.metrics)
            wait_for("the verdict", lambda: _of(receiver, "ktrace.verdict"))
            signals = [
                record
                for record in _of(receiver, "ktrace.signal")
                if record.attributes["ktrace.signal.name"] == "SIGCONT"
            ]
            assert len(signals) == COUNT
            for record in signals:
                assert record.resource["k8s.pod.name"] == "web-0"
                assert record.resource["k8s.pod.uid"] == pod.uid
                assert record.resource["k8s.container.name"] == "app"
                assert record.resource["container.id"] == container.id
                assert record.attributes["process.pid"] == container.pid
                assert record.attributes["ktrace.sender.pid"] == os.getpid()
            (verdict,) = _of(receiver, "ktrace.verdict")
            assert verdict.attributes["ktrace.verdict"] == "killed_from_host"
            assert verdict.whole["severityText"] == "WARN"
            found = receiver.metrics
            assert found[metric] == 1
            assert found["ktrace.signals", NAMESPACE, "host", "SIGCONT"] == COUNT
            assert found["ktrace.exits", NAMESPACE, "signal", "true"] == 1
    finally:
        pod.remove()


def test_metrics_over_http(containerd: Containerd, cri: tuple[str, str], tmp_path: Path) -> None:
    pod = containerd.run_pod("web-0", NAMESPACE)
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    key = ("ktrace_verdicts_total", "certain", NAMESPACE, "web-0", "killed_from_host")
    words = ("--prometheus", "--prometheus-pods", "--prometheus-run-time")
    try:
        with agent(tmp_path, *words, "--listen", f"127.0.0.1:{port}", *cri):
            container = pod.run("app", ["sleep", "100000"])
            for _ in range(COUNT):
                os.kill(container.pid, signal.SIGCONT)
            os.kill(container.pid, signal.SIGKILL)
            wait_for("the verdict", lambda: scraped(url).get(key), interval=0.3)
            # asked of the kernel now and then, not for each page
            wait_for("all runs", lambda: scraped(url).get(RUNS, 0) >= COUNT, interval=0.3)
            found = scraped(url)
    finally:
        pod.remove()
    assert found[key] == 1
    name = "ktrace_signals_total"
    assert found[name, NAMESPACE, "host", "web-0", "SIGCONT"] == COUNT
    assert found["ktrace_program_run_seconds_total", "signals/on_signal_generate"] > 0
    assert 20e6 < found["ktrace_memory_bytes",] < 300e6
    assert found["ktrace_ring_bytes",] <= found["ktrace_ring_size_bytes",]


def test_prometheus(containerd: Containerd, cri: tuple[str, str], tmp_path: Path) -> None:
    """A real one scrapes the agent, the alert fires, and it understands the whole dashboard."""
    pod = containerd.run_pod("web-0", NAMESPACE)
    address = f"127.0.0.1:{free_port()}"
    rules = [ROOT / "deploy" / "prometheus" / "rules.yaml"]
    try:
        with (
            agent(tmp_path, "--prometheus", "--listen", address, *cri),
            prometheus(tmp_path, [f"{address}/metrics"], rules) as asked,
        ):
            for _ in range(COUNT):
                container = pod.run("app", ["false"])
                container.wait_exit()
            container = pod.run("app", ["sleep", "100000"])
            os.kill(container.pid, signal.SIGKILL)
            kill = f'ktrace_verdicts_total{{namespace="{NAMESPACE}",verdict="killed_from_host"}}'
            wait_for("the verdict", lambda: asked.query(kill), interval=0.3)
            assert [number for _, number in asked.query(kill)] == [1]
            exits = f'ktrace_exits_total{{namespace="{NAMESPACE}",class="error"}}'
            assert sum(number for _, number in asked.query(exits)) == COUNT
            killed = {
                "alertname": "KtraceContainersKilled",
                "namespace": NAMESPACE,
                "verdict": "killed_from_host",
            }
            wait_for(
                "the alert",
                lambda: any(killed.items() <= labels.items() for labels in asked.firing()),
                interval=0.3,
            )
            for title, expression in _dashboard():
                assert asked.ask("query", query=expression)["result"] is not None, title
            named = {labels["__name__"] for labels, _ in asked.query('{__name__=~"ktrace_.*"}')}
            assert named >= {"ktrace_healthy", "ktrace_cpu_seconds_total", "ktrace_history_bytes"}
    finally:
        pod.remove()


def _dashboard() -> Iterator[tuple[str, str]]:
    """What the panels ask, with Grafana's variables filled in."""
    panels = json.loads((ROOT / "deploy" / "grafana" / "ktrace.json").read_text())["panels"]
    variables = {"$__rate_interval": "1m", "$__range": "1h", "$namespace": ".*", "$instance": ".*"}
    for panel in panels:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for name, value in variables.items():
                expression = expression.replace(name, value)
            assert "$" not in expression
            yield panel["title"], expression


def _of(receiver: Receiver, kind: str) -> list[Record]:
    return [
        record
        for record in receiver.records
        if record.whole["eventName"] == kind
        and record.resource.get("k8s.namespace.name") == NAMESPACE
    ]


def scraped(url: str) -> dict[tuple[str, ...], float]:
    with urllib.request.urlopen(url, timeout=60) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    samples = [sample for family in families for sample in family.samples]
    return {(s.name, *(s.labels[key] for key in sorted(s.labels))): s.value for s in samples}
