# SPDX-License-Identifier: Apache-2.0
"""What of a recording is shown, and how fast."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.ktrace import run
from tests.unit.recording.test_recording import BEGAN, DATA, SECOND, UID, incident, record
from tracer.model.errors import UsageError
from tracer.model.event import Clock, Event
from tracer.model.selection import Selection
from tracer.outputs.jsonl import JsonLines
from tracer.recording import replay as module
from tracer.recording.metadata import Metadata
from tracer.recording.reader import Reader
from tracer.recording.replay import ReplaySource
from tracer.recording.view import Chosen, Window, moment

FIRST = DATA / "format-1.0.ktrace"
EVENTS = [json.loads(line) for line in (DATA / "format-1.0.jsonl").read_bytes().splitlines()]
SIGNALS = ["signal"] * 23


def kinds(*arguments: str) -> list[str]:
    ended = run("replay", str(FIRST), "-o", "json", *arguments)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line)["kind"] for line in ended.stdout.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--all"], [event["kind"] for event in EVENTS]),
        (["-p", "web-0"], [*SIGNALS, "oom", "exit", "backlog_drop", "lost"]),
        (["-p", UID], [*SIGNALS, "oom", "exit", "backlog_drop", "lost"]),
        (["-n", "sh*", "-c", "nginx"], [*SIGNALS, "oom", "exit", "backlog_drop", "lost"]),
        (["-l", "app=web,tier"], [*SIGNALS, "oom", "exit", "backlog_drop", "lost"]),
        (["-l", "app=db"], ["lost"]),
        (["--pid", "20"], ["exit", "page_alloc_failure", "lost"]),
        (["--count", "2"], ["signal", "signal"]),
        (["--pid", "20", "--count", "1"], ["exit"]),
        (["--from", "+52ms", "--to", "+55ms"], ["exit", "exit", "page_alloc_failure"]),
        (["--from", "2023-11-14T22:13:25.055Z"], ["tcp_reset", "backlog_drop", "lost"]),
        (["--from", "2023-11-14T23:13:25.056000000+01:00"], ["backlog_drop", "lost"]),
        (["--to", "2023-11-14T22:13:25.000000003"], ["signal", "signal"]),
        (["--from", "+1h"], []),
    ],
)
def test_what_is_shown(arguments: list[str], shown: list[str]) -> None:
    assert kinds(*arguments) == shown


@pytest.mark.parametrize("command", ["replay", "export"])
@pytest.mark.parametrize(
    ("pod", "hint"), [("shop/web-1", "the nearest: shop/web-0"), ("zzz", "it knows of 1 pod")]
)
def test_a_pod_that_is_not_in_it(command: str, pod: str, hint: str) -> None:
    ended = run(command, str(FIRST), "-p", pod)
    assert ended.returncode == 5
    assert f"nothing is recorded of a pod {pod!r}; {hint}" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-n", "nowhere"], True),
        (["-c", "nobody"], True),
        (["--from", "+1h"], True),
        (["-p", "web-0", "--to", "+0s"], True),
        (["-n", "shop"], False),
        ([], False),
    ],
)
def test_that_nothing_was_asked_for_that_is_there(arguments: list[str], said: bool) -> None:
    ended = run("replay", str(FIRST), *arguments)
    assert ended.returncode == 0
    assert ("is what was asked for" in ended.stderr) is said


@pytest.mark.parametrize("when", ["+", "+soon", "yesterday", "2023-13-14T22:13:25Z", "22:13"])
def test_what_is_no_time(when: str) -> None:
    ended = run("replay", str(FIRST), "--from", when)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


def test_a_moment_is_exact_to_the_nanosecond() -> None:
    told = Metadata(*("n", "k", "m", "b", "1"), began=7, clock_offset_ns=3, selection=Selection())
    assert moment("1970-01-01T00:00:01.000000005Z", told, "--from") == 1_000_000_002
    assert moment("+1m1s", told, "--from") == 61_000_000_007
    assert moment(None, told, "--from") is None
    with pytest.raises(UsageError):
        moment("now", told, "--from")


def test_the_table_is_the_live_one() -> None:
    ended = run("replay", str(FIRST), "--no-headers", "--pid", "20")
    (exit_, failure, lost) = ended.stdout.splitlines()
    assert "e\\x1b[31m\\n\\xff[20] ended, 3: the program's own code" in exit_
    assert "got no memory" in failure
    assert lost == "!! 19137 signals events lost here: too fast to be read"


@pytest.mark.parametrize("speed", [1.0, 10.0])
def test_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speed: float) -> None:
    record(incident(), tmp_path / "x")
    slept = [0.0]

    def sleep(seconds: float) -> None:
        slept[0] += seconds

    clock = SimpleNamespace(monotonic=lambda: 100 + slept[0], sleep=sleep)
    monkeypatch.setattr(module, "time", clock)
    with Reader(tmp_path / "x") as reader:
        source = ReplaySource(reader, speed)
        times: list[Any] = []
        while not (turn := source.turn(False, 0)).last:
            times.append((turn.now, slept[0]))
    for now, waited in times:
        assert waited == pytest.approx((now - BEGAN) / SECOND / speed)


def test_what_nobody_can_show_is_counted() -> None:
    """A made-up recording may decode into an integer that JSON has no room for."""
    lines = io.BytesIO()
    sink = JsonLines(lines, Clock(0), "node")
    chosen = Chosen(sink, Selection(everything=True), Window(), None, lambda: None)
    for body in ({"bytes": 1}, {"bytes": 1 << 70}, {"bytes": 2}):
        chosen.event(Event("page_alloc_failure", 0, None, None, body))
    chosen.flush()
    assert (chosen.events, chosen.unshown) == (2, 1)
    assert len(lines.getvalue().splitlines()) == 2
