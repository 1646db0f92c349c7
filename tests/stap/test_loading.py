# SPDX-License-Identifier: Apache-2.0
"""Whoever is killed while a module is being loaded: nothing of it stays in the kernel.

`held` lets staprun or stapio stop itself at a known point, and tells its process id.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.checks import TIMES, check_complete
from tests.stap.loaded import loaded_modules
from tests.support.ktrace import Ktrace
from tests.support.raisers import Actor
from tests.support.wait import wait_for

KILL, USR1 = int(signal.SIGKILL), int(signal.SIGUSR1)
STAPIO = "/usr/lib/systemtap/stapio"
SPLICE_F_NONBLOCK = 2  # tee(2)
# staprun has done its part when it becomes stapio: the module is loaded, and has not begun.
UNLOADED, LOADED = "staprun", "stapio"
HOLD = """#!/bin/sh
echo $$ >{place}/held
kill -STOP $$
exec {program} "$@"
"""


class Held:
    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
        self._file = place / "held"
        program = shutil.which("staprun") if which == UNLOADED else STAPIO
        holder = place / which
        holder.write_text(HOLD.format(place=place, program=program))
        holder.chmod(0o755)
        # ktrace is forked from this process in a guest
        if which == UNLOADED:
            monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
        else:
            monkeypatch.setenv("SYSTEMTAP_STAPIO", str(holder))

    @property
    def pid(self) -> int:
        return int(self._file.read_text())

    def there(self) -> bool:
        return self._file.exists() and self._file.read_text() != "" and _state(self.pid) == "T"

    def go(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


Holding = Callable[[str], Held]


@pytest.fixture
def holding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Holding:
    return lambda which: Held(tmp_path, monkeypatch, which)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_awaited_until_all_is_loaded(holding: Holding, number: signal.Signals) -> None:
    held = holding(LOADED)
    with Ktrace("signals", "--all", until=held.there) as ktrace:
        ktrace.signal(number)
        held.go()
        ktrace.wait()
        assert not loaded_modules()


def test_a_second_signal_is_not(holding: Holding) -> None:
    held = holding(LOADED)
    with Ktrace("signals", "--all", until=held.there) as ktrace:
        assert len(loaded_modules()) == 1
        ktrace.signal(signal.SIGINT)
        ktrace.signal(signal.SIGTERM)
        assert ktrace.exit_code() == 128 + signal.SIGINT
        assert not loaded_modules()
        assert _is_gone(held.pid)


def test_staprun_is_killed(holding: Holding) -> None:
    held = holding(LOADED)
    with Ktrace("signals", "--all", until=held.there) as ktrace:
        assert len(loaded_modules()) == 1
        os.kill(held.pid, KILL)
        assert ktrace.exit_code() == 1
        assert ktrace.stderr == "ktrace: SystemTap cannot trace signals: it said nothing\n"
        assert not loaded_modules()


@pytest.mark.parametrize("which", [UNLOADED, LOADED])
def test_ktrace_is_killed(holding: Holding, which: str) -> None:
    """staprun goes on; some stapios find that nobody reads what they write, others need longer."""
    held = holding(which)
    with Ktrace("signals", "--all", until=held.there) as ktrace:
        ktrace.signal(KILL)
        ktrace.exit_code()
        held.go()
        wait_for("stapio to go", lambda: _is_gone(held.pid), 60)
        assert not loaded_modules()


def test_ktrace_is_killed_before_its_first_order(holding: Holding) -> None:
    """Then stapio has written all that there is to write; ktrace's own end is no event of this."""
    held = holding(LOADED)
    with Ktrace("signals", "--pid", str(os.getpid()), until=held.there) as ktrace:
        ktrace.signal(signal.SIGSTOP)
        held.go()
        wait_for("all words of its beginning", lambda: _has_introduced_itself(held.pid), 60)
        ktrace.signal(KILL)
        ktrace.exit_code()
        wait_for("stapio to go", lambda: _is_gone(held.pid), 60)
        assert not loaded_modules()


def test_both_are_killed(holding: Holding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is there to unload the module until ktrace is started again."""
    held = holding(LOADED)
    with Ktrace("signals", "--all", until=held.there) as ktrace:
        ktrace.signal(KILL)
        ktrace.exit_code()
        os.kill(held.pid, KILL)
        wait_for("stapio to go", lambda: _is_gone(held.pid))
    (left,) = loaded_modules()
    monkeypatch.delenv("SYSTEMTAP_STAPIO")
    with Actor() as sender, Actor() as target, Ktrace("signals", "--pid", str(target.pid)) as later:
        assert len(loaded_modules()) == 1
        assert left not in loaded_modules()
        for _ in range(TIMES):
            sender.do("kill", target.pid, USR1)
            target.do("take")
        check_complete(later, later.stop())
        words = f"ktrace: unloaded {left}, which a ktrace that was killed had left behind\n"
        assert later.stderr.count(words) == 1


def test_what_another_one_loads_is_left_alone(
    holding: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = holding(LOADED)
    with Ktrace("signals", "--all", until=held.there) as slow:
        (loading,) = loaded_modules()
        monkeypatch.delenv("SYSTEMTAP_STAPIO")
        with Ktrace("signals", "--all") as other:
            assert loading in loaded_modules()
            held.go()
            slow.stop()
            other.stop()
            assert "unloaded" not in other.stderr


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _is_gone(pid: int) -> bool:
    """Whoever of these processes lost its parent may stay a zombie: init need not take notice."""
    try:
        return _state(pid) == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _has_introduced_itself(pid: int) -> bool:
    """Looks into the pipe that is its standard output and takes nothing out of it."""
    reader, writer = os.pipe()
    pipe = os.open(f"/proc/{pid}/fd/1", os.O_RDONLY | os.O_NONBLOCK)
    try:
        if ctypes.CDLL(None).tee(pipe, writer, 1 << 16, SPLICE_F_NONBLOCK) <= 0:
            return False
        lines = os.read(reader, 1 << 16).splitlines()
    finally:
        for descriptor in (pipe, reader, writer):
            os.close(descriptor)
    layouts = [line for line in lines if line.startswith(b"kt layout ")]
    return len(layouts) == 4 and b"kt attached signal:signal_generate" in lines
