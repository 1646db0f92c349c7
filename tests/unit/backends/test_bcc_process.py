# SPDX-License-Identifier: Apache-2.0
"""While BCC compiles: who is told, who can end it, and that its process never stays behind. The BCC
here does what a test wants; the real one is for the lab's guests (tests/backends/)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ktrace import ROOT
from tests.support.raisers import children_of
from tests.support.wait import wait_for
from tracer.backends.bcc import programs as bcc_programs
from tracer.backends.bcc.programs import Programs, Worker, interpreter_of

# It tells its process, and is done when it may be.
BCC = """
import os, time
from pathlib import Path

here = Path(__file__).parent

class lib:
    bpf_num_functions = staticmethod(lambda module: 1)
    bpf_function_name = staticmethod(lambda module, number: b"one")
    bpf_module_kern_version = staticmethod(lambda module: 7)

class BPF:
    module = None
    def __init__(self, **_):
        with (here / "compiling").open("a") as file:
            file.write(f"{os.getpid()}\\n")
        while not (here / "may-end").exists():
            time.sleep(0.01)
    def dump_func(self, name):
        return b"\\x01\\x02"
"""
STARTS_ONE = """
import sys
from pathlib import Path
from tracer.backends.bcc.programs import Worker
Worker(Path(sys.argv[1]), ()).compile("int x;")
"""


@pytest.fixture
def package(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "__init__.py").write_text(BCC)
    yield tmp_path
    left = [pid for pid in started(tmp_path) if is_running(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


@pytest.fixture
def interrupt() -> Iterator[int]:
    descriptor = os.eventfd(0)
    yield descriptor
    os.close(descriptor)


def started(package: Path) -> list[int]:
    """The processes in which it was asked to compile."""
    told = package / "compiling"
    return list(map(int, told.read_text().split())) if told.exists() else []


def is_running(pid: int) -> bool:
    """A zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_compiling_is_said_and_only_once(
    package: Path, interrupt: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bcc_programs, "CACHE", tmp_path / "cache")
    (package / "may-end").touch()
    said: list[str] = []
    for _ in range(2):
        with Programs(package, (), (), interrupt) as programs:
            programs.compile("int x;", tmp_path, said.append)
    assert len(started(package)) == 1
    words = "ktrace: compiling for this kernel with BCC; some seconds, and only once"
    assert said == [words]


def test_it_is_said_before_it_compiles(package: Path, interrupt: int, tmp_path: Path) -> None:
    def say(words: str) -> None:
        assert started(package) == []
        raise InterruptedError(words)

    with (
        pytest.raises(InterruptedError, match="compiling"),
        Programs(package, (), (), interrupt) as programs,
    ):
        programs.compile("int x;", tmp_path, say)


def test_who_waits_can_be_called_away(
    package: Path, interrupt: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bcc_programs, "CACHE", tmp_path / "cache")
    os.eventfd_write(interrupt, 1)
    with (
        pytest.raises(KeyboardInterrupt),
        Programs(package, (), (), interrupt) as programs,
    ):
        programs.compile("int x;", tmp_path, lambda _: None)
    assert children_of(os.getpid()) == []
    assert not (tmp_path / "cache").exists()


def test_who_waits_decides_about_signals(package: Path) -> None:
    """A terminal, or who stops a service, signals all of its processes."""
    starter = subprocess.Popen([sys.executable, "-c", STARTS_ONE, str(package)], cwd=ROOT)
    (pid,) = wait_for("BCC to compile", lambda: started(package))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    (package / "may-end").touch()
    assert starter.wait(60) == 0
    wait_for("BCC's process to go", lambda: not is_running(pid))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_who_waits(package: Path, number: int) -> None:
    """Though nobody was left who could have ended it."""
    starter = subprocess.Popen([sys.executable, "-c", STARTS_ONE, str(package)], cwd=ROOT)
    (pid,) = wait_for("BCC to compile", lambda: started(package))
    starter.send_signal(number)
    assert starter.wait(60) == -number
    wait_for("BCC's process to go", lambda: not is_running(pid))


def test_one_that_has_no_work_ends_with_who_waits(package: Path) -> None:
    worker = Worker(package, ())
    (pid,) = children_of(os.getpid())
    worker.close()
    assert not is_running(pid)


def test_bcc_runs_in_the_python_that_it_was_installed_for(tmp_path: Path) -> None:
    """Which a bundle's is not."""
    assert interpreter_of(Path("/usr/lib/python3/dist-packages/bcc")) == "/usr/bin/python3"
    assert interpreter_of(Path("/usr/lib/python9.9/site-packages/bcc")) == sys.executable
    assert interpreter_of(tmp_path / "bcc") == sys.executable
