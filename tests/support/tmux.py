# SPDX-License-Identifier: Apache-2.0
"""A real terminal for programs: sends keys, and reads the screen."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from typing_extensions import Self

from tests.support.ktrace import ROOT
from tests.support.wait import WaitTimeout, wait_for

START_SECONDS = 120.0

T = TypeVar("T")


class Tmux:
    """A tmux server of its own with a shell in one window. Its socket lies in `directory`."""

    def __init__(self, directory: Path, columns: int = 120, rows: int = 30) -> None:
        self._socket = str(directory / "tmux")
        self._settings = directory / "settings"
        self._size = ("-x", str(columns), "-y", str(rows))

    def __enter__(self) -> Self:
        shell = "env -u TMUX PS1='$ ' sh"
        self._run("-f", "/dev/null", "new-session", "-d", *self._size, "-c", str(ROOT), shell)
        try:
            self.wait_for("$")
        except BaseException:
            self._run("kill-server")
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._run("kill-server")

    @property
    def screen(self) -> str:
        return self._run("capture-pane", "-p")

    @property
    def alternate(self) -> bool:
        """Whether a full-screen program has the terminal."""
        return self._run("display-message", "-p", "#{alternate_on}").strip() == "1"

    @property
    def settings(self) -> str:
        """The terminal driver's settings, as the shell sees them between two commands."""
        self._settings.unlink(missing_ok=True)
        self.type(f"stty -a > {self._settings}.new; mv {self._settings}.new {self._settings}")
        self.press("Enter")
        wait_for("the terminal's settings", self._settings.exists)
        return self._settings.read_text()

    def command(self, *words: str) -> None:
        """Runs this in the shell."""
        self.type(shlex.join(words))
        self.press("Enter")

    def type(self, text: str) -> None:
        self._run("send-keys", "-l", "--", text)

    def press(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        self._run("resize-window", "-x", str(columns), "-y", str(rows))

    def wait_for(self, *texts: str) -> str:
        """Returns the screen once all of these are on it."""

        def look() -> str:
            screen = self.screen
            return screen if all(text in screen for text in texts) else ""

        return self.wait_until(f"{texts} on the screen", look)

    def wait_until(self, what: str, look: Callable[[], T | None]) -> T:
        """As `wait_for` of tests.support.wait; its error includes the screen."""
        try:
            return wait_for(what, look, interval=0.05)
        except WaitTimeout as error:
            raise WaitTimeout(f"{error}; on the screen is\n{self.screen}") from None

    def _run(self, *arguments: str) -> str:
        return subprocess.run(
            ["tmux", "-S", self._socket, *arguments],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"},
        ).stdout
