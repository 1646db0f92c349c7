# SPDX-License-Identifier: Apache-2.0
"""However it ends, nothing stays in the kernel, and what is said is no more and no less than what
was seen."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.kernel.checks import TIMES, check_complete, check_signal
from tests.stap.loaded import loaded_modules, stapio_of
from tests.support.ktrace import Ktrace
from tests.support.raisers import Actor, facts
from tests.support.wait import wait_for
from tracer.backends import stap
from tracer.backends.stap import program as stap_program
from tracer.backends.stap.modules import INSTALLED, INSTALLED_VARIABLE

KILL, USR1 = int(signal.SIGKILL), int(signal.SIGUSR1)
STORM = 20_000


def test_ktrace_is_killed() -> None:
    with Ktrace("signals", "--all") as ktrace:
        (stapio,) = stapio_of(ktrace.pid)
        assert len(loaded_modules()) == 1
        ktrace.signal(KILL)
        assert ktrace.exit_code() == -KILL
        wait_for("the module to go", lambda: not loaded_modules(), 60)
        wait_for("stapio to go", lambda: not Path(f"/proc/{stapio}").exists(), 60)


def test_stapio_is_killed() -> None:
    """What was seen before is told, then what has happened."""
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        who, whom = facts(sender.pid), facts(target.pid)
        for _ in range(TIMES):
            sender.do("kill", target.pid, USR1)
            target.do("take")
        wait_for("all events", lambda: len(ktrace.events) == TIMES, 60)
        (stapio,) = stapio_of(ktrace.pid)
        os.kill(stapio, KILL)
        assert ktrace.exit_code() == 1
        assert "SystemTap ended while tracing signals" in ktrace.stderr
        assert "Traceback" not in ktrace.stderr
        for event in ktrace.events:
            check_signal(event, USR1, "SI_USER", who, whom)


def test_stapio_ends_while_nobody_looks() -> None:
    """All that it had written is told, and that it ended."""
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        who, whom = facts(sender.pid), facts(target.pid)
        (stapio,) = stapio_of(ktrace.pid)
        ktrace.signal(signal.SIGSTOP)
        for _ in range(TIMES):
            sender.do("kill", target.pid, USR1)
            target.do("take")
        os.kill(stapio, signal.SIGTERM)
        wait_for("the module to go", lambda: not loaded_modules(), 60)
        ktrace.signal(signal.SIGCONT)
        assert ktrace.exit_code() == 1
        assert "SystemTap ended while tracing signals" in ktrace.stderr
        assert len(ktrace.events) == TIMES
        for event in ktrace.events:
            check_signal(event, USR1, "SI_USER", who, whom)


def test_stapio_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # ktrace is forked from this process in a guest
    monkeypatch.setattr(stap, "END_SECONDS", 1.0)
    with Ktrace("signals", "--all") as ktrace:
        (stapio,) = stapio_of(ktrace.pid)
        os.kill(stapio, signal.SIGSTOP)
        ktrace.signal(signal.SIGTERM)
        assert ktrace.exit_code() == 1
        words = "was killed as it did not end within 1 s, and events of signals may be missing"
        assert f"ktrace: SystemTap {words}" in ktrace.stderr
        assert not Path(f"/proc/{stapio}").exists()
        assert not loaded_modules()


def test_two_at_once() -> None:
    """Each has a module of its own, of the same script."""
    with Actor() as sender, Actor() as target:
        pid = ("--pid", str(target.pid))
        with Ktrace("signals", *pid) as one, Ktrace("signals", *pid) as other:
            assert len(loaded_modules()) == 2
            for _ in range(TIMES):
                sender.do("kill", target.pid, USR1)
                target.do("take")
            for ktrace in (one, other):
                check_complete(ktrace, ktrace.stop())


def test_what_finds_no_room_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads for a while: every signal is then shown or counted, and none twice."""
    # ktrace is forked from this process in a guest
    monkeypatch.setattr(stap_program, "BUFFER_MEGABYTES", "1")
    with (
        Actor() as sender,
        Actor() as target,
        Ktrace("signals", "--pid", str(target.pid)) as ktrace,
    ):
        (stapio,) = stapio_of(ktrace.pid)
        os.kill(stapio, signal.SIGSTOP)
        sender.do("repeat", STORM, "kill", target.pid, USR1)
        os.kill(stapio, signal.SIGCONT)
        events = ktrace.stop()
        seen = [event for event in events if event["kind"] == "signal"]
        lost = [event for event in events if event["kind"] == "lost"]
        assert ktrace.summary.lost == sum(event["count"] for event in lost) > 0
        assert len(seen) + ktrace.summary.lost == STORM


@pytest.mark.parametrize("damage", ["another kernel", "no module"])
def test_a_module_that_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    shutil.copytree(INSTALLED, tmp_path / "modules")
    (module,) = (tmp_path / "modules").glob("*/*/ktrace_signals_*.ko")
    data = module.read_bytes()
    # what follows the release in its vermagic counts also where symbols have versions
    assert b" mod_unload " in data
    if damage == "another kernel":
        module.write_bytes(data.replace(b" mod_unload ", b" mod_unknown"))
    else:
        module.write_bytes(b"\x7fELF and nothing more")
    monkeypatch.setenv(INSTALLED_VARIABLE, str(tmp_path / "modules"))
    with pytest.raises(AssertionError) as caught, Ktrace("signals"):
        pass
    assert "ktrace: SystemTap cannot trace signals: " in str(caught.value)
    assert "Traceback" not in str(caught.value)
    if damage == "another kernel":
        assert "Invalid module format" in str(caught.value)
        assert "it was made for another kernel" in str(caught.value)
