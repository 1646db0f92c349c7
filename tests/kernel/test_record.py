# SPDX-License-Identifier: Apache-2.0
"""Recordings of this kernel: a replay says to the byte what the live run said, and what goes wrong
while recording costs no more than it must."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.kernel.checks import TIMES
from tests.support.ktrace import Ktrace, run
from tests.support.raisers import Actor

TERM, USR1 = int(signal.SIGTERM), int(signal.SIGUSR1)


def replay(recording: Path, *arguments: str) -> str:
    ended = run("replay", str(recording), "-o", "json", *arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def raise_signals() -> None:
    """Senders and targets, those that end included."""
    with Actor() as sender, Actor() as target:
        target.do("ignore", USR1)
        sender.do("repeat", TIMES, "kill", target.pid, USR1)
        for _ in range(TIMES):
            ended = subprocess.run(["sh", "-c", "kill -TERM $$"], check=False)
            assert ended.returncode == -TERM


def test_a_replay_says_what_the_live_run_said(tmp_path: Path) -> None:
    file = tmp_path / "node.ktrace"
    with Ktrace("trace", "signals,exits", "--all", "--record", str(file)) as ktrace:
        raise_signals()
        events = ktrace.stop()
        shown = ktrace.output
    assert len([e for e in events if e["kind"] == "exit"]) >= TIMES
    sent = [e for e in events if e["kind"] == "signal"]
    assert len([e for e in sent if e["signal"]["number"] == USR1]) >= TIMES
    assert len([e for e in sent if e["signal"]["number"] == TERM]) >= TIMES
    assert replay(file).encode() == shown


def test_a_replay_ends_where_the_live_run_had_enough(tmp_path: Path) -> None:
    file = tmp_path / "node.ktrace"
    arguments = ("signals", "--all", "--signal", "USR1", "--count", "7", "--record", str(file))
    with Ktrace(*arguments) as ktrace, Actor() as sender, Actor() as target:
        target.do("ignore", USR1)
        sender.do("repeat", TIMES, "kill", target.pid, USR1)
        events = ktrace.wait()
        shown = ktrace.output
    assert len(events) == 7
    assert replay(file).encode() == shown


def test_what_was_never_looked_at_is_all_there(tmp_path: Path) -> None:
    file = tmp_path / "node.ktrace"
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("record", "signals", "--pid", str(target.pid), output=str(file)) as ktrace,
    ):
        target.do("ignore", USR1)
        sender.do("repeat", TIMES, "kill", target.pid, USR1)
        ktrace.stop()
        assert ktrace.output == b""
        assert ktrace.summary.events == TIMES
        who, whom = sender.pid, target.pid
    lines = replay(file).splitlines()
    assert len(lines) == TIMES
    assert all(f'"pid":{who},' in line and f'"pid":{whom},' in line for line in lines)
    assert os.stat(file).st_mode & 0o777 == 0o600
