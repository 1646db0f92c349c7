# SPDX-License-Identifier: Apache-2.0
"""OpenTelemetry: verdicts, losses and events as logs, and metrics, over OTLP by the official
exporters. The scheme of the address is the protocol: http and https, or grpc and grpcs.

A record has the names of `ktrace export --format otlp`. Headers and certificates are the exporters'
own settings, in the environment: OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_CERTIFICATE.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from tracer.agent.item import Item, Severity
from tracer.agent.metrics import NAMESPACE, POD, Family, Metrics
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
from tracer.model.errors import KtraceError, UsageError
from tracer.model.event import Event
from tracer.outputs.exporters.otlp import INT64, flat, named, resource

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

SEVERITIES = {"info": Severity.INFO, "warn": Severity.WARN}
# Bytes of items in one request: collectors refuse more than 4 MiB by default, and items are told as
# long as what is sent for them.
MAX_REQUEST = 1 << 20
TIMEOUT_SECONDS = 10.0
# The collector will never take these requests.
REFUSING = frozenset((400, 413, 415, 422))
# In place of a status: the exporter did not even ask.
UNSENDABLE = "unsendable"
REFUSING_GRPC = frozenset((UNSENDABLE, "INVALID_ARGUMENT", "OUT_OF_RANGE", "UNIMPLEMENTED"))
HEADERS = "set OTEL_EXPORTER_OTLP_HEADERS in ktrace's environment"
NAMES = {NAMESPACE: "k8s.namespace.name", POD: "k8s.pod.name"}


@dataclass(frozen=True)
class OtlpOptions(Options):
    on: str = option(
        "", "Send logs and metrics to an OpenTelemetry collector: http(s)://… or grpc(s)://…", "URL"
    )
    events: str = option(
        "", "Also send events: 'warn' sends what must stand out, 'info' everything.", "SEVERITY"
    )
    pods: bool = option(False, "Metrics of containers also name the pod, with more series.")


class Failure(Exception):
    """An exporter's request failed. `status` is an HTTP status or the name of a gRPC one, None if
    there was no answer."""

    def __init__(self, reason: str, status: int | str | None, after: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.status, self.after = reason, status, after

    @property
    def for_good(self) -> bool:
        return self.status in REFUSING or self.status in REFUSING_GRPC

    @property
    def remedy(self) -> str | None:
        unknown = self.status in (401, 403, "UNAUTHENTICATED", "PERMISSION_DENIED")
        return HEADERS if unknown else None


class Exporters(Protocol):
    """Both raise `Failure`. `logs` returns the number of records that the collector refused."""

    def logs(self, records: Sequence[Any]) -> int: ...

    def metrics(self, data: Any) -> None: ...

    def close(self) -> None: ...


class OtlpSender(Sender):
    observes = True

    def __init__(self, exporters: Exporters, metrics: Metrics, means: Means, events: str) -> None:
        self.kinds = frozenset(("verdict", "lost", "health", *(("event",) if events else ())))
        self.least = SEVERITIES.get(events, Severity.WARN)
        self._exporters = exporters
        self._metrics = metrics
        self._means = means
        self._counted: Item | None = None

    def observe(self, event: Event) -> None:
        self._metrics.event(event)

    def send(self, items: Sequence[Item]) -> None:
        """Sends logs in pieces, then the metrics, which `health` items ask for: of several one is
        enough, as metrics only grow."""
        logs = [item for item in items if item.kind != "health"]
        health = [item for item in items if item.kind == "health"][-1:]
        self._count(logs)
        refused, words = 0, ""
        rest = logs
        while rest:
            piece = rest[: _fitting(rest)]
            try:
                count = self._exporters.logs([_record(item) for item in piece])
                if count:
                    words = f"the collector refused {count} records"
            except Failure as failure:
                if not failure.for_good:
                    raise _not_sent(failure, [*rest, *health], refused) from failure
                words, count = failure.reason, len(piece)
            refused += count
            rest = rest[len(piece) :]
        if health:
            try:
                self._exporters.metrics(_metrics_data(self._metrics, self._means))
            except Failure as failure:
                if not failure.for_good:
                    raise _not_sent(failure, health, refused) from failure
                refused, words = refused + 1, failure.reason
        if refused:
            raise Refused(words, refused)

    def close(self) -> None:
        self._exporters.close()

    def _count(self, logs: Sequence[Item]) -> None:
        """Counts each verdict once, however often it has to be sent. Those of one batch come again
        in their order, without the ones that were sent."""
        verdicts = [item for item in logs if item.kind == "verdict"]
        if not verdicts:
            return
        again = self._counted is not None and verdicts[-1] is self._counted
        if not again:
            for item in verdicts:
                self._metrics.verdict(item)
        self._counted = verdicts[-1]


def _not_sent(failure: Failure, rest: Sequence[Item], refused: int) -> NotSent:
    return NotSent(
        failure.reason, rest, after=failure.after, remedy=failure.remedy, dropped=refused
    )


def _fitting(items: Sequence[Item]) -> int:
    """How many of the first items fit into one request; at least one."""
    size = 0
    for number, item in enumerate(items):
        size += item.size
        if size > MAX_REQUEST and number:
            return number
    return len(items)


def _record(item: Item) -> Any:
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    told = item.told()
    record = LogRecord(
        timestamp=item.time_ns,
        observed_timestamp=item.time_ns,
        severity_number=SeverityNumber(item.severity),
        severity_text=item.severity.name,
        body=item.sentence.encode(errors="replace").decode(),
        attributes=_attributes(named(told, item.about)),
        event_name=f"ktrace.{told['kind']}",
    )
    return ReadableLogRecord(
        record,
        Resource(_attributes(resource(told))),
        InstrumentationScope("ktrace", version("ktrace")),
    )


def _attributes(named: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    """Nested objects become dotted names; null is left out."""
    return {
        key: _value(value)
        for name, whole in named
        for key, value in flat(name, whole)
        if value is not None
    }


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_value(inner) for inner in value if inner is not None]
    if isinstance(value, dict):
        return _attributes(iter(value.items()))
    if isinstance(value, int) and value not in INT64:
        return str(value)
    return value


def _metrics_data(metrics: Metrics, means: Means) -> Any:
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    now = time.time_ns()
    told = [_metric(family, now) for family in metrics.families(means.health()) if family.points]
    scope = ScopeMetrics(InstrumentationScope("ktrace", version("ktrace")), told, "")
    node = {"host.name": means.node, "k8s.node.name": means.node} if means.node else {}
    own = Resource({"service.name": "ktrace", "service.version": version("ktrace"), **node})
    return MetricsData([ResourceMetrics(own, [scope], "")])


def _metric(family: Family, now: int) -> Any:
    from opentelemetry.sdk.metrics.export import (
        AggregationTemporality,
        Gauge,
        Metric,
        NumberDataPoint,
        Sum,
    )

    labels = [NAMES.get(label, f"ktrace.{label}") for label in family.labels]
    points = [
        NumberDataPoint(
            {name: value for name, value in zip(labels, point.values, strict=True) if value},
            point.since_ns,
            now,
            point.number,
        )
        for point in family.points
    ]
    data = (
        Sum(points, AggregationTemporality.CUMULATIVE, True)
        if family.kind == "counter"
        else Gauge(points)
    )
    unit = {"seconds": "s", "bytes": "By"}.get(family.unit, "1")
    return Metric(f"ktrace.{family.name}", family.help, unit, data)


class HttpExporters:
    """Over OTLP/HTTP. Hooks of the sessions see requests and answers: the exporters only tell
    whether they succeeded."""

    def __init__(self, address: str) -> None:
        from opentelemetry.exporter.otlp.proto.http import Compression
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from requests import Session

        self._ear = _Ear()
        self._asked = False
        self._answer: Response | None = None
        base = address.rstrip("/")
        more: dict[str, Any] = {"timeout": TIMEOUT_SECONDS, "compression": Compression.Gzip}
        logs, metrics = Session(), Session()
        for session in (logs, metrics):
            session.max_redirects = 0  # headers with secrets are for this address
            session.hooks["response"].append(self._answered)
            session.auth = self._asking
        self._logs = OTLPLogExporter(f"{base}/v1/logs", session=logs, **more)
        self._metrics = OTLPMetricExporter(f"{base}/v1/metrics", session=metrics, **more)

    def logs(self, records: Sequence[Any]) -> int:
        self._export(lambda: self._logs.export(records))
        return self._refused()

    def metrics(self, data: Any) -> None:
        self._export(lambda: self._metrics.export(data))

    def close(self) -> None:
        for exporter in (self._logs, self._metrics):
            exporter.shutdown()

    def _asking(self, request: PreparedRequest) -> PreparedRequest:
        self._asked = True
        return request

    def _answered(self, answer: Response, *args: Any, **kwargs: Any) -> None:
        self._answer = answer

    def _export(self, export: Callable[[], Any]) -> None:
        self._answer, self._asked = None, False
        self._ear.words = ""
        if export().name == "SUCCESS":
            return
        answer: Response | None = self._answer
        if answer is None:
            raise Failure(self._ear.words or "no answer", None if self._asked else UNSENDABLE)
        asked = answer.headers.get("Retry-After", "")
        after = float(asked) if asked.isdecimal() else None
        reason = f"the collector answers {answer.status_code} {answer.reason}"
        raise Failure(reason, answer.status_code, after)

    def _refused(self) -> int:
        from google.protobuf.message import DecodeError
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

        try:
            told = ExportLogsServiceResponse.FromString(self._answer.content)  # type: ignore[union-attr]
        except DecodeError:  # some answer in JSON, or not at all
            return 0
        return int(told.partial_success.rejected_log_records)


class GrpcExporters:
    """Over OTLP/gRPC. The exporters tell the status only in their log."""

    def __init__(self, address: str, insecure: bool) -> None:
        from grpc import Compression
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

        self._ear = _Ear()
        more: dict[str, Any] = {"insecure": insecure, "timeout": TIMEOUT_SECONDS}
        self._logs = OTLPLogExporter(address, compression=Compression.Gzip, **more)
        self._metrics = OTLPMetricExporter(address, compression=Compression.Gzip, **more)

    def logs(self, records: Sequence[Any]) -> int:
        self._export(lambda: self._logs.export(records))
        return 0

    def metrics(self, data: Any) -> None:
        self._export(lambda: self._metrics.export(data))

    def close(self) -> None:
        self._logs.shutdown()
        self._metrics.shutdown()

    def _export(self, export: Callable[[], Any]) -> None:
        self._ear.words, self._ear.status = "", None
        if export().name != "SUCCESS":
            raise Failure(self._ear.words or "no answer", self._ear.status)


class _Ear(logging.Handler):
    """Hears what the exporters say, in place of the terminal. They keep quiet about repetitions,
    which the outlet does better."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.words = ""
        self.status: str | None = None
        root = logging.getLogger("opentelemetry")
        root.handlers[:] = [self]
        root.propagate = False
        for name, logger in logging.root.manager.loggerDict.items():
            if name.startswith("opentelemetry.") and isinstance(logger, logging.Logger):
                logger.filters.clear()

    def emit(self, record: logging.LogRecord) -> None:
        self.words = record.getMessage()
        values = record.args if isinstance(record.args, tuple) else ()
        codes = [str(getattr(v, "name", "")) for v in values if type(v).__name__ == "StatusCode"]
        self.status = codes[0] if codes else None


def _make(options: OtlpOptions, means: Means) -> Sender:
    scheme, address = _address(options.on)
    exporters: Exporters
    if scheme in ("http", "https"):
        exporters = HttpExporters(address)
    else:
        exporters = GrpcExporters(address, insecure=scheme == "grpc")
    metrics = Metrics(means.node, version("ktrace"), pods=options.pods)
    return OtlpSender(exporters, metrics, means, options.events)


def _address(url: str) -> tuple[str, str]:
    """The scheme, and the address as its exporter wants it."""
    try:
        parts = urlsplit(url)
        whole = bool(parts.hostname) and parts.port is not None
    except ValueError:
        whole = False
    if not whole or parts.scheme not in ("http", "https", "grpc", "grpcs") or parts.query:
        raise UsageError(
            f"--otlp takes the address of a collector, and not {url!r}",
            "such as http://collector:4318 or grpc://collector:4317",
        )
    return parts.scheme, url if parts.scheme.startswith("http") else parts.netloc


def _require(options: OtlpOptions) -> None:
    scheme, _ = _address(options.on)
    if options.events and options.events not in SEVERITIES:
        raise UsageError(f"--otlp-events takes info or warn, and not {options.events!r}")
    kind, extra = ("http", "agent") if scheme.startswith("http") else ("grpc", "otlp-grpc")
    try:
        found = find_spec(f"opentelemetry.exporter.otlp.proto.{kind}")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise KtraceError(
            f"OTLP over {kind} needs the package opentelemetry-exporter-otlp-proto-{kind}",
            f"pip install 'ktrace[{extra}]'",
        )


def _plan(options: OtlpOptions) -> Sequence[str]:
    what = "verdicts and losses"
    if options.events:
        what = f"verdicts, losses and events from {options.events} on"
    return [f"{what} as logs to {options.on}", "metrics to the same, once a minute"]


PUBLISHER = Publisher(
    help="OpenTelemetry",
    options=OtlpOptions,
    make=_make,
    plan=_plan,
    require=_require,
    needs=Needs(secrets={"headers": "OTEL_EXPORTER_OTLP_HEADERS"}),
)
