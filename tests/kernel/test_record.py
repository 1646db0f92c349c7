# SPDX-License-Identifier: Apache-2.0
"""Recordings of this kernel: a replay says to the byte what the live run said, and what goes wrong
while recording costs no more than it must."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel.checks import TIMES
from tests.support.cgroups import plain_cgroup
from tests.support.ktrace import Ktrace, run
from tests.support.raisers import Actor
from tests.support.wait import wait_for
from tracer.recording.reader import Reader
from tracer.recording.recorder import FLUSH_EVENTS

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


@pytest.mark.any_kernel
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


@pytest.mark.any_kernel
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


@pytest.mark.any_kernel
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


def lines_of(recording: Path) -> int:
    return len(replay(recording).splitlines())


@pytest.mark.any_kernel
def test_a_killed_ktrace_leaves_what_was_flushed(tmp_path: Path) -> None:
    file = tmp_path / "node.ktrace"
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("record", "signals", "--pid", str(target.pid), output=str(file)) as ktrace,
    ):
        target.do("ignore", USR1)
        sender.do("repeat", TIMES, "kill", target.pid, USR1)
        wait_for("the flush", lambda: lines_of(file) == TIMES)
        sender.do("kill", target.pid, USR1)
        os.kill(ktrace.pid, signal.SIGKILL)
        assert ktrace.exit_code() == -signal.SIGKILL
    assert lines_of(file) in (TIMES, TIMES + 1)
    assert '"complete":false' in run("info", str(file), "-o", "json").stdout


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.any_kernel
def test_a_full_disk_ends_the_recording_and_not_the_tracing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        file = disk / "node.ktrace"
        arguments = ("signals", "--signal", "USR1", "--record", str(file))
        with (
            Actor() as sender,
            Actor() as target,
            Ktrace(*arguments, "--pid", str(target.pid)) as ktrace,
        ):
            target.do("ignore", USR1)
            sender.do("repeat", TIMES, "kill", target.pid, USR1)
            wait_for("the flush", lambda: lines_of(file) == TIMES)
            (disk / "rest").write_bytes(bytes(disk_free(disk)))
            sender.do("repeat", 2 * FLUSH_EVENTS, "kill", target.pid, USR1)
            wait_for("the end", lambda: "the recording ends here" in ktrace.stderr)
            sender.do("repeat", TIMES, "kill", target.pid, USR1)
            events = ktrace.stop()
            stderr = ktrace.stderr
            shown = ktrace.output.decode().splitlines()
        assert len(events) == 2 * TIMES + 2 * FLUSH_EVENTS
        assert stderr.count("the recording ends here: No space left on device") == 1
        kept = replay(file).splitlines()
        assert TIMES <= len(kept) < len(shown)
        assert kept == shown[: len(kept)]
        assert f"; {len(shown) - len(kept)} events are not in the recording" in stderr


def disk_free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


@pytest.mark.any_kernel
def test_a_directory_that_goes_away_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    file = folder / "node.ktrace"
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid), "--record", str(file)) as ktrace,
    ):
        target.do("ignore", USR1)
        shutil.rmtree(folder)
        sender.do("repeat", TIMES, "kill", target.pid, USR1)
        assert len(ktrace.stop()) == TIMES
        assert "the recording ends here: the file was deleted; tracing goes on" in ktrace.stderr
        assert f"{TIMES} events are not in the recording" in ktrace.stderr


@pytest.mark.any_kernel
def test_who_only_records_ends_with_an_error_when_that_fails(tmp_path: Path) -> None:
    file = tmp_path / "node.ktrace"
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("record", "signals", "--pid", str(target.pid), output=str(file)) as ktrace,
    ):
        target.do("ignore", USR1)
        file.unlink()
        sender.do("repeat", TIMES, "kill", target.pid, USR1)
        assert ktrace.exit_code() == 1
        assert "not everything was recorded" in ktrace.stderr


@pytest.mark.any_kernel
def test_arguments_can_be_left_out(tmp_path: Path) -> None:
    file = tmp_path / "node.ktrace"
    arguments = ("exits", "--all", "--no-argv", "--record", str(file))
    with Ktrace(*arguments) as ktrace:
        subprocess.run(["sh", "-c", "exit 3", "secret-word"], check=False)
        wait_for("the exit", lambda: any(e["exit_code"] == 3 for e in ktrace.events))
        events = ktrace.stop()
        shown = ktrace.output
    assert {str(event["process"]["argv"]) for event in events} == {"None"}
    assert replay(file).encode() == shown
    with Reader(file) as reader:
        cells = [bytes(part.cells) for turn in reader.turns() for part in turn.parts]
    assert cells
    assert not any(b"secret-word" in data for data in cells)


def test_when_cgroups_began_and_ended_is_kept(tmp_path: Path) -> None:
    """Of those that were described: one in which nobody was seen is not."""
    file = tmp_path / "node.ktrace"
    spans: dict[int, tuple[int, int, int, int]] = {}
    with plain_cgroup() as before:
        unseen = before.stat().st_ino
        with Ktrace("record", "signals", "--all", output=str(file)) as ktrace:
            before.rmdir()
            for _ in range(TIMES):
                start = boot_ns()
                with plain_cgroup() as cgroup:
                    made, number = boot_ns(), cgroup.stat().st_ino
                    stop = boot_ns()
                spans[number] = start, made, stop, boot_ns()
            before.mkdir()
            ktrace.stop()
    told: dict[str, dict[int, list[int]]] = {"cgroup": {}, "cgroup_end": {}}
    with Reader(file) as reader:
        schemas = reader.metadata.schemas
        for part in (part for turn in reader.turns() for part in turn.parts):
            if schemas[part.kind].name in told:
                for record in schemas[part.kind].cells(part.cells):
                    times = told[schemas[part.kind].name].setdefault(record.cgroup, [])
                    times.append(record.time)
    assert len(spans) == TIMES
    for number, (start, made, stop, gone) in spans.items():
        (began,) = told["cgroup"][number]
        (ended,) = told["cgroup_end"][number]
        assert start <= began <= made <= stop <= ended <= gone
    assert unseen not in told["cgroup_end"]


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@pytest.mark.any_kernel
def test_a_flight_recording_of_a_trigger(tmp_path: Path) -> None:
    folder = tmp_path / "flights"
    arguments = ("--all", "--flight", "10m", "--trigger", "exit:code==77", "--after", "0s")
    with Ktrace("record", "signals,exits", *arguments, output=str(folder)) as ktrace:
        raise_signals()
        assert subprocess.run(["sh", "-c", "exit 77"], check=False).returncode == 77
        wait_for("a recording", lambda: "exit:code==77: recording to" in ktrace.stderr)
        ktrace.signal(signal.SIGUSR1)
        ktrace.stop()
    (file,) = folder.iterdir()
    lines = replay(file).splitlines()
    assert len([x for x in lines if '"name":"SIGUSR1"' in x]) >= TIMES, "what came before it"
    assert len([x for x in lines if '"exit_code":77' in x]) == 1
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.any_kernel
def test_rotated_recordings(tmp_path: Path) -> None:
    file = tmp_path / "node.ktrace"
    arguments = ("--max-size", "40K", "--rotate", "3")
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace(
            *("record", "signals", "--pid", str(target.pid), *arguments), output=str(file)
        ) as ktrace,
    ):
        target.do("ignore", USR1)
        oldest = tmp_path / "node.ktrace.2"
        for _ in range(200):
            sender.do("repeat", 2 * 4096, "kill", target.pid, USR1)
            if oldest.exists():
                break
        ktrace.stop()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["node.ktrace", "node.ktrace.1", "node.ktrace.2"]
    last = replay(file).splitlines()
    assert last
    assert all(f'"pid":{target.pid},' in line and '"comm":null' not in line for line in last)
