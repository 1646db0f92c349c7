# SPDX-License-Identifier: Apache-2.0
"""Whoever receives OTLP: a receiver in this process, which answers as it is told, and a real
collector, rotel, which sends on what it gets."""

from __future__ import annotations

import gzip
import importlib.util
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from tests.support.wait import wait_for

LOGS, METRICS = "/v1/logs", "/v1/metrics"


@dataclass(frozen=True)
class Record:
    """A log record: the attributes of its resource and its own, and the record in JSON."""

    resource: Mapping[str, Any]
    attributes: Mapping[str, Any]
    whole: Mapping[str, Any]


class Receiver(ThreadingHTTPServer):
    """OTLP over HTTP. `answers` are the next statuses, with headers; then everything is taken.
    `rejected` is the number of records that the next answer calls refused."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.answers: list[tuple[int, Mapping[str, str]]] = []
        self.rejected = 0
        self.asked = 0
        self.headers: list[Message] = []
        self._logs: list[ExportLogsServiceRequest] = []
        self._metrics: list[ExportMetricsServiceRequest] = []
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def take(self, path: str, headers: Message, body: bytes) -> bytes:
        if headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.headers.append(headers)
        if path == METRICS:
            self._metrics.append(ExportMetricsServiceRequest.FromString(body))
            return b""
        assert path == LOGS, path
        self._logs.append(ExportLogsServiceRequest.FromString(body))
        answer = ExportLogsServiceResponse()
        answer.partial_success.rejected_log_records, self.rejected = self.rejected, 0
        return answer.SerializeToString()

    @property
    def requests(self) -> int:
        """Of logs, that were taken."""
        return len(self._logs)

    @property
    def records(self) -> list[Record]:
        return [
            Record(_plain(one.resource.attributes), _plain(log.attributes), MessageToDict(log))
            for request in self._logs
            for one in request.resource_logs
            for scope in one.scope_logs
            for log in scope.log_records
        ]

    @property
    def metrics(self) -> dict[tuple[str, ...], float]:
        """The last number of each series, by the metric's name and the values of its attributes in
        the order of names."""
        found = {}
        for request in self._metrics:
            for one in request.resource_metrics:
                for metric in (m for scope in one.scope_metrics for m in scope.metrics):
                    for point in [*metric.sum.data_points, *metric.gauge.data_points]:
                        attributes = sorted(_plain(point.attributes).items())
                        key = (metric.name, *(str(value) for _, value in attributes))
                        found[key] = _number(point)
        return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1
        status, more = self.server.answers.pop(0) if self.server.answers else (200, {})
        answer = self.server.take(self.path, self.headers, body) if status == 200 else b""
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def collector(receiver: Receiver, directory: Path) -> Iterator[Mapping[str, str]]:
    """rotel, which sends everything on to the receiver. Its addresses by scheme."""
    found = importlib.util.find_spec("rotel")
    assert found and found.origin, "rotel is not installed: make install"
    program = Path(found.origin).with_name("rotel-agent")
    grpc, http = free_port(), free_port()
    words = [
        f"--pid-file={directory / 'rotel.pid'}",
        f"--otlp-grpc-endpoint=127.0.0.1:{grpc}",
        f"--otlp-http-endpoint=127.0.0.1:{http}",
        "--exporter=otlp",
        "--otlp-exporter-protocol=http",
        f"--otlp-exporter-endpoint={receiver.url}",
        "--batch-timeout=50ms",
    ]
    with (directory / "rotel.log").open("wb") as log:
        process = subprocess.Popen([program, "start", *words], stdout=log, stderr=log)
    try:
        for port in (grpc, http):
            wait_for("rotel to listen", lambda port=port: listens(port) or process.poll())  # type: ignore[misc]
        assert process.poll() is None, (directory / "rotel.log").read_text()
        yield {"grpc": f"grpc://127.0.0.1:{grpc}", "http": f"http://127.0.0.1:{http}"}
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def _plain(attributes: Sequence[Any]) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(inner) for inner in value.array_value.values]
    if kind == "kvlist_value":
        return _plain(value.kvlist_value.values)
    return getattr(value, kind) if kind else None


def _number(point: Any) -> float:
    return float(point.as_int if point.WhichOneof("value") == "as_int" else point.as_double)
