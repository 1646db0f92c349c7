# SPDX-License-Identifier: Apache-2.0
"""The listening sockets of a network namespace and their queues, from the kernel's sock_diag (like
`ss -ltm`).

A netlink socket belongs to the namespace that it was made in. So a thread of its own enters the
namespace, asks and ends; no other thread ever changes its namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tracer.kernel.netstat import netns_of

CLONE_NEWNET = 0x40000000
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST, NLM_F_DUMP = 0x001, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
TCP_SYN_RECV, TCP_LISTEN = 3, 10
INET_DIAG_SKMEMINFO, INET_DIAG_CGROUP_ID = 7, 21
SK_MEMINFO_DROPS = 8

ANSWER_SECONDS = 0.5
PATIENCE_SECONDS = 2.0
# A dump ends after this many sockets.
MAX_SOCKETS = 65_536

_NLMSG = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI48x")  # struct inet_diag_req_v2
# struct inet_diag_msg: family, state; ports, addresses, interface, cookie; queues, uid, inode
_MESSAGE = struct.Struct("=BBxx2s2s16s16sIQ4xIIII")
_ATTRIBUTE = struct.Struct("=HH")


@dataclass(frozen=True, slots=True)
class Listener:
    """`queued` connections wait to be accepted; beyond `limit` new ones are dropped. `drops` counts
    the socket's drops since it was made. `cgroup` is the id of the version 2 cgroup in which it was
    made (b1f3e43dbfac, 5.9). None if the kernel does not report it."""

    cookie: int
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int
    inode: int
    queued: int
    limit: int
    drops: int | None
    cgroup: int | None

    @property
    def full(self) -> bool:
        """sk_acceptq_is_full(), include/net/sock.h."""
        return self.queued > self.limit


@dataclass(slots=True)
class Listeners:
    """The answer of one namespace. `half_open`, if asked for, counts connections that still lack
    their final ACK, by local port. `syncookies` and `max_syn_backlog` are the namespace's sysctls,
    None if they cannot be read."""

    sockets: list[Listener] = field(default_factory=list)
    half_open: Counter[int] = field(default_factory=Counter)
    syncookies: int | None = None
    max_syn_backlog: int | None = None


def listeners(pid: int, netns: int, half_open: bool = False) -> Listeners | None:
    """Asks in the namespace of process `pid`, which must be `netns`. None if the namespace is gone,
    may not be entered, or does not answer."""
    answer: list[Listeners] = []

    def ask() -> None:
        with contextlib.suppress(OSError, struct.error, ValueError):
            _enter(pid, netns)
            answer.append(_ask(half_open))

    thread = threading.Thread(target=ask, name="ktrace-sockdiag", daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    return answer[0] if answer else None


def _enter(pid: int, netns: int) -> None:
    """os.setns() came with Python 3.12."""
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(namespace).st_ino != netns:
            raise OSError(f"process {pid} is not in network namespace {netns}")
        if netns_of("thread-self") != netns and _LIBC.setns(namespace, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(namespace)


def _ask(half_open: bool) -> Listeners:
    found = Listeners(
        syncookies=_sysctl("tcp_syncookies"), max_syn_backlog=_sysctl("tcp_max_syn_backlog")
    )
    states = 1 << TCP_LISTEN | half_open << TCP_SYN_RECV
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG
    ) as netlink:
        netlink.settimeout(ANSWER_SECONDS)
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in _dump(netlink, family, states):
                _take(found, message)
    return found


def _dump(netlink: socket.socket, family: int, states: int) -> Iterator[bytes]:
    """The payloads of one dump. A family that this kernel lacks has none."""
    wanted = 1 << (INET_DIAG_SKMEMINFO - 1)
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, wanted, states)
    head = _NLMSG.pack(
        _NLMSG.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 0, 0
    )
    netlink.send(head + body)
    seen = 0
    while True:
        for kind, payload in split(netlink.recv(1 << 16)):
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                number = -struct.unpack_from("=i", payload)[0]
                if family == socket.AF_INET:
                    raise OSError(number, "sock_diag")
                return
            seen += 1
            if seen <= MAX_SOCKETS:
                yield payload


def split(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Netlink messages in one datagram: type and payload (linux/netlink.h)."""
    at = 0
    while at + _NLMSG.size <= len(data):
        length, kind, *_ = _NLMSG.unpack_from(data, at)
        if length < _NLMSG.size:
            return
        yield kind, data[at + _NLMSG.size : at + length]
        at += (length + 3) & ~3


def _take(found: Listeners, message: bytes) -> None:
    family, state, sport, _, source, _, _, cookie, queued, limit, _, inode = _MESSAGE.unpack_from(
        message
    )
    port = int.from_bytes(sport, "big")
    if state == TCP_SYN_RECV:
        found.half_open[port] += 1
        return
    attributes = dict(_attributes(message[_MESSAGE.size :]))
    memory = attributes.get(INET_DIAG_SKMEMINFO, b"")
    cgroup = attributes.get(INET_DIAG_CGROUP_ID, b"")
    drops = memory[4 * SK_MEMINFO_DROPS : 4 * SK_MEMINFO_DROPS + 4]
    found.sockets.append(
        Listener(
            cookie=cookie,
            address=ipaddress.IPv4Address(source[:4])
            if family == socket.AF_INET
            else ipaddress.IPv6Address(source),
            port=port,
            inode=inode,
            queued=queued,
            limit=limit,
            drops=int.from_bytes(drops, "little") if len(drops) == 4 else None,
            cgroup=int.from_bytes(cgroup, "little") if len(cgroup) == 8 else None,
        )
    )


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def _sysctl(name: str) -> int | None:
    """/proc/sys/net shows the namespace of the thread that opens it."""
    try:
        with open(f"/proc/sys/net/ipv4/{name}", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


_LIBC = ctypes.CDLL(None, use_errno=True)
