# SPDX-License-Identifier: Apache-2.0
"""Which pod a network namespace and an address belong to.

Events in interrupt context have no process, and not every socket has a cgroup that tells: then the
network namespace decides, and the peer is known by its address. `PodNetworkCompanion` finds out on
the node, where /proc is, and says it in records (`struct pod_network_event`), so that a recording
tells the same on another machine. `networks` is what has been told so far.

A pod's namespaces are those of its processes, except the host's: a pod on the host's network is
known by its sockets' cgroups alone. An address that two living pods claim belongs to nobody. What
was told of a pod stays true after its end, until a new pod gets its address.
"""

from __future__ import annotations

import ipaddress
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, ref

from tracer.bounded import keep
from tracer.event import Place
from tracer.identity.resolver import Resolver
from tracer.identity.tree import Cgroup, container_cgroups
from tracer.schema import Schema

MAX_KNOWN = 16_384
MAX_ADDRESSES = 32  # of one pod
MAX_PROCESSES = 64  # of one pod, that are looked at
MAX_FILE = 1 << 20
# /proc is looked at so often at most,
SCAN_SECONDS = 0.5
# for so long after a cgroup was made: a pod gets its processes and its network after its cgroup,
SETTLE_SECONDS = 5.0
# and with events so often even if nothing is known to have changed.
DISTRUST_SECONDS = 10.0

LOOPBACK_V4 = ipaddress.IPv4Network("127.0.0.0/8")
MAPPED = bytes(10) + b"\xff\xff"


class PodNetworks:
    """What has been told in one stream of records."""

    def __init__(self, resolver_place: Callable[[int], Place | None]) -> None:
        self._place = resolver_place
        self._by_netns: dict[int, int] = {}
        self._by_address: dict[bytes, int] = {}

    def add(self, record: Any) -> None:
        """A `struct pod_network_event`; without a cgroup it takes back what was told."""
        if record.netns:
            keep(self._by_netns, record.netns, record.cgroup, MAX_KNOWN)
        if record.has_address:
            keep(self._by_address, record.address, record.cgroup, MAX_KNOWN)

    def of_netns(self, netns: int) -> Place | None:
        return self._place(self._by_netns.get(netns, 0))

    def of_address(self, address: bytes) -> Place | None:
        """`address` is a `kt_address`: 16 bytes, IPv4 mapped into IPv6."""
        return self._place(self._by_address.get(address, 0))

    def of_peer(self, address: bytes, netns: int) -> Place | None:
        """Whose address it is, seen from a namespace: a loopback address is in the same one."""
        return self.of_netns(netns) if is_loopback(address) else self.of_address(address)


_known: WeakKeyDictionary[Resolver, PodNetworks] = WeakKeyDictionary()


def networks(resolver: Resolver) -> PodNetworks:
    found = _known.get(resolver)
    if found is None:
        # the table must not keep its own key alive
        found = _known[resolver] = PodNetworks(_weakly(resolver))
    return found


def decode_pod_network(record: Any, resolver: Resolver) -> None:
    """For a probe's `decode`: no event of its own."""
    networks(resolver).add(record)


def is_loopback(address: bytes) -> bool:
    if address[:12] == MAPPED:
        return address[12] == 127
    return address == bytes(15) + b"\1"


@dataclass(slots=True)
class _Pod:
    """What was told of a pod."""

    cgroup: int
    since: float
    netns: set[int] = field(default_factory=set)
    addresses: set[bytes] = field(default_factory=set)
    settled: bool = False


class PodNetworkCompanion:
    """A `tracer.probes.Companion` for probes that decode `pod_network`. `events` are the names of
    the events that need it."""

    interval: float | None = SCAN_SECONDS

    def __init__(
        self,
        schemas: Mapping[str, Schema],
        events: Iterable[str],
        cgroups: Callable[[], list[Cgroup]] = container_cgroups,
        proc: str = "/proc",
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._schema = schemas["pod_network"]
        self._events = frozenset(events)
        self._cgroups = cgroups
        self._proc = Path(proc)
        self._now = now
        self._pods: dict[str, _Pod] = {}
        self._netns: dict[int, str] = {}
        self._addresses: dict[bytes, str] = {}
        self._next = 0.0
        self._scanned: float | None = None
        self._restless_until = 0.0

    def records(self, fresh: frozenset[str]) -> list[bytes]:
        now = self._now()
        if "cgroup" in fresh:
            self._restless_until = now + SETTLE_SECONDS
        if now < self._next or not self._due(now, fresh):
            return []
        self._scanned, self._next = now, now + SCAN_SECONDS
        try:
            return self._scan(now)
        except (OSError, ValueError):  # a file system that goes away under our feet
            return []

    def close(self) -> None:
        pass

    def _due(self, now: float, fresh: frozenset[str]) -> bool:
        if self._scanned is None or now < self._restless_until:
            return True
        return bool(fresh & self._events) and now - self._scanned > DISTRUST_SECONDS

    def _scan(self, now: float) -> list[bytes]:
        by_pod: dict[str, list[Cgroup]] = defaultdict(list)
        for cgroup in self._cgroups():
            if cgroup.identity.pod_uid:
                by_pod[cgroup.identity.pod_uid].append(cgroup)
        for uid in self._pods.keys() - by_pod.keys():
            del self._pods[uid]  # its netns and addresses stay claimed until somebody else comes
        host = self._host()
        records: list[bytes] = []
        for uid, cgroups in by_pod.items():
            known = self._pods.get(uid)
            if known is None:
                own = [c for c in cgroups if c.identity.container_id is None]
                if not own:
                    continue
                known = _Pod(min(own, key=lambda c: len(c.path)).id, now)
                self._pods[uid] = known
            if not known.settled:
                records += self._look_at(uid, known, cgroups, host)
                known.settled = now - known.since > SETTLE_SECONDS
        return records

    def _look_at(self, uid: str, pod: _Pod, cgroups: list[Cgroup], host: int | None) -> list[bytes]:
        records: list[bytes] = []
        for netns, pid in self._namespaces(cgroups).items():
            if netns == host:
                continue
            if netns not in pod.netns:
                pod.netns.add(netns)
                holder = self._netns.get(netns)
                if holder not in self._pods or holder == uid:  # who was there first keeps it
                    keep(self._netns, netns, uid, MAX_KNOWN)
                    records.append(self._record(pod.cgroup, netns, None))
            if self._netns.get(netns) != uid:
                continue
            for address in own_addresses(self._proc / str(pid) / "net"):
                if address in pod.addresses or len(pod.addresses) >= MAX_ADDRESSES:
                    continue
                pod.addresses.add(address)
                holder = self._addresses.get(address)
                contested = holder in self._pods and holder != uid
                keep(self._addresses, address, uid, MAX_KNOWN)
                records.append(self._record(0 if contested else pod.cgroup, 0, address))
        return records

    def _namespaces(self, cgroups: list[Cgroup]) -> dict[int, int]:
        """Network namespaces of the processes, each with the pid of one that is in it."""
        found: dict[int, int] = {}
        looked = 0
        for cgroup in cgroups:
            try:
                pids = Path(cgroup.directory, "cgroup.procs").read_text().split()
            except OSError:  # gone while being looked at
                continue
            for pid in pids[: MAX_PROCESSES - looked]:
                looked += 1
                netns = self._inode(pid)
                if netns is not None:
                    found.setdefault(netns, int(pid))
        return found

    def _host(self) -> int | None:
        """That of the host's first process, which a machine that is itself contained may hide even
        from root."""
        found = (self._inode(pid) for pid in ("1", "2", "self"))
        return next((inode for inode in found if inode is not None), None)

    def _inode(self, pid: str) -> int | None:
        try:
            return os.stat(self._proc / pid / "ns" / "net").st_ino
        except OSError:
            return None

    def _record(self, cgroup: int, netns: int, address: bytes | None) -> bytes:
        return self._schema.pack(
            time=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            cgroup=cgroup,
            netns=netns,
            has_address=int(address is not None),
            address=address or b"",
        )


def own_addresses(net: Path) -> list[bytes]:
    """The addresses of a network namespace by a /proc/PID/net, as `kt_address`; without loopback
    and without those that mean something only on one link."""
    return [*_ipv4(_read(net / "fib_trie")), *_ipv6(_read(net / "if_inet6"))]


def _ipv4(trie: str) -> list[bytes]:
    """Each leaf is a line `|-- ADDRESS`, followed by one for each of its routes."""
    found: dict[bytes, None] = {}
    leaf = ""
    for line in trie.splitlines():
        before, bar, address = line.partition("|-- ")
        if bar and not before.strip():
            leaf = address.strip()
        elif line.strip() == "/32 host LOCAL":
            try:
                address4 = ipaddress.IPv4Address(leaf)
            except ValueError:
                continue
            if address4 not in LOOPBACK_V4:
                found[MAPPED + address4.packed] = None
    return list(found)


def _ipv6(lines: str) -> list[bytes]:
    """`ADDRESS INDEX PREFIX SCOPE FLAGS NAME`, the first four in hexadecimal."""
    found = []
    for line in lines.splitlines():
        words = line.split()
        try:
            address, scope = bytes.fromhex(words[0]), int(words[3], 16)
        except (IndexError, ValueError):
            continue
        if len(address) == 16 and not scope & 0x30:  # IPV6_ADDR_LOOPBACK, IPV6_ADDR_LINKLOCAL
            found.append(address)
    return found


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE).decode("ascii", "replace")
    except OSError:  # the process is gone
        return ""


def _weakly(resolver: Resolver) -> Callable[[int], Place | None]:
    reference = ref(resolver)

    def place(cgroup: int) -> Place | None:
        alive = reference()
        return alive.place(cgroup) if alive and cgroup else None

    return place
