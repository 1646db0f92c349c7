# SPDX-License-Identifier: Apache-2.0
"""What the agent counts, for publishers of metrics: verdicts, the events of each probe, and what
ktrace itself does and costs.

Labels come from containers, so the number of series is bounded: the one that was unused longest is
forgotten, and begins again at 0 if it comes back, as counters do after a restart.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tracer import probes
from tracer.agent.health import Health
from tracer.agent.item import Item
from tracer.model.event import Event, Place

# Series of one metric.
MAX_SERIES = 1000
# Characters of a label's value. Kubernetes' own names have at most 253.
MAX_VALUE = 256
NAMESPACE, POD = "namespace", "pod"

Kind = Literal["counter", "gauge"]
Values = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """One series: the values of its labels, its number, and since when it counts, in nanoseconds
    since 1970."""

    values: Values
    number: float
    since_ns: int


@dataclass(frozen=True, slots=True)
class Family:
    """A metric. `name` has no prefix and no ending such as `_total`. `unit` is `seconds`, `bytes`
    or empty, which counts things."""

    name: str
    help: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    points: Sequence[Point]


class Metrics:
    """May be used in any thread. With `pods`, metrics of containers also name the pod."""

    def __init__(self, node: str, version: str, *, pods: bool = False) -> None:
        self._began_ns = time.time_ns()
        self._node = node
        self._version = version
        self._pods = pods
        self._lock = threading.Lock()
        counted = [
            (_Counter(metric.name, metric.help, self._of(metric.labels)), metric, probe.whose)
            for probe in map(probes.get, probes.names())
            if (metric := probe.metric)
        ]
        self._counters = [counter for counter, _, _ in counted]
        self._counted = {
            kind: (counter, metric) for counter, metric, kinds in counted for kind in kinds
        }
        words = "Verdicts on containers that ended or were hurt."
        self._verdicts = _Counter("verdicts", words, self._of(("verdict", "certainty")))

    def event(self, event: Event) -> None:
        if found := self._counted.get(event.kind):
            counter, metric = found
            own = [value_of(event) for value_of in metric.labels.values()]
            values = _clean(*own, *self._whose(event.place))
            with self._lock:
                counter.add(values, metric.times(event))

    def verdict(self, item: Item) -> None:
        told, life = item.verdict(), item.life
        whose = (life.namespace, life.pod)[: 1 + self._pods] if life else ()
        values = _clean(told["verdict"], told["certainty"], *whose)
        with self._lock:
            self._verdicts.add(values, 1)

    def families(self, health: Health) -> Iterator[Family]:
        counters = (self._verdicts, *self._counters)
        with self._lock:
            told = [counter.family() for counter in counters]
            forgotten = sum(counter.forgotten for counter in counters)
        yield from told
        words = "Series that were forgotten because there were too many."
        yield self._one("forgotten_series", words, forgotten)
        yield from self._of_tracing(health)
        yield from self._of_publishers(health)
        yield from self._of_history(health)

    def _of(self, labels: Iterable[str]) -> tuple[str, ...]:
        return (*labels, NAMESPACE, POD)[: None if self._pods else -1]

    def _whose(self, place: Place | None) -> tuple[str | None, ...]:
        pod = place.pod if place else None
        namespace, name = (pod.namespace, pod.name) if pod else (None, None)
        return (namespace, name) if self._pods else (namespace,)

    def _of_tracing(self, health: Health) -> Iterator[Family]:
        info = Point((self._version, self._node), 1, self._began_ns)
        words = "The agent's version and node."
        yield Family("build_info", words, "gauge", "", ("version", "node"), (info,))
        yield self._one("healthy", "Whether it traces.", int(health.good), gauge=True)
        attached = {**dict.fromkeys(health.attached, 1), **dict.fromkeys(health.missing, 0)}
        words = "Whether the probe is attached; 0 if this node refuses it."
        yield self._some("probe_attached", words, attached, "probe", gauge=True)
        yield self._one("events", "Events of all probes.", health.events)
        lost = {name: health.lost.get(name, 0) for name in {*health.attached, *health.lost}}
        yield self._some("lost_events", "Events that were lost.", lost, "probe")
        words = "Events that refer to a process whose description was lost."
        yield self._one("undescribed_events", words, health.undescribed)
        words = "Timelines of what still ran that were forgotten because there were too many."
        yield self._one("forgotten_timelines", words, health.forgotten)
        silent = dict.fromkeys(health.silent, 1)
        words = "Sources of names that fail."
        yield self._some("name_source_failed", words, silent, "source", gauge=True)
        yield self._one("uptime", "Age of the agent.", health.seconds, "seconds", gauge=True)
        words = "Time since it last came round; tracing hangs if that grows."
        yield self._one("quiet", words, health.quiet_seconds, "seconds", gauge=True)
        words = "Processor time of ktrace's own process."
        yield self._one("cpu", words, health.cpu_seconds, "seconds")
        yield self._one("memory", "Resident memory.", health.memory_bytes, "bytes", gauge=True)
        cost = health.cost
        if cost.ring_bytes is not None:
            words = "What waits in the kernel's ring."
            yield self._one("ring", words, cost.ring_bytes, "bytes", gauge=True)
        if cost.ring_size is not None:
            yield self._one("ring_size", "The ring's size.", cost.ring_size, "bytes", gauge=True)
        if cost.programs:
            times = {name: seconds for name, (seconds, _) in cost.programs.items()}
            runs = {name: count for name, (_, count) in cost.programs.items()}
            words = "Time that BPF programs took, while the kernel counts it."
            yield self._some("program_run", words, times, "program", "seconds")
            yield self._some("program_runs", "Runs of BPF programs.", runs, "program")

    def _of_publishers(self, health: Health) -> Iterator[Family]:
        counts = health.publishers
        for name, help in (
            ("sent", "Items that a publisher has sent."),
            ("retried", "Attempts to send that were repeated."),
            ("dropped", "Items that a publisher dropped."),
        ):
            numbers = {key: getattr(count, name) for key, count in counts.items()}
            yield self._some(f"publisher_{name}", help, numbers, "publisher")
        queued = {key: count.queued for key, count in counts.items()}
        words = "Items that wait to be sent."
        yield self._some("publisher_queue_items", words, queued, "publisher", gauge=True)
        sizes = {key: count.queued_bytes for key, count in counts.items()}
        words = "Size of what waits to be sent."
        yield self._some("publisher_queue", words, sizes, "publisher", "bytes", gauge=True)

    def _of_history(self, health: Health) -> Iterator[Family]:
        history = health.history
        if history is None:
            return
        yield self._one("history", "The history's size.", history.bytes, "bytes", gauge=True)
        words = "The size that it may have."
        yield self._one("history_limit", words, history.most_bytes, "bytes", gauge=True)
        yield self._one("history_files", "Its files.", history.files, gauge=True)
        if history.oldest_ns is not None:
            age = (time.time_ns() - history.oldest_ns) / 1e9
            yield self._one("history_age", "How far it goes back.", age, "seconds", gauge=True)
        yield self._one("history_failures", "Failed writes.", history.failures)
        words = "Events that are not in the history."
        yield self._one("history_unrecorded_events", words, history.unrecorded)
        words = "Files that were removed to keep to the limits."
        yield self._one("history_removed_files", words, history.removed)

    def _one(
        self, name: str, help: str, number: float, unit: str = "", *, gauge: bool = False
    ) -> Family:
        point = Point((), number, self._began_ns)
        return Family(name, help, "gauge" if gauge else "counter", unit, (), (point,))

    def _some(
        self,
        name: str,
        help: str,
        numbers: Mapping[str, float],
        label: str,
        unit: str = "",
        *,
        gauge: bool = False,
    ) -> Family:
        points = [Point((key,), number, self._began_ns) for key, number in sorted(numbers.items())]
        return Family(name, help, "gauge" if gauge else "counter", unit, (label,), points)


class _Counter:
    """Of at most `MAX_SERIES` series, by the clean values of their labels."""

    def __init__(self, name: str, help: str, labels: tuple[str, ...]) -> None:
        self._name, self._help, self._labels = name, help, labels
        self._series: OrderedDict[Values, list[int]] = OrderedDict()
        self.forgotten = 0

    def add(self, values: Values, times: int) -> None:
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = [0, time.time_ns()]
            if len(self._series) > MAX_SERIES:
                self._series.popitem(last=False)
                self.forgotten += 1
        else:
            self._series.move_to_end(values)
        series[0] += times

    def family(self) -> Family:
        points = [Point(values, count, since) for values, (count, since) in self._series.items()]
        return Family(self._name, self._help, "counter", "", self._labels, points)


def _clean(*values: str | None) -> Values:
    """Valid UTF-8 of bounded length. What is not known is empty, which Prometheus takes for no
    label."""
    return tuple([_text(value) if value else "" for value in values])


def _text(value: str) -> str:
    if value.isascii() and len(value) <= MAX_VALUE:
        return value
    return value[:MAX_VALUE].encode(errors="replace").decode()
