# SPDX-License-Identifier: Apache-2.0
"""Collectors that take a connection and never answer: tracing does not wait, the failure is said,
and every item is counted."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from tests.support.wait import wait_for
from tests.unit.agent.test_otlp import COUNT, Node
from tracer.agent.publishers import otlp as module


@pytest.fixture
def port() -> Iterator[int]:
    """The kernel takes connections here, and nobody reads."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_it_never_answers(port: int, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.3)
    node = Node(f"{scheme}://127.0.0.1:{port}")
    node.outlet.start()
    began = time.monotonic()
    node.exits()
    assert time.monotonic() - began < 0.3, "who traces does not wait"
    wait_for("another attempt", lambda: node.outlet.counts.retried >= 1)
    assert node.said
    node.outlet.stop(0.5)
    counts = node.outlet.counts
    assert (counts.sent, counts.dropped, counts.queued) == (0, COUNT, 0)
