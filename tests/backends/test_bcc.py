# SPDX-License-Identifier: Apache-2.0
"""The BCC backend, in the lab's guests that have BCC and their kernel's headers (tests/lab/bcc.py).

What these tests trace together is compiled outside; what they compile themselves says so.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.checks import TIMES, check_complete, check_signal
from tests.support.ktrace import Ktrace
from tests.support.raisers import Actor, Shell, children_of, copy_of_shell, facts
from tracer import backends, probes
from tracer.backends import bcc, core
from tracer.backends.bcc import BccBackend
from tracer.backends.bcc import programs as bcc_programs
from tracer.backends.bcc.programs import Refused

EVERY = ",".join(probes.names())
SIGNALS = probes.get("signals")
USR1 = int(signal.SIGUSR1)


def test_without_btf_bcc_is_taken(tmp_path: Path) -> None:
    """And says why; a selection by pid is one of the values that are written into programs."""
    with without_btf(tmp_path), Actor() as target, Actor() as other:
        expected, me = facts(target.pid), facts(os.getpid())
        for actor in (target, other):
            actor.do("ignore", USR1)
        wanted = ("--all", "--pid", str(target.pid))
        with Ktrace("trace", EVERY, *wanted, backend="auto") as ktrace:
            for _ in range(TIMES):
                os.kill(other.pid, USR1)
                os.kill(target.pid, USR1)
            events = ktrace.stop()
            assert f"ktrace: backend bcc, as core lacks BTF of this kernel ({core.BTF}" in (
                ktrace.stderr
            )
            check_complete(ktrace, events)
    for event in events:
        check_signal(event, USR1, "SI_USER", me, expected, result="ignored")


def test_a_program_on_another_mount() -> None:
    """fs/mount.h is not among the headers, so bcc.h says itself what a struct mount holds."""
    place = Path(tempfile.mkdtemp(prefix="ktrace-test-", dir="/dev/shm"))  # mounts on two mounts
    try:
        with (
            Shell(copy_of_shell(place / "program")) as sender,
            Actor() as target,
            Ktrace("signals", "--pid", str(target.pid)) as ktrace,
        ):
            who, whom = facts(sender.pid), facts(target.pid)
            assert who["exe"] == f"{place}/program"
            sender.do(f"kill -USR1 {target.pid}")
            target.do("take")
            (event,) = ktrace.stop()
            check_signal(event, USR1, "SI_USER", who, whom)
    finally:
        shutil.rmtree(place)


def test_perf_buffers() -> None:
    """For kernels without ring buffers. Compiled here and now."""
    backend = BccBackend(ring=False)
    backend.attach([SIGNALS], {})
    try:
        with Actor() as target:
            target.do("ignore", USR1)
            for _ in range(TIMES):
                os.kill(target.pid, USR1)
            backend.detach()
            names, signals = read_all(backend, target.pid)
        assert backend.lost() == {}
    finally:
        backend.close()
    assert len(signals) == TIMES
    assert {s.signal for s in signals} == {USR1}
    assert {s.sender_pid for s in signals} == {os.getpid()}
    assert [s.time for s in signals] == sorted(s.time for s in signals)
    assert names.index("process") < names.index("signal")


def test_perf_buffers_that_are_full_are_counted() -> None:
    """Compiled already, by the test before this one."""
    backend = BccBackend(ring=False)
    backend.attach([SIGNALS], {})
    sent = 30_000
    try:
        with Actor() as target:
            target.do("ignore", USR1)
            for _ in range(sent):
                os.kill(target.pid, USR1)
            backend.detach()
            _, signals = read_all(backend, target.pid)
            lost = backend.lost()
    finally:
        backend.close()
    assert lost["signal"] > 0
    assert len(signals) + lost["signal"] >= sent
    assert len(signals) < sent


def test_what_the_compiler_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled here and now, or rather not."""
    monkeypatch.setattr(
        bcc, "text_of", lambda *_: "int on_signal_generate(void *context) { wrong }"
    )
    with pytest.raises(Refused, match="error: use of undeclared identifier 'wrong'"):
        BccBackend().attach([SIGNALS], {})
    nothing_is_left()


def test_what_the_verifier_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bcc_programs, "fill_in", lambda *_: bytes.fromhex("9500000000000000"))
    with pytest.raises(Exception, match="R0 !read_ok"):
        BccBackend().attach([probes.get(name) for name in probes.names()], {})
    nothing_is_left()


def nothing_is_left() -> None:
    assert children_of(os.getpid()) == []
    held = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert not [target for target in held if "bpf" in target]


def read_all(backend: BccBackend, pid: int) -> tuple[list[str], list[Any]]:
    """Names of the records as they came, and the signals to this process."""
    names, signals = [], []
    while batch := backend.read(0.1):
        for run in batch.runs:
            schema = backend.schemas[run.kind]
            records = list(schema.cells(memoryview(batch.data)[run.start : run.end]))
            names += [schema.name] * len(records)
            if schema.name == "signal":
                signals += [r for r in records if r.target_pid == pid and r.signal == USR1]
    return names, signals


@contextmanager
def without_btf(directory: Path) -> Iterator[None]:
    empty = directory / "empty"
    empty.touch()
    subprocess.run(["mount", "--bind", empty, core.BTF], check=True)
    try:
        assert backends.lacking("core")
        yield
    finally:
        subprocess.run(["umount", core.BTF], check=True)
