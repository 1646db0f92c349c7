# SPDX-License-Identifier: Apache-2.0
"""Clients and servers in pods' network namespaces that use connections as real ones do, and a
witness that counts the resets on the wire.

They are host processes that have entered a pod's network and a container's cgroups; nothing else
about them matters. Each takes one order: a function's name and its arguments.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

from tests.support.containerd import ContainerHandle
from tracer.kernel.hierarchies import hierarchies

# It ends with the test that started it. `say` reports that it is ready, or has done its task.
TALKER = r"""
import ctypes, json, os, select, signal, socket, struct, sys, time

ctypes.CDLL(None).prctl(1, signal.SIGKILL)
TCP_INFO = 11
TCP_REPAIR = 19  # a connection is made without a packet
DATA = b"x" * 1000

def say(value):
    print(json.dumps(value), flush=True)

def state(end):
    return end.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 1)[0]

def await_state(end, *states):
    deadline = time.monotonic() + 60
    while state(end) not in states:
        if time.monotonic() > deadline:
            raise TimeoutError(f"state {state(end)} and not {states}")
        time.sleep(0.001)

def reset_on_close(end):
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

def listener(port, backlog=4096):
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    end.bind(("0.0.0.0", port))
    end.listen(backlog)
    return end

def until_told():
    sys.stdin.readline()

# servers

def keep_alive(port, times, idle):
    # answers one request on each connection, and closes it when it has been idle for so long
    server = listener(port)
    say("ready")
    kept = []
    for _ in range(times):
        end, _ = server.accept()
        end.recv(1000)
        end.sendall(DATA)
        kept.append((time.monotonic() + idle, end))
    for due, end in kept:
        time.sleep(max(0, due - time.monotonic()))
        end.close()
    until_told()

def answering(port, times):
    server = listener(port)
    say("ready")
    kept = []
    for _ in range(times):
        end, _ = server.accept()
        end.recv(1000)
        end.sendall(DATA)
        kept.append(end)
    until_told()

def slow(port, times, left):
    # answers when all clients have left it for so long
    server = listener(port)
    say("ready")
    asked = []
    for _ in range(times):
        end, _ = server.accept()
        end.recv(1000)
        asked.append(end)
    for end in asked:
        await_state(end, 8)
    time.sleep(left)
    for end in asked:
        end.sendall(DATA)
    until_told()

def generous(port, times):
    # sends without end to whoever connects, and sees them leave
    server = listener(port)
    say("ready")
    ends, came = [], 0
    while ends or came < times:
        readable, writable, _ = select.select([server], ends, [])
        for _ in readable:
            ends.append(server.accept()[0])
            ends[-1].setblocking(False)
            came += 1
        for end in writable:
            try:
                end.send(bytes(1 << 16))
            except BlockingIOError:
                pass
            except (ConnectionResetError, BrokenPipeError):
                ends.remove(end)
    say("done")
    until_told()

def accepting(port, times):
    server = listener(port)
    say("ready")
    kept = [server.accept()[0] for _ in range(times)]
    until_told()

def holding(port, address, first, times):
    # still has connections with these ports of a client that no longer knows of them
    server = listener(port)
    held = [socket.socket() for _ in range(times)]
    for number, end in enumerate(held):
        end.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        end.bind(("0.0.0.0", port))
        end.connect((address, first + number))
        end.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, -1)
    say("ready")
    kept = [server.accept()[0] for _ in range(times)]
    until_told()

def deaf(port, backlog):
    # closes without having accepted anybody, when it is told to
    server = listener(port, backlog)
    say("ready")
    until_told()
    server.close()
    say("done")

# clients

def reuse(address, port, times, later):
    # asks, waits until the other side has closed, and asks once more on the same connection
    ends = []
    for _ in range(times):
        end = socket.create_connection((address, port), 60)
        end.sendall(b"GET")
        ends.append(end)
    for end in ends:
        await_state(end, 8)
    time.sleep(later)
    for end in ends:
        end.sendall(b"GET")
    for end in ends:
        await_state(end, 7)
    say("done")

def give_up(address, port, times, after):
    ends = []
    for _ in range(times):
        end = socket.create_connection((address, port), 60)
        end.sendall(b"GET")
        ends.append(end)
    time.sleep(after)
    for end in ends:
        end.close()
    say("done")

def stale(address, port, times):
    # sends on connections that the other side has never had, or no longer
    ends = []
    for _ in range(times):
        end = socket.socket()
        end.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        end.bind(("0.0.0.0", 0))
        end.connect((address, port))
        end.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, -1)
        end.sendall(b"GET")
        ends.append(end)
    for end in ends:
        await_state(end, 7)
    say("done")

def patient(address, port, times, idle):
    # waits until the kernel gives up, as nobody answers its keepalives
    ends = []
    for _ in range(times):
        end = socket.create_connection((address, port), 60)
        end.sendall(b"GET")
        end.recv(1000)
        for option, value in ((4, idle), (5, 1), (6, 1)):  # TCP_KEEPIDLE, KEEPINTVL, KEEPCNT
            end.setsockopt(socket.IPPROTO_TCP, option, value)
        ends.append(end)
    say("ready")
    until_told()
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for end in ends:
        await_state(end, 7)
    say("done")

def ask(address, port, times):
    # how each was answered, by errno
    answers = []
    for _ in range(times):
        end = socket.socket()
        end.settimeout(60)
        answers.append(end.connect_ex((address, port)))
        end.close()
    say(answers)

def knock(address, port, times):
    # asks and does not wait for an answer; the connections stay
    ends = [socket.socket() for _ in range(times)]
    for end in ends:
        end.setblocking(False)
        end.connect_ex((address, port))
    say("done")
    until_told()

def come_back(address, port, first, times):
    # connects from these ports, as after a restart
    ends = [socket.socket() for _ in range(times)]
    for number, end in enumerate(ends):
        end.settimeout(60)
        end.bind(("0.0.0.0", first + number))
        end.connect((address, port))
    say("done")
    until_told()

def check(address, port, times):
    # as haproxy checks a server: connects and resets
    for _ in range(times):
        end = socket.create_connection((address, port), 60)
        reset_on_close(end)
        end.close()
    say("done")

def download(address, port, times):
    # leaves in the middle, with data that it has not read
    for _ in range(times):
        end = socket.create_connection((address, port), 60)
        end.recv(1000)
        deadline = time.monotonic() + 60
        while not select.select([end], [], [], 1)[0] and time.monotonic() < deadline:
            pass
        end.close()
    say("done")

def disconnect(address, port, times):
    for _ in range(times):
        end = socket.create_connection((address, port), 60)
        end.sendall(b"GET")
        if ctypes.CDLL(None).connect(end.fileno(), bytes(16), 16):
            raise OSError("connect(AF_UNSPEC)")
    say("done")

def orphans(address, port, times, limit, before):
    # closes connections that still have data for a reader who does not read, while the machine may
    # have no such connection (tcp_max_orphans, behind the descriptor `limit`): for a moment only
    def full():
        end = socket.create_connection((address, port), 60)
        end.setblocking(False)
        try:
            while True:
                end.send(bytes(1 << 16))
        except BlockingIOError:
            return end

    def cut_off():
        with open("/proc/net/netstat") as file:
            heads, values = (line.split() for line in list(file)[:2])
        return int(values[heads.index("TCPAbortOnMemory")])

    full().close()
    deadline = time.monotonic() + 60
    while cut_off() < times:  # the kernel counts such connections ten times a second
        if time.monotonic() > deadline:
            raise TimeoutError(f"{cut_off()} of {times} were cut off")
        end = full()
        try:
            os.pwrite(limit, b"0", 0)
            end.close()
        finally:
            os.pwrite(limit, before.encode(), 0)
        time.sleep(0.01)
    say("done")
    until_told()

function, *arguments = json.loads(sys.argv[1])
globals()[function](*arguments)
"""


def in_network(container: ContainerHandle) -> tuple[str, ...]:
    return ("nsenter", "--net", f"--target={container.pid}")


class Talker:
    """One program in a pod's network. It ends with the block. `files` are the descriptors that it
    inherits."""

    def __init__(
        self, container: ContainerHandle, *order: Any, files: Collection[int] = ()
    ) -> None:
        enter = " && ".join(f"echo $$ > {file}" for file in _cgroups(container))
        words = (*in_network(container), sys.executable, "-I", "-S", "-c", TALKER)
        self._process = subprocess.Popen(
            ["sh", "-c", f'{enter} && exec "$@"', "sh", *words, json.dumps(order)],
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            text=True,
            pass_fds=files,
        )

    def __enter__(self) -> Talker:
        return self

    def __exit__(self, *_exception: object) -> None:
        """It ends by itself once its input is closed."""
        try:
            self._process.communicate(timeout=60)
        finally:
            self._process.kill()
            self._process.wait()

    def go_on(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("go on\n")
        self._process.stdin.flush()

    def said(self) -> Any:
        """Waits for its next message."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            _, error = self._process.communicate()
            raise AssertionError(error)
        return json.loads(line)


@contextmanager
def server(container: ContainerHandle, *order: Any) -> Iterator[Talker]:
    with Talker(container, *order) as running:
        assert running.said() == "ready"
        yield running


class Witness:
    """tcpdump in a pod's network: all resets on its wire."""

    def __init__(self, container: ContainerHandle) -> None:
        dump = ("tcpdump", "-n", "-l", "-i", "eth0", "tcp[tcpflags] & tcp-rst != 0")
        self._process = subprocess.Popen(
            [*in_network(container), *dump], stdout=PIPE, stderr=PIPE, text=True
        )
        assert self._process.stderr
        for line in self._process.stderr:
            if "listening on" in line:
                return
        raise AssertionError("tcpdump did not begin")

    def __enter__(self) -> Witness:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def count(self) -> int:
        """The number of all resets so far, as the kernel's filter counted them for tcpdump, which
        may have printed fewer. Ends the witness."""
        os.kill(self._process.pid, signal.SIGINT)
        _, said = self._process.communicate(timeout=60)
        (line,) = (line for line in said.splitlines() if "received by filter" in line)
        return int(line.split()[0])


def _cgroups(container: ContainerHandle) -> list[str]:
    """The directories that put a process into all of the container's cgroups."""
    files = []
    for line in Path(f"/proc/{container.pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for one in hierarchies():
            if one.mount.endswith(controllers) or (one.version == 2 and not controllers):
                files.append(f"{one.mount}{path}/cgroup.procs")
    assert files
    return files


def rule(container: ContainerHandle, *words: str) -> None:
    """Adds an iptables rule in a pod's network; it disappears with the pod."""
    command = [*in_network(container), "iptables", "--wait", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def setting(container: ContainerHandle, name: str, value: str) -> None:
    command = [*in_network(container), "sysctl", "-qw", f"{name}={value}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def counted(container: ContainerHandle, *names: str) -> int:
    """The sum of these counters of a pod's network, nstat(8)."""
    found = 0
    for file in ("netstat", "snmp"):
        lines = Path(f"/proc/{container.pid}/net/{file}").read_text().splitlines()
        for heads, values in zip(lines[::2], lines[1::2], strict=True):
            told = dict(zip(heads.split(), values.split(), strict=True))
            found += sum(int(told.get(name, 0)) for name in names)
    return found
