# SPDX-License-Identifier: Apache-2.0
"""Stages the rows of the table in real pods, several at once, and judges what ktrace says of them.

One recording has all of them, and is explained at its end. A row that is about what only a running
ktrace can find out, such as a crash's file and function, has one of its own that watches its pod.
"""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.software.build import Software
from tests.software.rows import PROGRAM, Row
from tests.software.scene import SECONDS, Scene, environment, limit_pids
from tests.support.containerd import Containerd, PodHandle
from tests.support.judging import Outcome, Verdict
from tests.support.ktrace import Ktrace
from tests.support.ktrace import run as ktrace_once
from tests.support.wait import wait_for

AT_ONCE = 6
# gRPC, by which the pods are made here, does not survive a fork.
OWN_INTERPRETER = ("env",)
Say = Callable[[str], None]


@dataclass
class _Staged:
    """`status` is what the runtime says of the container."""

    pod: PodHandle
    status: str = ""
    failed: str = ""
    seconds: float = 0.0
    verdicts: Sequence[Verdict] | None = None


def stage(rows: Sequence[Row], programs: Software, say: Say) -> Iterator[Outcome[Row]]:
    namespace = f"software-{uuid.uuid4().hex[:6]}"
    # A crash is looked up in the image: mounts go with the last process of the container.
    own = {PROGRAM: (programs.programs / Path(PROGRAM).name).read_bytes()}
    with (
        Containerd(extra_files=own) as containerd,
        TemporaryDirectory(prefix="ktrace-test-") as scratch,
    ):
        pods = {row: containerd.run_pod(row.name, namespace=namespace) for row in rows}
        recording = Path(scratch, "software.ktrace")
        socket = ("--cri-socket", str(containerd.socket))
        words = ("record", "--namespace", namespace, *socket)
        with Ktrace(*words, output=str(recording), inside=OWN_INTERPRETER) as ktrace:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                run = [pool.submit(_run, row, pods[row], programs, socket) for row in rows]
            staged = dict(zip(rows, (each.result() for each in run), strict=True))
            ktrace.signal(signal.SIGINT)
            assert ktrace.exit_code() == 0, ktrace.stderr
            if ktrace.summary.lost:  # a verdict that could be wrong for it says so
                say(f"{ktrace.summary.lost} events were lost: {ktrace.stderr}")
        recorded = _explained(recording)
        for row, one in staged.items():
            its = [v for v in recorded if v["pod"] and v["pod"]["uid"] == one.pod.uid]
            verdicts = its if one.verdicts is None else one.verdicts
            yield Outcome(row, verdicts, one.status, one.seconds, one.failed)


def _run(row: Row, pod: PodHandle, programs: Software, socket: Sequence[str]) -> _Staged:
    staged = _Staged(pod)
    began = time.monotonic()
    try:
        with ExitStack() as stack:
            ktrace: Ktrace | None = None
            if row.live:
                words = ("why", pod.uid, *socket, "--wait", "--duration", "110s")
                ktrace = stack.enter_context(Ktrace(*words, inside=OWN_INTERPRETER))
            _act(row, pod, programs, staged, ktrace)
            if ktrace:
                staged.verdicts = ktrace.wait()
    except Exception as error:
        staged.failed = f"{type(error).__name__}: {error}"
    staged.seconds = time.monotonic() - began
    return staged


def _act(
    row: Row, pod: PodHandle, programs: Software, staged: _Staged, ktrace: Ktrace | None
) -> None:
    if row.pids is not None:
        limit_pids(pod, row.pids)
    container = pod.run(
        row.container,
        row.argv,
        memory_limit=row.memory,
        env=environment(row.env),
        mounts=programs.mounts(),
    )
    if ktrace:  # by which the place of a crash is told
        wait_for("its root", lambda: _holds_root(ktrace.pid, container.pid), SECONDS)
    scene = Scene(pod, container)
    for step in row.does:
        step(scene)
    status = container.status()
    ended = status.state == "exited"
    code = f"exit code {status.exit_code}" if ended else "runs"
    staged.status = f"{status.reason}, {code}" if ended and status.reason else code


def _holds_root(pid: int, first: int) -> bool:
    """Whether a process has the root directory of another one open, or that one has ended."""
    try:
        root = os.stat(f"/proc/{first}/root")
    except FileNotFoundError:
        return True
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if os.path.samestat(descriptor.stat(), root):
                return True
    return False


def _explained(file: Path) -> list[Verdict]:
    explained = ktrace_once("why", str(file), "-o", "json")
    assert explained.returncode == 0, explained.stderr
    return [json.loads(line) for line in explained.stdout.splitlines()]
