# SPDX-License-Identifier: Apache-2.0
"""Both ways to read the ring, on the same kernel: mapped, and through libbpf's callback as on
machines whose memory order the mapping cannot rely on."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.ktrace import BACKEND
from tests.support.wait import wait_for
from tracer import backends, probes
from tracer.backends import Backend
from tracer.backends.ring import CopyingRing, MappedRing

TIMES = 23


@pytest.fixture
def child() -> Iterator[int]:
    process = subprocess.Popen(["sleep", "600"])
    yield process.pid
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("machine", "ring"),
    [
        ("x86_64", MappedRing),
        pytest.param("aarch64", CopyingRing, marks=pytest.mark.any_kernel),
    ],
)
def test_every_record_comes_once_and_in_order(
    machine: str, ring: type, child: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    probe = probes.get("signals")
    backend: Any = backends.choose(BACKEND, [probe])
    try:
        backend.attach([probe], {"kt_signal_mask": 1 << signal.SIGCONT - 1})
        assert type(backend._ring) is ring
        for _ in range(TIMES):
            os.kill(child, signal.SIGCONT)
        backend.detach()
        records = wait_for("the records", lambda: signals_in(backend, child))
        assert backend.lost() == {}
    finally:
        backend.close()
    assert [record.signal for record in records] == [signal.SIGCONT] * TIMES
    assert {record.sender_pid for record in records} == {os.getpid()}
    times = [record.time for record in records]
    assert times == sorted(times)


def signals_in(backend: Backend, pid: int) -> list[Any]:
    found = []
    while (batch := backend.read(0)) is not None:
        for run in batch.runs:
            schema = backend.schemas[run.kind]
            if schema.name == "signal":
                cells = schema.cells(memoryview(batch.data)[run.start : run.end])
                found += [record for record in cells if record.target_pid == pid]
    return found
