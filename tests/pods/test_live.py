# SPDX-License-Identifier: Apache-2.0
"""`ktrace live` on a real terminal, while things happen to real pods; and its recording again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.containerd import Containerd, PodHandle
from tests.support.ktrace import run
from tests.support.tmux import START_SECONDS, Tmux
from tests.support.wait import wait_for
from tracer.recording.reader import Reader

TIMES = 23
LIMIT = 32 << 20
DD = ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]
# A shell that lives on when it is told to end.
STUBBORN = ["sh", "-c", "trap '' USR1; while true; do sleep 1000; done"]
HOSTILE = "\x1b[31m[bold]k"
SHOWN = "\\x1b[31m[bold]k"


@pytest.fixture
def web(containerd: Containerd) -> Iterator[PodHandle]:
    pod = containerd.run_pod("web-0", namespace="store", labels={"app": "web", "tier": "front"})
    yield pod
    pod.remove()


@pytest.fixture
def cache(containerd: Containerd) -> Iterator[PodHandle]:
    pod = containerd.run_pod("cache-0", namespace="store", labels={"app": "cache"})
    yield pod
    pod.remove()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Tmux]:
    with Tmux(tmp_path, columns=160) as running:
        yield running


def test_an_incident(
    web: PodHandle,
    cache: PodHandle,
    cri: tuple[str, str],
    terminal: Tmux,
    tmp_path: Path,
) -> None:
    recording, late, saved = (tmp_path / n for n in ("all.ktrace", "late.ktrace", "saved.jsonl"))
    settings = terminal.settings
    start(terminal, tmp_path, "signals,exits,oom", "-n", "store", "--record", str(recording), *cri)
    container = web.run("app", STUBBORN)
    for _ in range(TIMES):
        os.kill(container.pid, signal.SIGUSR1)
    kill_with_a_hostile_name(container.pid, tmp_path)
    assert container.wait_exit() == 137
    victim = cache.run("app", DD, memory_limit=LIMIT)
    assert victim.wait_exit() == 137

    terminal.wait_for("store/web-0", "store/cache-0", "oom 1", "signal ", "● all.ktrace", "0 lost")
    shown(terminal, "store/web-0", signal=TIMES + 1, exit=1)
    shown(terminal, "store/cache-0", oom=1, exit=1)
    settled(terminal)
    live = pods(terminal.screen)
    assert list(live) == ["store/cache-0", "store/web-0"], terminal.screen
    assert live["store/cache-0"]["oom"] == 1

    terminal.press("Down", "Enter")
    screen = terminal.wait_for("app=web tier=front", f"uid {web.uid}")
    assert f"SIGKILL from {SHOWN}[" in screen
    assert screen.count("SIGUSR1 from") > 0
    terminal.press("BSpace", "2")
    terminal.wait_for("WHAT")
    answer(terminal, "f", "filter (", "-p web-0")
    terminal.press("Enter")
    terminal.wait_for("filter -p web-0")
    wait_for("the others to go", lambda: "cache-0" not in terminal.screen)
    answer(terminal, "e", "save ", str(saved))
    terminal.press("Enter")
    terminal.wait_for("events in")
    events = [json.loads(line) for line in saved.read_bytes().splitlines()]
    assert {event["pod"]["name"] for event in events} == {"web-0"}
    sent = [e for e in events if e["kind"] == "signal" and e["signal"]["name"] == "SIGUSR1"]
    assert [e["sender"]["pid"] for e in sent] == [os.getpid()] * TIMES
    (kill,) = (e for e in events if e.get("sender") and e["sender"]["comm"] == HOSTILE)
    assert kill["target"]["pid"] == container.pid
    answer(terminal, "f", "filter (", "")
    terminal.press("Enter")
    terminal.wait_for("store/cache-0")
    terminal.press("1")
    terminal.wait_for("WORST")

    terminal.press("Space")
    terminal.wait_for("PAUSED, ")
    settled(terminal)
    live, before = pods(terminal.screen), waiting(terminal.screen)
    web.run("app", ["true"]).wait_exit()
    wait_for("what waits to be told", lambda: waiting(terminal.screen) > before)
    settled(terminal)
    assert pods(terminal.screen) == live
    terminal.press("Space")
    ends = live["store/web-0"]["exit"]
    shown(terminal, "store/web-0", exit=ends + 1)
    settled(terminal)

    terminal.press("r")
    terminal.wait_for("not recording")
    answer(terminal, "r", "record to:", str(late))
    wait_for("the first to be closed", lambda: ended(recording))
    terminal.press("Enter")
    terminal.wait_for("● late.ktrace")
    assert web.run("app", ["false"]).wait_exit() == 1
    shown(terminal, "store/web-0", exit=ends + 2)
    settled(terminal)
    live = pods(terminal.screen)
    terminal.press("q")
    screen = terminal.wait_for(" lost, ")
    # pods of another runtime may be on this machine, whose names nobody tells
    assert re.search(r"ktrace: \d+ events, 0 lost, \d+\.\d s(;|$)", screen, re.MULTILINE), screen
    assert not terminal.alternate
    assert terminal.settings == settings

    (end,) = (event for event in events_of(late) if event.get("container_exit"))
    assert (end["pod"]["name"], end["exit_code"]) == ("web-0", 1)
    replayed(terminal, recording, late, live)


def replayed(terminal: Tmux, first: Path, late: Path, live: dict[str, dict[str, int]]) -> None:
    """The two recordings together hold what was seen, pod for pod."""
    terminal.command("clear")
    terminal.command(sys.executable, "-m", "tracer", "live", str(first))
    terminal.wait_for("■ max", "store/web-0", "store/cache-0", first.name)
    settled(terminal)
    again = pods(terminal.screen)
    for event in events_of(late):
        counts = again[f"store/{event['pod']['name']}"]
        counts[event["kind"]] = counts.get(event["kind"], 0) + 1
    assert again == live
    terminal.press("q")
    terminal.wait_for(" lost, ")


@pytest.mark.parametrize("how", ["TERM", "HUP", "C-c"])
def test_it_leaves_the_terminal_as_it_was(
    web: PodHandle, cri: tuple[str, str], terminal: Tmux, tmp_path: Path, how: str
) -> None:
    settings = terminal.settings
    start(terminal, tmp_path, "exits", *cri)
    if how == "C-c":
        terminal.press(how)
    else:
        pid = subprocess.run(
            ["pgrep", "-f", f"tracer live exits.*{tmp_path}"], capture_output=True, check=True
        )
        os.kill(int(pid.stdout), getattr(signal, f"SIG{how}"))
    terminal.wait_for(" events, 0 lost, ")
    assert not terminal.alternate
    assert terminal.settings == settings


def test_no_terminal() -> None:
    ended = run("live")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 2
    assert "-o json" in ended.stderr


def start(terminal: Tmux, directory: Path, *arguments: str) -> None:
    ready = directory / "ready"
    command = (sys.executable, "-m", "tracer", "live", *arguments, "--ready-file", str(ready))
    terminal.command("clear")
    terminal.command(*command)
    wait_for("ktrace to be attached", ready.exists, START_SECONDS)
    terminal.wait_for("POD", "WORST")


def answer(terminal: Tmux, key: str, question: str, words: str) -> None:
    """Typing replaces what is proposed."""

    def line() -> str:
        return next((text for text in terminal.screen.splitlines() if question in text), "")

    terminal.press(key)
    terminal.wait_for(question)
    if words:
        terminal.type(words)
    else:
        terminal.press("BSpace")
    terminal.wait_until("what was typed", lambda: line().endswith(words or ":"))


def shown(terminal: Tmux, pod: str, **least: int) -> None:
    """Waits until so many events of each kind are told of a pod."""

    def look() -> bool:
        counts = pods(terminal.screen).get(pod, {})
        return all(counts.get(kind, 0) >= count for kind, count in least.items())

    wait_for(f"{least} of {pod}", look)


def settled(terminal: Tmux) -> None:
    """Two pictures in a row with the same rows: whatever was on its way has come."""
    before: list[dict[str, dict[str, int]]] = []

    def look() -> bool:
        before.append(pods(terminal.screen))
        return len(before) > 20 and all(rows == before[-1] for rows in before[-20:])

    wait_for("nothing more to come", look, interval=0.1)


def pods(screen: str) -> dict[str, dict[str, int]]:
    """Of the screen of pods: for each pod its counts by kind."""
    rows = {}
    for line in screen.splitlines():
        found = re.match(r"^[! ]\s+(store/\S+)\s+\d\d:\d\d:\d\d\s", line)
        if found:
            counts = re.findall(r"(signal|exit|oom) ([\d,]+)(?= |$)", line[60:])
            rows[found[1]] = {kind: int(count.replace(",", "")) for kind, count in counts}
    return rows


def waiting(screen: str) -> int:
    """How many events wait while it is paused."""
    found = re.search(r"PAUSED, ([\d,]+) wait", screen)
    return int(found[1].replace(",", "")) if found else -1


def kill_with_a_hostile_name(pid: int, directory: Path) -> None:
    killer = directory / HOSTILE
    shutil.copy(shutil.which("bash") or "/bin/bash", killer)
    subprocess.run([killer, "-c", f"kill -9 {pid}; exit 0"], check=True)


def ended(recording: Path) -> bool:
    with Reader(recording) as reader:
        list(reader.blocks())
        return reader.ended


def events_of(recording: Path) -> list[dict[str, Any]]:
    lines = run("replay", str(recording), "-o", "json").stdout.splitlines()
    return [json.loads(line) for line in lines]
