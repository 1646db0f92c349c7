# SPDX-License-Identifier: Apache-2.0
"""One daemon of the cluster: started, stopped, killed and started again, with a log of its own."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.cluster.build import ClusterError
from tests.support.containerd import PATH

# An API server would wait a minute for whoever watches something.
STOP_SECONDS = 3.0


class Daemon:
    """`answers` looks whether it is ready. `options` are taken at the next start."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, answers: Callable[[], bool]
    ) -> None:
        self.name = name
        self.answers = answers
        self.options: Sequence[str] = ()
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False

    @property
    def pid(self) -> int | None:
        """None if it does not run."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process and running else None

    def start(self) -> None:
        if self.pid is not None:
            raise ClusterError(f"{self.name} runs already")
        self._wanted = True
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, *self.options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # a kubelet of that age would ask a cloud's metadata service who it is
                env={"PATH": PATH, "AWS_EC2_METADATA_DISABLED": "true"},
                cwd="/",
                start_new_session=True,  # Ctrl-C is for who started it all, and then ends it
            )

    def stop(self) -> None:
        """By SIGTERM, and after a while by SIGKILL."""
        self.signal(signal.SIGTERM)
        try:
            if self._process is not None:
                self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """That it ends of it is no fault then. After SIGKILL it has ended when this returns."""
        if self._process is None or self._process.poll() is not None:
            return
        self._wanted = self._wanted and number not in (signal.SIGTERM, signal.SIGKILL)
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait()

    def complain_if_it_ended(self) -> None:
        if self._wanted and self._process is not None and self._process.poll() is not None:
            log = self._log.read_bytes()[-2000:].decode(errors="backslashreplace")
            raise ClusterError(
                f"{self.name} ended with {self._process.returncode}; its log ends with:\n{log}"
            )
