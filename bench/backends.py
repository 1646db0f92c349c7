# SPDX-License-Identifier: Apache-2.0
"""python -m bench.backends

The backends side by side with killsnoop of bpfcc-tools, in one guest of the lab (5.10): how long
until they trace, how much memory they have then, what a signal costs that they see. The guest's
processor is emulated, so only what stands in one table can be compared.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.lab.bcc import SUITES, additions
from tests.lab.image import Additions, build_disk, build_initramfs
from tests.lab.kernels import fetched
from tests.lab.machine import _qemu
from tests.support.wait import wait_for
from tracer.backends.bcc_programs import CACHE

PEER = "/usr/sbin/killsnoop-bpfcc"
BCC_PACKAGES = "/usr/lib/python3/dist-packages"
SERIES = "5.10-bcc"
KILLS = 5000
SECONDS = 600.0
KTRACE = [sys.executable, "-m", "tracer", "signals", "--all", "-o", "json", "--backend"]


def main() -> None:
    suite = next(suite for suite in SUITES if suite.label == SERIES)
    kernel = fetched(suite, _say)
    with tempfile.TemporaryDirectory(prefix="ktrace-bench-") as directory:
        scratch = Path(directory)
        more = additions(suite, kernel, scratch, _say) + Additions((Path(PEER),))
        disk = build_disk((), scratch, module="bench.backends", additions=more)
        initramfs = build_initramfs(kernel, scratch)
        ours, theirs = socket.socketpair()
        command = _qemu(kernel, initramfs, disk)(theirs.fileno())
        guest = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        with ours.makefile() as lines:
            rows = [json.loads(line) for line in lines]
        guest.wait(SECONDS)
    _show(kernel.release, rows)


def _show(release: str, rows: list[dict[str, float | str]]) -> None:
    table = Table(title=f"signals on {release}, emulated")
    for title in ("", "starts in", "resident", "a kill(2)"):
        table.add_column(title, justify="right" if title else "left")
    for row in rows:
        table.add_row(
            str(row["name"]),
            f"{row['start']:.1f} s" if row["start"] else "–",
            f"{row['megabytes']:.0f} MB" if row["megabytes"] else "–",
            f"{row['kill']:.1f} µs",
        )
    Console(width=100).print(table)


def _say(words: str) -> None:
    print(f"· {words}", file=sys.stderr)


# In the guest


def inside(port: str) -> None:
    with open(port, "w", buffering=1) as out:
        for name, start in (
            ("nothing", _nothing),
            ("killsnoop-bpfcc", _killsnoop),
            ("core", lambda: _ktrace("core")),
            ("bcc, the first time", _bcc_afresh),
            ("bcc", lambda: _ktrace("bcc")),
        ):
            with start() as (seconds, pid):
                resident = _megabytes(pid) if pid else 0.0
                row = {"name": name, "start": seconds, "megabytes": resident, "kill": _kill_cost()}
            out.write(json.dumps(row) + "\n")


@contextmanager
def _nothing() -> Iterator[tuple[float, int]]:
    yield 0.0, 0


@contextmanager
def _killsnoop() -> Iterator[tuple[float, int]]:
    """It writes its titles when it is attached."""
    environment = {**os.environ, "PYTHONPATH": BCC_PACKAGES}
    program = [os.path.realpath(sys.executable), "-u", PEER]
    with tempfile.NamedTemporaryFile() as out:
        command = _started(program, out.fileno(), environment)
        with command as (began, process):
            wait_for("killsnoop", lambda: os.path.getsize(out.name), SECONDS)
            yield time.monotonic() - began, process.pid


@contextmanager
def _ktrace(backend: str) -> Iterator[tuple[float, int]]:
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile() as out:
        ready = Path(directory, "ready")
        command = _started([*KTRACE, backend, "--ready-file", str(ready)], out.fileno(), None)
        with command as (began, process):
            wait_for("ktrace", ready.exists, SECONDS)
            yield time.monotonic() - began, process.pid


@contextmanager
def _bcc_afresh() -> Iterator[tuple[float, int]]:
    shutil.rmtree(CACHE, ignore_errors=True)
    with _ktrace("bcc") as told:
        yield told


@contextmanager
def _started(
    command: list[str], out: int, environment: dict[str, str] | None
) -> Iterator[tuple[float, subprocess.Popen[bytes]]]:
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdout=out, stderr=subprocess.DEVNULL, env=environment, stdin=subprocess.DEVNULL
    )
    try:
        yield began, process
    finally:
        process.kill()
        process.wait()


def _megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def _kill_cost() -> float:
    """In microseconds, of a signal to oneself that is ignored."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    own, kill, number = os.getpid(), os.kill, signal.SIGUSR1
    began = time.monotonic()
    for _ in range(KILLS):
        kill(own, number)
    return (time.monotonic() - began) / KILLS * 1e6


if __name__ == "__main__":
    if len(sys.argv) > 1:  # in the guest, whose port to the host it is
        inside(sys.argv[1])
    else:
        main()
