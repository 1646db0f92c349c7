# SPDX-License-Identifier: Apache-2.0
"""A server whose queues can be filled, with its clients, in its own network namespace.

`Queues()` starts this file as a program that runs alone, on Python's standard library. Each line on
its standard input is a JSON list, a function's name and its arguments; each answer is a line,
`["done", value]` or `["failed", words]`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import platform
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from typing_extensions import Self

ANSWER_SECONDS = 120.0
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}[platform.machine()]
UFFDIO_API, UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00
LOOPBACK = {"ipv4": "127.0.0.1", "ipv6": "::1"}

# The kernel may process a packet later.
SOON_SECONDS = 10.0

LIBC = ctypes.CDLL(None, use_errno=True)

listening: dict[int, socket.socket] = {}
clients: list[socket.socket] = []


def main() -> None:
    if LIBC.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    _loopback_up()
    print(json.dumps(["done", os.getpid()]), flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = ["done", globals()[name](*arguments)]
        except Exception as error:
            answer = ["failed", f"{name}{tuple(arguments)}: {error!r}"]
        print(json.dumps(answer), flush=True)


def _loopback_up() -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def sysctl(name: str, value: int) -> None:
    with open(f"/proc/sys/net/{name}", "w") as file:
        file.write(str(value))


def counters() -> dict[str, int]:
    """TcpExt of this namespace."""
    with open("/proc/self/net/netstat") as file:
        titles, values = [line.split()[1:] for line in file if line.startswith("TcpExt:")]
    return dict(zip(titles, map(int, values), strict=True))


def listen(port: int, backlog: int, address: str) -> None:
    """Listens without accepting. Again on the same port, it only changes the queue's length."""
    if port not in listening:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listening[port] = socket.socket(family)
        listening[port].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening[port].bind((address, port))
    listening[port].listen(backlog)


def close(port: int) -> None:
    listening.pop(port).close()


def inode(port: int) -> int:
    return os.fstat(listening[port].fileno()).st_ino


def connect(port: int, times: int, address: str) -> int:
    """Opens connections. Returns how many succeeded; a busy machine may complete them later."""
    for _ in range(times):
        client = _client(address)
        client.connect_ex((address, port))
        clients.append(client)
    return _soon(lambda: len(select.select([], clients[-times:], [], 0)[1]), times)


def knock(port: int, times: int, address: str) -> list[int]:
    """Sends one SYN each and no second one, because the client is closed at once. Returns the
    clients' ports."""
    ports = []
    for _ in range(times):
        with _client(address) as client:
            client.connect_ex((address, port))
            ports.append(client.getsockname()[1])
    return ports


def connect_halfway(port: int, times: int, address: str) -> list[int]:
    """Opens connections by deaf clients: the answer to their SYN never reaches them."""
    for _ in range(times):
        client = _client(address)
        nothing = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF_RET 0
        program = struct.pack("HxxxxxxP", 1, ctypes.addressof(nothing))
        client.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        client.connect_ex((address, port))
        clients.append(client)
    _soon(lambda: _halfway(port), times)
    return [client.getsockname()[1] for client in clients[-times:]]


def _halfway(port: int) -> int:
    """The number of connections to this port without the final ACK (TCP_SYN_RECV)."""
    found = 0
    for name in ("tcp", "tcp6"):
        with open(f"/proc/self/net/{name}") as table:
            rows = [line.split() for line in table]
        found += sum(row[1].endswith(f":{port:04X}") and row[3] == "03" for row in rows)
    return found


def _soon(look: Callable[[], int], enough: int) -> int:
    """The value once it reaches `enough`, or its last value after some seconds."""
    end = time.monotonic() + SOON_SECONDS
    while (found := look()) < enough and time.monotonic() < end:
        time.sleep(0.001)
    return found


def hear(times: int) -> None:
    """Makes the oldest clients hear again. They answer when the server sends again."""
    for client in clients[:times]:
        with contextlib.suppress(OSError):  # this one was never deaf
            client.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def overrun(port: int, drops: int, address: str) -> int:
    """Sends packets to a connection whose reader holds the socket while copying into a page that is
    never provided. Stops once that many were dropped. Returns the client's port."""
    client = socket.create_connection((address, port))
    served, _ = listening[port].accept()
    clients.extend((client, served))  # the owner of the connection is looked up later
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        served.setsockopt(socket.SOL_SOCKET, option, 1)  # the smallest possible
    before, theirs = counters()["TCPBacklogDrop"], client.getsockname()[1]
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        faults = _watch(page)
        reader = threading.Thread(target=served.recv_into, args=(page,))
        reader.start()
        client.send(b"x")
        try:
            if not select.select([faults], [], [], ANSWER_SECONDS)[0]:
                raise TimeoutError("the reader never touched the page")
            with _raw(address) as raw:
                for _ in range(10_000):
                    if counters()["TCPBacklogDrop"] - before >= drops:
                        break
                    raw.sendto(_segment(theirs, port, address), (address, 0))
        finally:
            os.close(faults)
            reader.join()
    return int(theirs)


def _watch(page: mmap.mmap) -> int:
    """A descriptor that becomes readable when the page is touched. The toucher waits until it is
    closed (userfaultfd(2))."""
    descriptor: int = LIBC.syscall(SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "userfaultfd")
    start = ctypes.addressof(ctypes.c_char.from_buffer(page))
    fcntl.ioctl(descriptor, UFFDIO_API, struct.pack("QQQ", 0xAA, 0, 0))
    missing = 1
    fcntl.ioctl(descriptor, UFFDIO_REGISTER, struct.pack("QQQQ", start, mmap.PAGESIZE, missing, 0))
    return descriptor


def _raw(address: str) -> socket.socket:
    if ":" not in address:
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    return socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_TCP)


def _segment(source: int, target: int, address: str) -> bytes:
    """An ACK with data outside the window; RFC 9293 has the header and the checksum."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    data = bytes(1000)
    words = struct.pack("!HHIIBBHHH", source, target, 1, 1, 5 << 4, 0x10, 1000, 0, 0) + data
    pseudo = packed + packed + struct.pack("!II", len(words), socket.IPPROTO_TCP)
    total = sum(struct.unpack(f"!{(len(pseudo) + len(words)) // 2}H", pseudo + words))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return words[:16] + struct.pack("!H", ~total & 0xFFFF) + words[18:]


def hang_up() -> None:
    while clients:
        clients.pop().close()


def _client(address: str) -> socket.socket:
    client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    client.setblocking(False)
    return client


class Queues:
    """The program from a test's side: `do` gives an order and returns the answer."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = int(self._answer("its start"))
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def netns(self) -> int:
        return os.stat(f"/proc/{self.pid}/ns/net").st_ino

    def do(self, name: str, *arguments: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self._process.stdin.flush()
        return self._answer(name)

    def _answer(self, what: str) -> Any:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], ANSWER_SECONDS)
        assert readable, f"waited {ANSWER_SECONDS:g} s for {what}"
        line = self._process.stdout.readline()
        assert line, f"the program ended instead of {what}"
        outcome, value = json.loads(line)
        assert outcome == "done", value
        return value


if __name__ == "__main__":
    main()
