# SPDX-License-Identifier: Apache-2.0
"""The programs under comparison: how to start each, and how to read its output about the storm.

All get the same task: every SIGUSR1 on the machine, one line each. The storm and the tracer have a
CPU each, if there are two; otherwise the scheduler would be measured.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

# Text that every tracer's lines contain, and no tracer's title.
MARK = b"SIGUSR1"
PATIENCE = 15.0
CPUS = sorted(os.sched_getaffinity(0))

_KTRACE = (str(Path(sys.executable).with_name("ktrace")), "signals", "--signal", "USR1")
_SCRIPT = (
    "tracepoint:signal:signal_generate /args->sig == 10/"
    ' { printf("SIGUSR1 from %d %s to %d\\n", pid, comm, args->pid); }'
)


@dataclass(frozen=True)
class Tracer:
    """`line` matches a line about the process whose pid replaces `%d`."""

    name: str
    command: tuple[str, ...]
    line: str


BPFTRACE = Tracer("bpftrace", ("bpftrace", "-e", _SCRIPT), r"to %d\n")
SIGSNOOP = Tracer("sigsnoop", ("sigsnoop", "-n", "-s", "10"), r"SIGUSR1 +%d ")
KTRACE = Tracer("ktrace", (*_KTRACE, "--all", "-o", "json"), r'"target":{"pid":%d,')
KTRACE_TABLE = Tracer("ktrace", (*_KTRACE, "--all"), "")
# These are to show nothing of the storm, because it hits a process outside pods, other than init,
# and with another signal. Rejecting by signal costs next to nothing beyond the tracepoint itself.
KTRACE_PODS = Tracer("ktrace", (*_KTRACE, "-o", "json"), KTRACE.line)
KTRACE_PID = Tracer("ktrace", (*_KTRACE, "--pid", "1", "-o", "json"), KTRACE.line)
KTRACE_SIGNAL = Tracer("ktrace", (*_KTRACE, "--signal", "USR2", "-o", "json"), KTRACE.line)


@dataclass(frozen=True)
class Memory:
    """Resident now and at most, in MB."""

    now: float
    peak: float


class Running:
    """A tracer that writes into a file. The constructor waits until it is ready."""

    def __init__(self, tracer: Tracer, folder: Path, storm: Path) -> None:
        self._tracer = tracer
        self._output = folder / "output"
        self._errors = folder / "errors"
        ready = folder / "ready"
        ready.unlink(missing_ok=True)
        of_ktrace = ("--ready-file", str(ready)) if tracer.name == "ktrace" else ()
        with (
            self._output.open("wb") as output,
            self._errors.open("wb") as errors,
            on_cpus(CPUS[1:] or CPUS),
        ):
            self._process = subprocess.Popen(
                (*tracer.command, *of_ktrace), stdout=output, stderr=errors
            )
        if of_ktrace:
            self._wait(ready.exists)
        else:
            with pinging(storm):
                self._wait(lambda: MARK in self._output.read_bytes())

    def memory(self) -> Memory:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        sizes = dict(re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", status))
        return Memory(int(sizes["VmRSS"]) / 1024, int(sizes["VmHWM"]) / 1024)

    def settle(self) -> None:
        """Returns when the output no longer grows."""
        size, since = -1, 0.0
        while (written := self._output.stat().st_size) != size or time.monotonic() < since + 0.3:
            if written != size:
                size, since = written, time.monotonic()
            time.sleep(0.02)

    def stop(self) -> None:
        self._process.send_signal(2)
        self._process.wait(PATIENCE)

    def captured(self, target: int) -> int:
        about_target = re.compile((self._tracer.line % target).encode())
        with self._output.open("rb") as output:
            return sum(1 for line in output if about_target.search(line))

    def counted_lost(self) -> int:
        """The number of events that ktrace itself reports as lost."""
        with self._output.open("rb") as output:
            lost = [orjson.loads(line) for line in output if line.startswith(b'{"kind":"lost"')]
        return sum(event["count"] for event in lost)

    def _wait(self, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                said = (self._output.read_bytes() + self._errors.read_bytes()).decode()
                raise SystemExit(f"{' '.join(self._tracer.command)} does not start: {said[-500:]}")
            time.sleep(0.005)


def seconds_to_first_event(tracer: Tracer) -> float:
    """The time from the start of the process to its first line, on a terminal, as a user sees
    it."""
    ours, theirs = pty.openpty()
    started = time.monotonic()
    process = subprocess.Popen(tracer.command, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    seen = b""
    while MARK not in seen:
        seen += os.read(ours, 4096)
    seconds = time.monotonic() - started
    # nothing reads the terminal any more, so a tracer may have to be killed
    process.kill()
    process.wait(PATIENCE)
    os.close(ours)
    return seconds


@contextlib.contextmanager
def on_cpus(cpus: list[int]) -> Iterator[None]:
    """Processes started in the block run on these CPUs."""
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, CPUS)


@contextlib.contextmanager
def pinging(storm: Path) -> Iterator[None]:
    """Raises a signal every millisecond during the block."""
    process = subprocess.Popen([storm])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def mount_tracefs() -> None:
    """Mounts tracefs for this process and its children only. The peers need it, ktrace does not."""
    if Path("/sys/kernel/tracing/events").exists():
        return
    clone_newns = 0x20000
    if ctypes.CDLL(None).unshare(clone_newns):
        raise SystemExit("bench.signals needs root")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tracefs", "tracefs", "/sys/kernel/tracing"], check=True)
