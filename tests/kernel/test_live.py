# SPDX-License-Identifier: Apache-2.0
"""`ktrace live` on a real terminal when something goes wrong in it: the terminal is as before, the
end is told in words, and nothing stays in the kernel."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.kernel.checks import TIMES, is_loaded, programs_of
from tests.support.raisers import Actor
from tests.support.tmux import START_SECONDS, Tmux
from tests.support.wait import wait_for
from tracer.cli.live import LEAVING_SECONDS

USR1 = int(signal.SIGUSR1)

# The program with one of its functions broken.
pytestmark = pytest.mark.any_kernel

BROKEN = """
import sys
from tracer.cli import main
from tracer.live import app, model, screens

def fails(*_):
    raise {error}

{what} = fails
sys.argv[0] = "ktrace"
main()
"""
SEEN = f"{TIMES} events"
# What fails, how, what is pressed for it as soon as what is on the screen, and what is told of it.
HOSTILE = r"KeyError('\x1b]0;mine\x07\n' + 'x' * 10000)"
FILTER = ((SEEN, "f"), ("filter (", "-l", "--", "-p x"), ("-p x", "Enter"))
WAYS = {
    # In the session's thread, with the words of a stranger.
    "event": ("model.Model.event", HOSTILE, (), r"KeyError: '\x1b]0;mine\x07\nxxx"),
    # After a key, in the session's thread.
    "filter": ("model.Model._refilter", "OSError(5, 'no')", FILTER, "[Errno 5] no"),
    # In a key's handler.
    "key": (
        "app.LiveApp.action_pause",
        "RecursionError('deep')",
        ((SEEN, "Space"),),
        "RecursionError: deep",
    ),
    # After everything, where Textual looks after nothing any more.
    "end": ("app.LiveApp._shutdown", "BufferError('late')", ((SEEN, "q"),), "BufferError: late"),
    # While a line is drawn.
    "line": ("screens.Words.sentence", "ZeroDivisionError('x')", (), "ZeroDivisionError: x"),
}


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Tmux]:
    with Tmux(tmp_path, columns=100) as running:
        yield running


@pytest.mark.parametrize("way", WAYS)
def test_a_failure(way: str, terminal: Tmux, tmp_path: Path) -> None:
    what, error, keys, told = WAYS[way]
    program = tmp_path / "broken.py"
    program.write_text(BROKEN.format(what=what, error=error))
    screen = ended(terminal, tmp_path, str(program), keys)
    assert "the live view failed at broken.py:7: " in screen
    assert told in screen.replace("\n", "")
    assert "please report that line" in screen


def test_bytes_that_are_no_text(terminal: Tmux, tmp_path: Path) -> None:
    """A terminal in another encoding; no user knows how to type this."""
    screen = ended(terminal, tmp_path, "-mtracer", ((SEEN, "-H", "ff"),))
    assert "ktrace: what the terminal sends cannot be read\n" in screen


def test_it_draws_though_standard_error_is_a_file(tmp_path: Path) -> None:
    told = tmp_path / "stderr"
    words = [sys.executable, "-m", "tracer", "live", "signals"]
    pid, terminal = pty.fork()
    if not pid:
        os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT), 2)
        os.execve(sys.executable, words, {**os.environ, "TERM": "xterm-256color"})
    drawn = b""
    try:
        while b"Pause" not in drawn:  # the keys at the foot
            assert select.select([terminal], [], [], START_SECONDS)[0], drawn
            drawn += os.read(terminal, 1 << 16)
        os.write(terminal, b"q")
        with suppress(OSError):  # EIO: it has ended
            while os.read(terminal, 1 << 16):
                pass
    finally:
        os.close(terminal)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert re.fullmatch(r"ktrace: .* lost, .* s\n", told.read_text())


@pytest.mark.parametrize("vanishes", [True, False], ids=["vanished", "stuck"])
def test_a_terminal_that_holds_everything_up(vanishes: bool, tmp_path: Path) -> None:
    """Nobody reads what is drawn, so that drawing waits; then the terminal is gone, or its user has
    had enough. What can still be drawn is not all that is to be."""
    ready = tmp_path / "ready"
    words = [sys.executable, "-m", "tracer", "live", "signals", "--ready-file", str(ready)]
    pid, terminal = pty.fork()
    if not pid:
        os.execve(sys.executable, words, {**os.environ, "TERM": "xterm-256color"})
    try:
        wait_for("ktrace to be attached", ready.exists, START_SECONDS)
        programs = programs_of(pid)
        assert len(programs) >= 4
        os.write(terminal, b"\t" * 100)  # from one screen to the other
        wait_for("drawing to wait", Standstill(pid), START_SECONDS)
        if vanishes:
            os.close(terminal)
        else:
            os.kill(pid, signal.SIGTERM)
        wait_for("its programs to go", lambda: not any(map(is_loaded, programs)))
        wait_for("its end", lambda: os.waitpid(pid, os.WNOHANG)[0], LEAVING_SECONDS + 10)
    finally:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if not vanishes:
            os.close(terminal)


class Standstill:
    """Whether a process's main thread has not run for a second, though it usually does."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/task/{pid}/status")
        self._runs, self._since = "", 0.0

    def __call__(self) -> bool:
        (runs,) = re.findall(r"^voluntary_ctxt_switches.*", self._status.read_text(), re.MULTILINE)
        if runs != self._runs:
            self._runs, self._since = runs, time.monotonic()
        return time.monotonic() - self._since > 1


def ended(terminal: Tmux, directory: Path, program: str, keys: Sequence[Sequence[str]]) -> str:
    """What is on the screen after the live view has failed; whatever must hold then, holds."""
    settings = terminal.settings
    ready, recording = directory / "ready", directory / "node.ktrace"
    with Actor() as sender, Actor() as target:
        target.do("ignore", USR1)
        words = [*("live", "signals", "--pid", str(target.pid)), "--record", str(recording)]
        words += ["--ready-file", str(ready)]
        terminal.command("clear")
        terminal.command("sh", "-c", '"$@"; echo code=$?', "", sys.executable, program, *words)
        wait_for("ktrace to be attached", ready.exists, START_SECONDS)
        programs = programs_of(process_of(recording))
        assert all(map(is_loaded, programs))
        sender.do("repeat", TIMES, "kill", target.pid, USR1)
        for shown, *key in keys:
            terminal.wait_for(shown)
            terminal.press(*key)
        screen = terminal.wait_for("code=1")
    assert not re.search("Traceback|locals|─|▁", screen)
    assert re.search(r"ktrace: \d+ events, 0 lost, \d+\.\d s$", screen, re.MULTILINE)
    assert not terminal.alternate
    assert terminal.settings == settings
    assert len(programs) >= 4
    assert not any(map(is_loaded, programs))
    return screen


def process_of(recording: Path) -> int:
    found = subprocess.run(
        ["pgrep", "-f", f"^{sys.executable} .*{recording}"], capture_output=True, check=True
    )
    return int(found.stdout)
