# SPDX-License-Identifier: Apache-2.0
"""Processes that send signals or get them, and what /proc says about them.

An `Actor` is a Python process that follows orders, one at a time (tests.support.actor has the
orders); a `Shell` is the same with a shell, which can be any copy of one. `facts` is the expected
description of a process: the tests compare it with ktrace's, field by field.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import Self

from tests.support import actor
from tests.support.ktrace import IN_GUEST, in_fork
from tests.support.wait import wait_for

ACTOR = Path(__file__).with_name("actor.py")
ANSWER_SECONDS = 120.0
ANCESTORS = 16

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class _Child:
    """A child process that answers on standard output; killed at the end of its `with` block."""

    def __init__(
        self,
        argv: Sequence[str | bytes],
        program: str | None = None,
        descriptors: Sequence[int] = (),
        instead: Callable[[], None] | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            argv,
            executable=program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=descriptors,
            start_new_session=True,
            preexec_fn=instead,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(ANSWER_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def wait(self) -> int:
        """Its exit code once it ends by itself; negative for a signal."""
        return self._process.wait(ANSWER_SECONDS)

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def _read(self, what: str) -> str:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], ANSWER_SECONDS)
        assert readable, f"waited {ANSWER_SECONDS:g} s for {what}"
        line = self._process.stdout.readline()
        assert line, f"the process ended instead of {what}"
        return line.decode()


class Follower(_Child):
    """A program that follows orders, one a line, and answers each."""

    def do(self, *order: Any) -> Any:
        self.start(*order)
        return self.answer(f"an answer to {order}")

    def start(self, *order: Any) -> None:
        """Sends an order without waiting for an answer, for orders that end the program."""
        self._write(json.dumps(order))

    def answer(self, what: str) -> Any:
        outcome, value = json.loads(self._read(what))
        assert outcome == "done", value
        return value


class Actor(Follower):
    """`argv0` and `words` only appear in the process's arguments. In a guest the actor is a fork of
    the tests' own process, unless it has any of these or must be seen executing a program."""

    def __init__(
        self,
        *words: str | bytes,
        argv0: str | bytes = "actor",
        pid_namespace: bool = False,
        executed: bool = False,
    ) -> None:
        program = os.path.realpath(sys.executable)
        flags = ["--pid-namespace"] if pid_namespace else []
        forked = IN_GUEST and not (words or argv0 != "actor" or pid_namespace or executed)
        argv = [argv0, "-I", "-S", str(ACTOR), *flags, *words]
        super().__init__(argv, program, instead=_act if forked else None)
        if pid_namespace:
            self.pid = self.answer("the pid of PID 1")
        self.answer("the actor's start")


def _act() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    in_fork(actor.main)


class Shell(_Child):
    """`program` is /bin/sh or a copy of it."""

    def __init__(self, program: str = "/bin/sh", descriptors: Sequence[int] = ()) -> None:
        super().__init__(["sh"], program, descriptors)

    def do(self, line: str) -> None:
        """Runs a line. The shell itself must survive it."""
        self._write(f"{line}\necho done")
        assert self._read(f"the end of {line!r}") == "done\n"

    def execute(self, program: str, *words: str) -> None:
        """The shell becomes another copy of a shell, with these arguments."""
        argv = [program, "-s", *words]
        # alone in its line and its write(2), because input that a shell has read ahead is lost
        self._write(f"exec {' '.join(argv)}")
        wait_for(f"{self.pid} to run {argv}", lambda: facts(self.pid)["argv"] == argv)
        self.do(":")


class Idle(_Child):
    """A process that does nothing and dies of any signal."""

    def __init__(self) -> None:
        argv = ["sleep", "600"]
        super().__init__(argv)
        # the last thing that execve(2) sets
        wait_for("sleep to run", lambda: facts(self.pid)["argv"] == argv)


def copy_of_shell(target: Path) -> str:
    """A program of our own, which is a copy of a shell."""
    shutil.copy(os.path.realpath("/bin/sh"), target)
    target.chmod(0o755)
    return str(target)


def facts(pid: int, tid: int | None = None) -> dict[str, Any]:
    """The expected description of a process, except for the exact nanosecond of its start."""
    tid = tid or pid
    status = _status(pid)
    argv = Path(f"/proc/{pid}/cmdline").read_bytes().removesuffix(b"\0")
    return {
        "pid": pid,
        "tid": tid,
        "comm": _comm(f"/proc/{pid}/task/{tid}"),
        "exe": text(os.readlink(os.fsencode(f"/proc/{pid}/exe"))),
        "argv": [text(word) for word in argv.split(b"\0")] if argv else None,
        "uid": int(status["Uid"].split()[0]),
        "pid_in_pod": int(status["NSpid"].split()[-1]),
        "start_boot_ns": _start_ticks(pid) * _TICK_NS,
        "pod": None,
        "container": None,
        "ancestry": ancestry(pid),
    }


def children_of(parent: int) -> list[int]:
    """Includes zombies."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            fields = (directory / "stat").read_bytes().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == parent:
            found.append(int(directory.name))
    return sorted(found)


def ancestry(pid: int) -> list[dict[str, Any]]:
    chain: list[dict[str, Any]] = []
    while (pid := int(_status(pid)["PPid"])) and len(chain) < ANCESTORS:
        chain.append({"pid": pid, "comm": _comm(f"/proc/{pid}")})
    return chain


def own_child(pid: int, program: str, argv: list[str], started: int) -> dict[str, Any]:
    """The facts of a child of ours that may be gone already, derived without reading /proc. It
    started no earlier than `started`, by CLOCK_BOOTTIME."""
    me = os.getpid()
    return {
        "pid": pid,
        "tid": pid,
        "comm": Path(program).name[:15],
        "exe": os.path.realpath(program),
        "argv": argv,
        "uid": os.getuid(),
        "pid_in_pod": pid,
        "start_boot_ns": (started, time.clock_gettime_ns(time.CLOCK_BOOTTIME)),
        "pod": None,
        "container": None,
        "ancestry": [{"pid": me, "comm": _comm(f"/proc/{me}")}, *ancestry(me)][:ANCESTORS],
    }


def check_process(seen: dict[str, Any] | None, expected: dict[str, Any]) -> None:
    """Compares every field. /proc counts the start in ticks; for a vanished child only the limits
    of its start are known."""
    assert seen is not None, f"no process instead of {expected['comm']}"
    start, about = seen["start_boot_ns"], expected["start_boot_ns"]
    earliest, latest = about if isinstance(about, tuple) else (about, about + _TICK_NS - 1)
    assert earliest <= start <= latest
    assert seen == {**expected, "start_boot_ns": start}


def text(raw: bytes) -> str:
    """Bytes that a process chose, shown as docs/events.md describes."""
    return raw.decode("utf-8", "backslashreplace")


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _comm(directory: str) -> str:
    return text(Path(directory, "comm").read_bytes().removesuffix(b"\n"))


def _status(pid: int) -> dict[str, str]:
    lines = text(Path(f"/proc/{pid}/status").read_bytes()).split("\n")
    pairs = (line.partition(":") for line in lines)
    return {key: value.strip() for key, _, value in pairs}


def _start_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
