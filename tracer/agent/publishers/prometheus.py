# SPDX-License-Identifier: Apache-2.0
"""Metrics for Prometheus: the page `/metrics` of the agent's listener."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tracer.agent.item import Item
from tracer.agent.metrics import Family, Metrics
from tracer.agent.publishers import Means, Needs, Options, Page, Publisher, Sender, option
from tracer.model.errors import KtraceError
from tracer.model.event import Event

if TYPE_CHECKING:
    from prometheus_client.core import Metric

PATH = "/metrics"


@dataclass(frozen=True)
class PrometheusOptions(Options):
    on: bool = option(False, "Serve metrics for Prometheus: /metrics on the address of --listen.")
    pods: bool = option(False, "Metrics of containers also name the pod, with more series.")
    run_time: bool = option(
        False,
        "Measure the run time of each BPF program. Needs CAP_SYS_ADMIN; the kernel then measures"
        " the BPF programs of the whole node.",
    )


class PrometheusSender(Sender):
    """`measuring` is the descriptor that makes the kernel count run time, if it does."""

    observes = True

    def __init__(self, metrics: Metrics, means: Means, measuring: int | None) -> None:
        from prometheus_client import CollectorRegistry

        self._metrics = metrics
        self._means = means
        self._measuring = measuring
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def send(self, items: Sequence[Item]) -> None:
        for item in items:
            self._metrics.verdict(item)

    def observe(self, event: Event) -> None:
        self._metrics.event(event)

    def pages(self) -> Mapping[str, Page]:
        return {PATH: self._page}

    def close(self) -> None:
        if self._measuring is not None:
            os.close(self._measuring)

    def describe(self) -> Sequence[Metric]:
        """Asked by the registry: names are not checked in advance."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Asked by the registry."""
        return map(_metric, self._metrics.families(self._means.health()))

    def _page(self) -> tuple[str, bytes]:
        from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

        return CONTENT_TYPE_PLAIN_0_0_4, generate_latest(self._registry)


def _metric(family: Family) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    name = "_".join(filter(None, ("ktrace", family.name, family.unit)))
    make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric: CounterMetricFamily | GaugeMetricFamily
    metric = make(name, family.help, labels=family.labels)
    for point in family.points:
        metric.add_metric(point.values, point.number)
    return metric


def _make(options: PrometheusOptions, means: Means) -> Sender:
    measuring = None
    if options.run_time:
        from tracer.backends.bpf import count_run_time

        measuring = count_run_time()
        if measuring is None:
            means.say("ktrace: prometheus: the kernel does not count run time: no CAP_SYS_ADMIN")
    return PrometheusSender(
        Metrics(means.node, version("ktrace"), pods=options.pods), means, measuring
    )


def _require(options: PrometheusOptions) -> None:
    if find_spec("prometheus_client") is None:
        raise KtraceError(
            "metrics for Prometheus need the package prometheus-client",
            "pip install 'ktrace[agent]', or use the bundle, which has it",
        )


def _plan(options: PrometheusOptions) -> Sequence[str]:
    of = "by pod" if options.pods else "by namespace"
    return [f"metrics {of} at {PATH}"]


PUBLISHER = Publisher(
    help="metrics for Prometheus",
    options=PrometheusOptions,
    make=_make,
    plan=_plan,
    require=_require,
    serves=True,
    needs=Needs(capabilities={"run_time": "SYS_ADMIN"}),
)
