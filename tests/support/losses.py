# SPDX-License-Identifier: Apache-2.0
"""Packets that the kernel drops, for a known reason and exactly so many, in a network namespace of
their own that has nothing but its loopback device.

`Losses()` starts this file as a program that runs alone, on Python's standard library. Each line on
its standard input is a JSON list, a function's name and its arguments; each answer is a line,
`["done", value]` or `["failed", words]`.

What a packet socket sends on the loopback device has no route yet. So it is received like a packet
from another host.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
SIOCADDRT, SIOCSIFFLAGS, SIOCSIFADDR = 0x890B, 0x8914, 0x8916
IFF_UP, IFF_RUNNING = 0x1, 0x40
ETH_P_IP = 0x0800
SO_MEMINFO, MEMINFO_DROPS = 55, 8
TCP, UDP = 6, 17
SECONDS = 60.0
# Two packets meet by chance.
CLASH_SECONDS = 80.0

# From the blocks for documentation (RFC 5737), which no pod has, and for tests of network devices
# (RFC 5180). OWN is the namespace's; beside it is another host, and nobody knows a way to FAR.
OWN, BESIDE, OTHER, FAR = "192.0.2.1", "192.0.2.2", "192.0.2.3", "203.0.113.9"
OWN6 = "2001:2::1"
PORT = 7701

LIBC = ctypes.CDLL(None, use_errno=True)
kept: list[socket.socket] = []


def main() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if LIBC.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    _set_up()
    print(json.dumps(["done", os.stat("/proc/self/ns/net").st_ino]), flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = ["done", globals()[name](*arguments)]
        except Exception as error:
            answer = ["failed", f"{name}{tuple(arguments)}: {error!r}"]
        print(json.dumps(answer), flush=True)


def _set_up() -> None:
    four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    fcntl.ioctl(four, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP | IFF_RUNNING))
    fcntl.ioctl(four, SIOCSIFADDR, struct.pack("16s", b"lo:1") + _sockaddr(OWN))
    fcntl.ioctl(six, SIOCSIFADDR, struct.pack("=16sIi", socket.inet_pton(10, OWN6), 128, 1))
    device = ctypes.create_string_buffer(b"lo")
    route = struct.pack(
        "L16s16s16sHhLPhPLLH",
        *(0, _sockaddr("192.0.2.0"), _sockaddr("0.0.0.0"), _sockaddr("255.255.255.0")),
        *(IFF_UP, 0, 0, 0, 0, ctypes.addressof(device), 0, 0, 0),
    )
    fcntl.ioctl(four, SIOCADDRT, route)
    sysctl("ipv4/ip_forward", 1)
    sysctl("ipv4/conf/all/rp_filter", 0)
    sysctl("ipv4/conf/lo/rp_filter", 0)


def _sockaddr(address: str) -> bytes:
    return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))


def sysctl(name: str, value: int) -> None:
    Path("/proc/sys/net", name).write_text(str(value))


def local_source(times: int) -> None:
    """As a load balancer sends that gives the node its own address back."""
    receive(OWN, OWN, times)


def reverse_path(times: int) -> None:
    """No route leads back to the source."""
    sysctl("ipv4/conf/lo/rp_filter", 1)
    receive(FAR, OWN, times)
    sysctl("ipv4/conf/lo/rp_filter", 0)


def loopback_source(times: int) -> None:
    receive("127.0.0.9", OWN, times)


def no_route(times: int) -> None:
    receive(BESIDE, FAR, times)


def receive(source: str, destination: str, times: int, port: int = PORT) -> None:
    with _packets() as send:
        for number in range(times):
            send(packet(source, destination, port, number))


def storm(times: int) -> None:
    """Packets with an impossible source, each of another port, and of one of four sources."""
    every = [packet(f"127.0.1.{n % 4}", OWN, 1024 + n % 60_000, n) for n in range(60_000)]
    with _packets() as send:
        for number in range(times):
            send(every[number % len(every)])


@contextmanager
def _packets() -> Iterator[Any]:
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as raw:
        lo = ("lo", ETH_P_IP, 0, 0, bytes(6))
        yield lambda data: raw.sendto(data, lo)


def packet(
    source: str,
    destination: str,
    port: int,
    number: int,
    data: bytes = b"dropped!",
    *,
    dont_cut: bool = False,
) -> bytes:
    """Of UDP."""
    udp = struct.pack("!HHHH", 5555, port, 8 + len(data), 0) + data
    return _with_header(UDP, source, destination, number, udp, dont_cut=dont_cut)


def _with_header(
    protocol: int,
    source: str,
    destination: str,
    number: int,
    data: bytes,
    *,
    dont_cut: bool = False,
) -> bytes:
    """RFC 791 has the header and its checksum."""
    words = [0x4500, 20 + len(data), number & 0xFFFF, 0x4000 * dont_cut, 64 << 8 | protocol, 0]
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    total = sum(words) + sum(struct.unpack("!4H", ends))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    words[5] = ~total & 0xFFFF
    return struct.pack("!6H", *words) + ends + data


def full_buffer(address: str, times: int) -> list[int]:
    """A program that does not read. Returns its port, and how many packets it got."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    idle = socket.socket(family, socket.SOCK_DGRAM)
    kept.append(idle)
    idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the smallest possible
    end = time.monotonic() + SECONDS
    while True:
        try:
            idle.bind((address, 0))
            break
        except OSError:  # an address of IPv6 is tentative for a moment
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
    sent = 0
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        while (dropped := _drops(idle)) < times and time.monotonic() < end:
            client.sendto(b"x" * 100, idle.getsockname()[:2])
            sent += 1
    return [idle.getsockname()[1], sent - dropped]


def _drops(end: socket.socket) -> int:
    memory = end.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * (MEMINFO_DROPS + 1))
    return int(struct.unpack_from("I", memory, 4 * MEMINFO_DROPS)[0])


def closed_port(times: int) -> None:
    """What nobody misses: each is answered with an ICMP error."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for _ in range(times):
            client.sendto(b"x", (OWN, PORT))


def closed_socket(times: int) -> None:
    """A program that ends with unread packets in its buffer."""
    idle = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    idle.bind((OWN, 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for _ in range(times):
            client.sendto(b"x", idle.getsockname())
    idle.close()


def too_large(times: int) -> None:
    """For a device with a smaller MTU than the sender's; it must not be cut."""
    sysctl("ipv4/conf/all/accept_local", 1)
    route = ("ip", "route", "replace", FAR, "via", OTHER, "dev", "lo", "mtu", "lock", "1000")
    subprocess.run(["ip", "addr", "add", f"{OTHER}/32", "dev", "lo"], check=True)
    subprocess.run(route, check=True)
    with _packets() as send:
        for number in range(times):
            send(packet(BESIDE, FAR, PORT, number, bytes(1200), dont_cut=True))


# Netfilter, whose rules programs make.


def rules(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text.encode(), check=True)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def send(times: int, port: int = PORT) -> int:
    """From a socket, each to the next port; returns how many were refused at once."""
    refused = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for _ in range(times):
            try:
                client.sendto(b"dropped!", (OWN, port))
            except PermissionError:
                refused += 1
    return refused


def connected(count: int) -> None:
    """Connections that connection tracking must not forget."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (4 * count, 4 * count))
    listening = socket.socket()
    listening.bind((OWN, 0))
    listening.listen(count)
    for _ in range(count):
        end = socket.socket()
        end.connect(listening.getsockname())
        kept.append(end)
    kept.append(listening)


def strangers(times: int) -> None:
    """Resets for connections that nobody knows."""
    reset = struct.pack("!HHLLBBHHH", 5555, PORT, 1, 1, 5 << 4, 0x04, 0, 0, 0)
    with _packets() as send:
        for number in range(times):
            send(_with_header(TCP, BESIDE, OWN, number, reset))


def clash(protocol: int, wanted: int) -> list[int]:
    """Two processes begin the same connection at once, until so many packets had the other's before
    them. Returns the counts of `insert_failed` and `clashres`."""
    turn = mmap.mmap(-1, 8)
    child = os.fork()
    if not child:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    before, end = _clashes(), time.monotonic() + CLASH_SECONDS
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        number = 0
        while True:
            number += 1
            data = struct.pack("!HHHH", number & 0xFFFF, PORT, 8, 0)
            if protocol != UDP:  # ICMP's echo, whose number is what makes it a connection
                data = struct.pack("!BBHHH", 8, 0, ~(0x0800 + number) & 0xFFFF, number & 0xFFFF, 0)
            ready = _with_header(protocol, OWN, OWN, number, data)
            if child:
                struct.pack_into("q", turn, 0, number)
            else:
                while struct.unpack_from("q", turn)[0] < number:
                    pass
            with suppress(PermissionError):
                raw.sendto(ready, (OWN, 0))
            if child and number % 500 == 0:
                now = _clashes()
                grown = [later - earlier for later, earlier in zip(now, before, strict=True)]
                if sum(grown) >= wanted or time.monotonic() > end:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    return grown


def _clashes() -> list[int]:
    titles, *rows = Path("/proc/self/net/stat/nf_conntrack").read_text().splitlines()
    at = [titles.split().index(title) for title in ("insert_failed", "clashres")]
    return [sum(int(row.split()[column], 16) for row in rows) for column in at]


if __name__ == "__main__":
    main()
else:
    from tests.support.raisers import Follower

    class Losses(Follower):
        """The program from a test's side: `do` gives an order and returns the answer."""

        def __init__(self) -> None:
            super().__init__([sys.executable, "-I", "-S", __file__])
            self.netns = int(self.answer("its start"))
