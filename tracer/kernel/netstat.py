# SPDX-License-Identifier: Apache-2.0
"""The counters of a network namespace, read through a process that lives in it.

`/proc/PID/net/netstat` shows the namespace of that process, so no namespace has to be entered. The
kernel counts there the packets that it drops without any report (net/ipv4/proc.c). No descriptor of
a namespace is kept: that would keep a pod's network alive after the pod.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache

# A pass over /proc keeps this many processes of each namespace, so that one is left when some have
# ended.
KEPT_PIDS = 8
MAX_PROCESSES = 65_536
MAX_FILE = 64 << 10


@dataclass(frozen=True, slots=True)
class Counters:
    """Drops since the namespace was made; a counter that this kernel does not have is 0.

    `listen_drops` counts all connections that a listening socket dropped. It includes
    `listen_overflows` (the accept queue was full, at the SYN or at the final ACK) and `syn_drops`
    (the SYN queue was full and no cookie was sent). `syn_cookies` were answered, so they are no
    drops. `backlog_drops` are packets for a connection whose socket was busy."""

    listen_overflows: int = 0
    listen_drops: int = 0
    syn_drops: int = 0
    syn_cookies: int = 0
    backlog_drops: int = 0

    def __sub__(self, earlier: Counters) -> Counters:
        """The increase. The kernel's counters only grow."""
        return Counters(
            *(
                max(0, getattr(self, field.name) - getattr(earlier, field.name))
                for field in fields(self)
            )
        )


# The kernel's names, in the order of `Counters`.
_NAMES = (
    *(b"ListenOverflows", b"ListenDrops"),
    *(b"TCPReqQFullDrop", b"TCPReqQFullDoCookies", b"TCPBacklogDrop"),
)


def read_counters(pid: int, netns: int) -> Counters | None:
    """None if the process is gone or lives in another namespace, because its pid may be reused."""
    text = read_text(pid, netns)
    return None if text is None else parse(text)


def read_text(pid: int, netns: int) -> bytes | None:
    """What `parse` takes. Read once a second of every namespace, so without a file object."""
    try:
        fd = os.open(f"/proc/{pid}/net/netstat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(fd, MAX_FILE)
        finally:
            os.close(fd)
    except OSError:
        return None
    return text if netns_of(pid) == netns else None


def parse(text: bytes) -> Counters:
    """Pairs of lines: a prefix with names, the same prefix with values."""
    lines = text.splitlines()
    for titles, values in zip(lines[::2], lines[1::2], strict=False):
        if titles.startswith(b"TcpExt:") and values.startswith(b"TcpExt:"):
            words = values.split()
            return Counters(*(int(words[at]) if at < len(words) else 0 for at in _places(titles)))
    return Counters()


@lru_cache(maxsize=4)
def _places(titles: bytes) -> list[int]:
    """Where the counters stand; behind the line's end if this kernel has none. The names are those
    of all namespaces, and are looked at once."""
    words = titles.split()
    return [words.index(name) if name in words else len(titles) for name in _NAMES]


def netns_of(pid: int | str) -> int | None:
    """The inode number of a process's network namespace."""
    try:
        return int(os.readlink(f"/proc/{pid}/ns/net").removeprefix("net:[").removesuffix("]"))
    except (OSError, ValueError):
        return None


def namespaces() -> dict[int, list[int]]:
    """Every network namespace in which a process lives, with some of its processes in ascending
    order of pids, mostly the oldest first."""
    found: dict[int, list[int]] = {}
    for pid in processes():
        netns = netns_of(pid)
        if netns is not None:
            pids = found.setdefault(netns, [])
            if len(pids) < KEPT_PIDS:
                pids.append(pid)
    return found


def processes() -> Iterator[int]:
    for count, name in enumerate(sorted(filter(str.isdigit, os.listdir("/proc")), key=int)):
        if count >= MAX_PROCESSES:
            return
        yield int(name)


def mounted_namespaces() -> set[int]:
    """Namespaces that a mount keeps, as `ip netns` makes them. They may have no process yet."""
    found = set()
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                root = line.split()[3]
                if root.startswith("net:[") and root[5:-1].isdigit():
                    found.add(int(root[5:-1]))
    except (OSError, IndexError):
        pass
    return found
