# SPDX-License-Identifier: Apache-2.0
"""The agent as a whole, on a made-up kernel: that it begins, says how it does and ends in order."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.wait import wait_for
from tests.unit.agent.fakes import board
from tests.unit.session.test_run import EVERY, WHOLE_NODE, Kernel, kernel
from tracer.agent import publishers
from tracer.agent.agent import (
    MAX_JSON,
    MAX_TIMELINES,
    QUIET_SECONDS,
    SOON_SECONDS,
    Agent,
    Rounds,
    Settings,
)
from tracer.agent.history.bounds import Bounds
from tracer.agent.history.segments import segments
from tracer.agent.listener import Listener
from tracer.agent.lock import holder
from tracer.identity.resolver import (
    FRUGAL_DEAD,
    FRUGAL_IMAGES,
    FRUGAL_NAMES,
    FRUGAL_PROCESSES,
)
from tracer.model import event
from tracer.model.errors import CannotOnThisKernel, KtraceError
from tracer.probes import AttachPoint
from tracer.recording.recorder import Recorder
from tracer.session.run import TraceRequest

__all__ = ["kernel"]
POINT = AttachPoint("tp_btf/x", ())


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> Settings:
    fakes = str(Path(board.__file__).parent)
    monkeypatch.setattr(publishers, "__path__", [*publishers.__path__, fakes])
    monkeypatch.setattr(event._kept, "most", None)  # put back afterwards
    kernel.attached = {probe.name: POINT for probe in EVERY}
    return Settings(
        directory=tmp_path / "history",
        bounds=Bounds(3600, 1 << 20, 1.0),
        request=TraceRequest(EVERY, WHOLE_NODE),
        node="n1",
        listen="127.0.0.1:0",
        publishers={"board": board.BoardOptions(on=True)},
    )


class Running:
    """An agent in a thread."""

    def __init__(self, settings: Settings) -> None:
        self.said: list[str] = []
        self.agent = Agent(settings, self.said.append)
        self.failure: KtraceError | None = None
        self._traces = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Running:
        self._thread.start()
        assert self._traces.wait(60)
        return self

    @property
    def board(self) -> Any:
        """Its publisher, which was imported under another name than here."""
        (outlet,) = self.agent._outlets
        return outlet.sender

    def __exit__(self, *_: object) -> None:
        self.agent.stop()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.agent.run(self._traces.set)
        except KtraceError as error:
            self.failure = error
        self._traces.set()


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Where the last listener is."""
    found: list[str] = []
    start = Listener.start

    def noted(listener: Listener) -> None:
        found.append(listener.address)
        start(listener)

    monkeypatch.setattr(Listener, "start", noted)
    yield found


def test_from_its_beginning_to_its_end(settings: Settings, address: list[str]) -> None:
    with Running(settings) as running:
        with urllib.request.urlopen(f"http://{address[0]}/healthz") as got:
            told = json.load(got)
        assert told["good"]
        assert told["attached"] == {probe.name: "tp_btf/x" for probe in EVERY}
        assert told["publishers"]["board"]["dropped"] == 0
        assert told["history"]["most_bytes"] == 1 << 20
        assert told["memory_bytes"] > 1 << 20
        with urllib.request.urlopen(f"http://{address[0]}/board") as got:
            assert got.read() == b"a board\n", "a publisher's own page"
        assert holder(settings.directory) is not None
        with Running(replace(settings, listen="")) as second:
            assert second.failure is not None
            assert "already serves" in second.failure.message
    assert running.failure is None
    assert running.board.closed.wait(60)
    assert holder(settings.directory) is None
    assert len(segments(settings.directory)) == 1
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://{address[0]}/healthz")


@pytest.mark.parametrize("kernel", [Kernel(*(probe.name for probe in EVERY))], indirect=True)
def test_a_kernel_that_refuses_everything(settings: Settings, kernel: Kernel) -> None:
    kernel.attached = {}
    with Running(settings) as running:
        pass
    assert isinstance(running.failure, CannotOnThisKernel)
    assert holder(settings.directory) is None


def test_an_agent_that_hangs_says_so(
    settings: Settings, address: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.agent.health.STUCK_SECONDS", -1.0)
    with Running(settings), pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"http://{address[0]}/healthz")
    assert raised.value.code == 503
    assert not json.load(raised.value)["good"]


def test_it_tells_how_it_does(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.agent.agent.HEALTH_SECONDS", 0.0)
    with Running(settings) as running:
        sent = running.board.sent
        item = wait_for("an item", lambda: next((i for i in sent if i.kind == "health"), None))
    assert item.told()["attached"]
    assert item.sentence.startswith(f"{len(EVERY)} probes are attached, ")


def test_it_is_frugal(settings: Settings) -> None:
    """It is always on, and what is gone has been judged."""
    with Running(settings) as running:
        agent = running.agent
        resolver = agent._run.session.resolver
        assert resolver._dead._most == FRUGAL_DEAD
        assert resolver._processes._most == FRUGAL_PROCESSES
        assert resolver._images._most == FRUGAL_IMAGES
        assert resolver._pod_names._most == resolver._container_names._most == FRUGAL_NAMES
        assert agent._timelines._lives._most == MAX_TIMELINES
        assert event._kept.most == MAX_JSON


def test_it_comes_round_less_often_while_nothing_happens(settings: Settings) -> None:
    """What is still to be written is written within a second all the same."""
    agent = Agent(settings, print)
    recorder = SimpleNamespace(waiting=False, patience=lambda now: 0.25)
    rounds = Rounds(agent, cast(Recorder, recorder))
    assert agent._lives.untold and rounds.patience(0) == SOON_SECONDS
    agent._lives.untold = False
    assert rounds.patience(0) == QUIET_SECONDS > SOON_SECONDS
    recorder.waiting = True
    assert rounds.patience(0) == 0.25
