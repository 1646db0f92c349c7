# SPDX-License-Identifier: Apache-2.0
"""The real command line as a subprocess: start it, wait until it traces, stop it, read its events.

Standard output and standard error go to files, so nothing ever waits for a reader. If a test leaves
a ktrace running, it is killed when its `with` block ends.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from typing_extensions import Self

from tests.support.wait import wait_for

IN_GUEST = bool(os.environ.get("KTRACE_GUEST"))
HAS_KPROBES = Path("/sys/bus/event_source/devices/kprobe").exists()
# Options for tests of any backend; a guest sets its own.
BACKEND = os.environ.get("KTRACE_LAB_BACKEND", "auto")
ROOT = Path(__file__).resolve().parents[2]
# An emulated machine loads programs in minutes.
START_SECONDS = 120.0 if not IN_GUEST else 400.0
END_SECONDS = 120.0

_CLOSING_LINE = re.compile(r"^ktrace: (\d+) events, (\d+) lost, (\d+\.\d) s", re.MULTILINE)


def prepare() -> None:
    """What every ktrace begins with, for `in_fork`: modules, and what they read of the objects."""
    import tracer.backends.core
    import tracer.cli._host
    import tracer.cli._tracing
    import tracer.identity.inventory
    import tracer.identity.mirror
    import tracer.identity.unmatched
    import tracer.kernel.node
    import tracer.outputs.jsonl
    import tracer.recording.files
    import tracer.session.live
    import tracer.session.run  # noqa: F401
    from tracer import probes
    from tracer.kernel.bpf_object import shipped

    for name in ("context", "network", *probes.names()):
        shipped(name)
    for name in probes.names():
        probes.get(name)


if IN_GUEST:
    prepare()


def in_fork(program: Callable[[], Any]) -> NoReturn:
    """For Popen's `preexec_fn`, instead of a new interpreter: an emulated processor needs seconds
    for the imports above."""
    code = 1
    try:
        os.closerange(3, 1024)  # Popen waits for an exec, or for this
        sys.stdin, sys.stdout, sys.stderr = map(os.fdopen, (0, 1, 2), "rww")
        program()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@dataclass(frozen=True)
class Summary:
    """The closing line."""

    events: int
    lost: int
    seconds: float


class Ktrace:
    """`Ktrace("signals", "--all")` traces from the beginning of its `with` block; with `until` the
    block may begin earlier.

    `stdout` is a descriptor for its output, instead of a file that `output` and `events` read.
    `only` is a probe and the number of its only attach point; `inside` is a command that executes
    the words after it.
    """

    def __init__(
        self,
        *arguments: str,
        output: str | None = "json",
        environment: Mapping[str, str] | None = None,
        stdout: int | None = None,
        only: tuple[str, int] | None = None,
        inside: Sequence[str] = (),
        backend: str = BACKEND,
        until: Callable[[], object] | None = None,
    ) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="ktrace-test-"))
        self._ready = self._directory / "ready"
        self._out = self._directory / "stdout"
        self._err = self._directory / "stderr"
        self._stdout = stdout
        self._environment = {**os.environ, **(environment or {})}
        self._module = "tests.support.only" if only else "tracer"
        self._inside = inside
        self._until = until or self._ready.exists
        command, *options = arguments
        if backend != "auto":
            options = ["--backend", backend, *options]
        self._arguments = [*map(str, only or ()), command, *options]
        self._arguments += ["-o", output] if output else []
        self._arguments += ["--ready-file", str(self._ready)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def ended(self) -> bool:
        return self._running.poll() is not None

    @property
    def stderr(self) -> str:
        return self._err.read_text(errors="backslashreplace")

    @property
    def output(self) -> bytes:
        """Standard output so far."""
        return self._out.read_bytes()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The whole lines of JSON so far. The test fails on a line that is no JSON object."""
        lines = self.output.split(b"\n")[:-1]
        events = [json.loads(line) for line in lines]
        assert all(isinstance(event, dict) for event in events), lines
        return events

    @property
    def summary(self) -> Summary:
        found = _CLOSING_LINE.search(self.stderr)
        assert found, f"no closing line in {self.stderr!r}"
        return Summary(int(found[1]), int(found[2]), float(found[3]))

    def stop(self, number: int = signal.SIGINT) -> list[dict[str, Any]]:
        """Ends it like Ctrl-C, expects exit code 0 and returns the events."""
        self._running.send_signal(number)
        return self.wait()

    def wait(self) -> list[dict[str, Any]]:
        """Waits until it ends by itself with exit code 0, and returns the events."""
        code = self.exit_code()
        assert code == 0, f"ktrace ended with {code}: {self.stderr}"
        return self.events

    def exit_code(self) -> int:
        wait_for("ktrace's end", lambda: self.ended, END_SECONDS)
        assert self._running.returncode is not None
        return self._running.returncode

    def signal(self, number: int) -> None:
        self._running.send_signal(number)

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "ktrace was not started"
        return self._process

    def _start(self) -> None:
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [*self._inside, sys.executable, "-m", self._module, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=out if self._stdout is None else self._stdout,
                stderr=err,
                cwd=ROOT,
                env=self._environment,
                preexec_fn=self._run_in_fork if IN_GUEST and not self._inside else None,
            )
        wait_for("ktrace to start", lambda: self._until() or self.ended, START_SECONDS)
        code = self._process.returncode
        assert self._until(), f"ktrace did not start, and ended with {code}: {self.stderr}"

    def _run_in_fork(self) -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        sys.argv = ["ktrace", *self._arguments]
        in_fork(lambda: runpy.run_module(self._module, run_name="__main__"))

    def _clear(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
        for file in (self._ready, self._out, self._err):
            file.unlink(missing_ok=True)
        self._directory.rmdir()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command that should end at once."""
    command = [sys.executable, "-m", "tracer", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=END_SECONDS, check=False
    )
