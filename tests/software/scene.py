# SPDX-License-Identifier: Apache-2.0
"""What is done to a program in its pod, in steps that wait for what they bring about."""

from __future__ import annotations

import os
import re
import signal
import socket
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.support.containerd import ContainerHandle, PodHandle
from tests.support.wait import wait_for
from tracer.kernel.hierarchies import hierarchies

SECONDS = 150.0
LISTEN = "0A"  # proc_pid_net_tcp(5)


@dataclass
class Scene:
    """`marked` are the processes that the last step was about; `connections` are kept open."""

    pod: PodHandle
    container: ContainerHandle
    marked: set[int] = field(default_factory=set)
    connections: list[socket.socket] = field(default_factory=list)

    @property
    def first(self) -> int:
        """The pid of the first process."""
        return self.container.pid

    def processes(self, pattern: str) -> dict[int, str]:
        """Those whose command line or name has this in it, the first process not among them."""
        found = {pid: _command(pid) for pid in self.container.processes() if pid != self.first}
        return {pid: command for pid, command in found.items() if re.search(pattern, command)}

    def ended(self) -> bool:
        return self.container.status().state == "exited"


Step = Callable[[Scene], object]
Who = Literal["host", "exec"]


def runs(pattern: str, count: int = 1) -> Step:
    """There are at least so many processes of this name, and they are marked."""

    def step(scene: Scene) -> None:
        wait_for(f"{pattern} to run", lambda: len(scene.processes(pattern)) >= count, SECONDS)
        scene.marked = set(scene.processes(pattern))

    return step


def serves(port: int) -> Step:
    """It takes connections."""
    return lambda scene: wait_for(f"port {port}", lambda: _listens(scene.first, port), SECONDS)


def named(comm: str) -> Step:
    """The first process is this program by now."""
    return lambda scene: wait_for(
        f"{comm} to run", lambda: f"({comm})" in _command(scene.first), SECONDS
    )


def handles(name: str) -> Step:
    """The first process is the container's program by now, and has a handler of this signal."""
    return lambda scene: wait_for(
        f"a handler of {name}",
        lambda: _executes(scene.first) and _mask(scene.first, "SigCgt", name),
        SECONDS,
    )


def logs(pattern: str) -> Step:
    """It has written this to its log."""
    return lambda scene: wait_for(
        f"{pattern} in the log", lambda: re.search(pattern, _log(scene)), SECONDS
    )


def kill(name: str, pattern: str = "", who: Who = "host") -> Step:
    """The signal for the first process, or for one of this name, which is marked. From the host it
    is this process that sends it; else a command that the runtime executes."""

    def step(scene: Scene) -> None:
        target = scene.first
        if pattern:
            runs(pattern)(scene)
            target = min(scene.marked)
            scene.marked = {target}
        if who == "host":
            os.kill(target, signal.Signals[f"SIG{name}"])
        else:
            scene.container.exec(["/bin/kill", "-s", name, str(_pid_inside(target))])

    return step


def executed(*argv: str, timeout: int = 10) -> Step:
    """The runtime executes a command in the container, as for `kubectl exec` or a probe."""

    def step(scene: Scene) -> None:
        with suppress(Exception):  # one that takes too long is what some rows are about
            scene.container.exec(argv, timeout)

    return step


def stop(grace: int = 2) -> Step:
    return lambda scene: scene.container.stop(grace)


def asks(port: int, path: str = "/") -> Step:
    """A request that nobody waits for the answer of."""

    def step(scene: Scene) -> None:
        client = socket.create_connection((scene.pod.ip, port), 10)
        client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        scene.connections.append(client)

    return step


def connects(port: int) -> Step:
    """A client of PostgreSQL that has said who it is, and stays."""
    who = b"\x00\x03\x00\x00user\x00postgres\x00\x00"

    def step(scene: Scene) -> None:
        def answer() -> bytes:
            client = socket.create_connection((scene.pod.ip, port), 10)
            client.sendall((4 + len(who)).to_bytes(4, "big") + who)
            scene.connections.append(client)
            return client.recv(1).replace(b"E", b"")  # an error, while it starts

        wait_for("PostgreSQL to take a client", answer, SECONDS)

    return step


def reached(scene: Scene) -> None:
    """What was sent has been read."""
    wait_for("the request to be read", lambda: not _unread(scene.first), SECONDS)


def fetches(port: int, path: str = "/") -> Step:
    """A request and its whole answer."""

    def step(scene: Scene) -> None:
        url = f"http://{scene.pod.ip}:{port}{path}"
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            answer.read()

    return step


def gone(scene: Scene) -> None:
    """The marked processes are."""
    wait_for(
        "the end of the worker",
        lambda: not scene.marked & set(scene.container.processes()),
        SECONDS,
    )


def dumps(scene: Scene) -> None:
    """The first process has crashed and writes its core dump, proc_pid_status(5)."""
    status = Path(f"/proc/{scene.first}/status")
    wait_for("a core dump", lambda: "CoreDumping:\t1" in status.read_text(), SECONDS)


def suspended(scene: Scene) -> None:
    """The first process does not run any more."""
    wait_for("it to be stopped", lambda: _state(scene.first) == "T", SECONDS)


def fewer(scene: Scene) -> None:
    """At least one of the marked processes has ended."""
    wait_for(
        "the end of a worker",
        lambda: scene.marked - set(scene.container.processes()),
        SECONDS,
    )


def ends(scene: Scene) -> None:
    """The container does."""
    wait_for("the container's end", scene.ended, SECONDS)


def limit_pids(pod: PodHandle, count: int) -> None:
    """As a kubelet does it for a pod (podPidsLimit)."""
    roots = ("/sys/fs/cgroup/pids", *(one.mount for one in hierarchies()))
    (file, *_) = (file for root in roots if (file := Path(f"{root}{pod.cgroup}/pids.max")).exists())
    file.write_text(str(count))


def environment(words: Mapping[str, str]) -> dict[str, str]:
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/tmp",
        **words,
    }


def _command(pid: int) -> str:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        comm = Path(f"/proc/{pid}/comm").read_text().strip()
        return f"{words.decode(errors='replace')} ({comm})"
    return ""


def _executes(pid: int) -> bool:
    """Whether this is more than `runc init`, which is written in Go and has handlers of its own.
    The kernel has taken those off when the program's arguments can be read."""
    command = _command(pid)
    return bool(command) and not command.startswith(("runc ", " "))


def _listens(pid: int, port: int) -> bool:
    rows = []
    with suppress(OSError):
        for name in ("tcp", "tcp6"):
            rows += Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
    return any(f":{port:04X} " in row and f" {LISTEN} " in row for row in rows)


def _unread(pid: int) -> bool:
    """Whether something waits in a queue of its connections, proc_pid_net_tcp(5)."""
    rows = [row.split() for row in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return any(int(row[4].partition(":")[2], 16) for row in rows)


def _mask(pid: int, which: str, name: str) -> bool:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(which):
                return bool(int(line.split()[1], 16) >> signal.Signals[f"SIG{name}"] - 1 & 1)
    return False


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]


def _pid_inside(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid"):
            return int(line.split()[-1])
    raise AssertionError(f"process {pid} has no NSpid")


def _log(scene: Scene) -> str:
    return "".join(
        file.read_text(errors="replace") for file in scene.pod.log_directory.rglob("*.log")
    )
