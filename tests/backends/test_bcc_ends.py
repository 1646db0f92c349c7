# SPDX-License-Identifier: Apache-2.0
"""However ktrace ends, also while BCC compiles, nothing of it stays: no process, no program, no
probed function, no file."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.backends.kernel import InKernel
from tests.kernel.checks import programs_of
from tests.support.ktrace import Ktrace
from tests.support.raisers import children_of
from tests.support.wait import wait_for
from tracer import probes
from tracer.backends.bcc import programs as bcc_programs

EVERY = ",".join(probes.names())
KILL = int(signal.SIGKILL)
COMPILES = "ktrace: compiling for this kernel with BCC; some seconds, and only once"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_while_bcc_compiles(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for its end does not wait for the compiler."""
    monkeypatch.setattr(bcc_programs, "CACHE", tmp_path / "empty")  # in a guest ktrace is our fork
    before, files = InKernel.now(), temporary_files()
    ktrace = Ktrace("signals", "--all", backend="bcc", until=lambda: compiling(ktrace.pid))
    with ktrace:
        worker = compiling(ktrace.pid)
        assert InKernel.now().maps > before.maps
        ktrace.signal(number)
        assert ktrace.exit_code() == (-KILL if number == KILL else 130)
        wait_for("BCC's process to go", lambda: not Path(f"/proc/{worker}").exists())
        assert ktrace.stderr.strip() == COMPILES
        assert ktrace.output == b""
    wait_for("the kernel to be as before", lambda: InKernel.now() == before)
    assert temporary_files() == files
    assert not (tmp_path / "empty").exists()


def test_killed_while_it_traces() -> None:
    before = InKernel.now()
    with Ktrace("trace", EVERY, "--all", backend="bcc") as ktrace:
        assert children_of(ktrace.pid) == []  # BCC is not needed any more
        while_tracing = InKernel.now()
        assert while_tracing.programs - before.programs == set(programs_of(ktrace.pid))
        assert any("oom_kill_process" in place for place in while_tracing.probed - before.probed)
        assert while_tracing.events == before.events == ""
        ktrace.signal(KILL)
        assert ktrace.exit_code() == -KILL
        wait_for("the kernel to be as before", lambda: InKernel.now() == before)


def compiling(ktrace: int) -> int | None:
    """BCC's process, once its compiler reads the kernel's headers."""
    for pid in children_of(ktrace):
        if "/include/linux/sched.h" in Path(f"/proc/{pid}/maps").read_text():
            return pid
    return None


def temporary_files() -> set[str]:
    return {name for name in os.listdir("/tmp") if not name.startswith("ktrace-test-")}
