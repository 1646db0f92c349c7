# SPDX-License-Identifier: Apache-2.0
"""Looks up in /proc what the kernel side cannot report of network namespaces: their addresses, and
the processes of a namespace in which no process has executed a program. A thread looks it up and
writes records of probes/network.bpf.c; the session's own thread never waits for it.

Addresses are read through a process that the kernel side has just reported in the namespace.
Afterwards it must still be the same process in the same namespace. Addresses are not learned from
the events themselves, because a transparent proxy's sockets have the addresses of others. A
namespace known only from events is searched among all processes, at most once a second.
"""

from __future__ import annotations

import ipaddress
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from tracer.identity.netns import NO_ADDRESS, How, made_up
from tracer.kernel.cgroupfs import cgroup_of
from tracer.kernel.hierarchies import hierarchies
from tracer.kernel.procfs import stat_of
from tracer.model.address import MAPPED
from tracer.model.batch import HEADER, cell
from tracer.model.bounded import Table, size_of
from tracer.model.schema import Schema
from tracer.model.turn import Part

MAX_ADDRESSES = 32  # of one namespace
MAX_FILE = 1 << 20
MAX_PROCESSES = 65_536  # of one search
# Bounds in bytes: of the namespaces seen, and of the addresses read.
MAX_SEEN, MAX_READ = 1 << 20, 2 << 20
MAX_WAITING = 16_384  # processes through which addresses are still to be read
# A namespace may exist before its addresses do.
RETRY_SECONDS = (0.1, 1.0, 5.0)
# Once addresses were found, a further process in the namespace causes no new read for this long.
FRESH_SECONDS = 1.0
SEARCH_SECONDS = 1.0

LOOPBACK_V4 = ipaddress.IPv4Network("127.0.0.0/8")
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

CgroupOf = Callable[[int], tuple[int, str]]


@dataclass(frozen=True, slots=True)
class _Use:
    """A process in a namespace; `start` is in clock ticks since boot, `told` in nanoseconds."""

    network: int
    netns: int
    pid: int
    start: int
    told: int
    tried: int = 0

    @property
    def answer(self) -> dict[str, int | bytes]:
        """The record that ends the lookup for this use."""
        return {"network": self.network, "because": self.told, "address": NO_ADDRESS}


class NetworkLookup:
    """The session's thread calls `look`, `list_all` and `take`."""

    def __init__(
        self,
        schemas: Mapping[str, Schema],
        proc: str = "/proc",
        cgroup: CgroupOf | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._schemas = schemas
        self._proc = Path(proc)
        self._cgroup = cgroup or partial(cgroup_of, mounted=hierarchies())
        self._now = now
        # networks that were reported or asked for
        self._seen: Table[int, None] = Table(MAX_SEEN, size_of)
        self._waiting = 0
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        # only for the lookup thread
        self._addresses: Table[int, tuple[float, frozenset[bytes]]] = Table(  # when, by network
            MAX_READ, size_of
        )
        self._again: list[tuple[float, _Use]] = []
        self._wanted: dict[int, int] = {}  # network by inode
        self._next_search = 0.0
        self._ended = False
        self._of_host = How.OF_HOST.number
        self._thread = threading.Thread(target=self._work, name="ktrace-networks", daemon=True)
        self._thread.start()

    def look(self, schema: Schema, cells: bytes | memoryview) -> None:
        """Takes records of any kind from the kernel side, and orders lookups for new namespaces."""
        if schema.name == "network":
            self._look_at_uses(schema, cells)
            return
        at = next((f.offset for f in schema.fields if f.name == "network"), None)
        if at is None:
            return
        stride = schema.cell.size // 8
        networks = memoryview(cells).cast("Q")[(HEADER + at) // 8 :: stride].tolist()
        unknown = set(networks) - self._seen.keys() - {0}
        if unknown:
            records = (r for r in schema.cells(cells) if r.network in unknown)
            wanted = {record.netns: record.network for record in records}
            self._have_seen(wanted.values())
            self._orders.put(partial(self._wanted.update, wanted))

    def list_all(self) -> None:
        """Orders a search of all processes, for when the kernel side has not reported those that
        ran before."""
        self._orders.put(self._list_all)

    @property
    def found(self) -> bool:
        """Whether there is something to take."""
        return not self._answers.empty()

    def take(self) -> list[Part]:
        """The records made since the last call."""
        found = [self._answers.get() for _ in range(self._answers.qsize())]
        parts = []
        for name, group in groupby(found, itemgetter(0)):
            cells = [cell(record) for _, record in group]
            parts.append(Part(self._schemas[name].kind, len(cells), b"".join(cells)))
        return parts

    def close(self) -> None:
        """Ends the thread after its present step; does not wait for it."""
        self._ended = True
        self._orders.put(None)

    def _look_at_uses(self, schema: Schema, cells: bytes | memoryview) -> None:
        records = list(schema.cells(cells))
        self._have_seen(record.network for record in records)
        uses = [
            _Use(record.network, record.netns, record.pid, record.start // _TICK_NS, record.time)
            for record in records
            if record.how != self._of_host
        ]
        if self._waiting + len(uses) <= MAX_WAITING:
            self._waiting += len(uses)
            self._orders.put(partial(self._read_addresses, uses))
            return
        for use in uses:
            self._tell("network_address", **use.answer)

    def _have_seen(self, networks: Iterable[int]) -> None:
        for network in networks:
            self._seen.keep(network, None)

    def _work(self) -> None:
        while not self._ended:
            with suppress(queue.Empty):
                order = self._orders.get(timeout=self._patience())
                if order:
                    order()
            now = self._now()
            due = [use for when, use in self._again if when <= now]
            self._again = [(when, use) for when, use in self._again if when > now]
            for use in due:
                self._read(use)
            if self._wanted and now >= self._next_search:
                self._next_search = now + SEARCH_SECONDS
                wanted, self._wanted = self._wanted, {}
                self._search(wanted)

    def _patience(self) -> float:
        times = [when for when, _ in self._again]
        if self._wanted:
            times.append(self._next_search)
        return max(0.0, min(times, default=self._now() + 3600.0) - self._now())

    def _read_addresses(self, uses: list[_Use]) -> None:
        for use in uses:
            if self._ended:
                return
            self._read(use)
            self._waiting -= 1

    def _read(self, use: _Use) -> None:
        """Reads addresses through one process. The first try ends with the `answer` record, so that
        events stop waiting, though a retry may still find addresses."""
        read, known = self._addresses.get(use.network, (0.0, frozenset[bytes]()))
        if not known or self._now() - read >= FRESH_SECONDS:
            found = own_addresses(self._proc / str(use.pid) / "net")[:MAX_ADDRESSES]
            if self._inode(use.pid) != use.netns or self._start(use.pid) != use.start:
                found = []  # it has ended meanwhile, or left
            elif not found and use.tried < len(RETRY_SECONDS) and len(self._again) < MAX_WAITING:
                later = self._now() + RETRY_SECONDS[use.tried]
                self._again.append((later, replace(use, tried=use.tried + 1)))
            for address in dict.fromkeys(found):
                if address not in known:
                    self._tell("network_address", network=use.network, address=address)
            self._addresses.keep(use.network, (self._now(), known.union(found)))
        if not use.tried:
            self._tell("network_address", **use.answer)

    def _search(self, wanted: dict[int, int]) -> None:
        """Searches the processes of the namespaces in `wanted`. An empty namespace is reported,
        too."""
        host = self._host()
        for pid, netns in self._processes():
            network = wanted.pop(netns, None)
            if network is not None:
                self._conclude(network, netns, None if netns == host else pid)
            if not wanted:
                return
        for netns, network in wanted.items():
            self._conclude(network, netns, None)

    def _list_all(self) -> None:
        host, told = self._host(), set()
        for pid, netns in self._processes():
            if netns != host and not self._ended:
                with suppress(OSError, ValueError, LookupError):
                    use = netns, self._cgroup(pid)[0]
                    if use not in told:
                        told.add(use)
                        self._conclude(made_up(netns), netns, pid)

    def _conclude(self, network: int, netns: int, pid: int | None) -> None:
        cgroup = 0
        if pid is not None:
            with suppress(OSError, ValueError, LookupError):
                cgroup = self._cgroup(pid)[0]
        values = {"network": network, "netns": netns, "how": How.CONCLUDED.number}
        told = self._tell("network", **values, cgroup=cgroup, pid=pid or 0)
        if pid is not None and cgroup:
            self._read(_Use(network, netns, pid, self._start(pid) or 0, told))

    def _processes(self) -> Iterator[tuple[int, int]]:
        """Pids, ascending, each with the inode of its network namespace."""
        pids = sorted(map(int, filter(str.isdigit, os.listdir(self._proc))))
        for pid in pids[:MAX_PROCESSES]:
            netns = self._inode(pid)
            if netns is not None:
                yield pid, netns

    def _host(self) -> int | None:
        """The inode of the host's network namespace, from its first processes. Pid 1 may be hidden
        even from root."""
        found = (self._inode(pid) for pid in (1, 2, "self"))
        return next((inode for inode in found if inode is not None), None)

    def _inode(self, pid: int | str) -> int | None:
        try:
            return os.stat(self._proc / str(pid) / "ns" / "net").st_ino
        except OSError:
            return None

    def _start(self, pid: int) -> int | None:
        found = stat_of(pid, self._proc)
        return found.start_ticks if found else None

    def _tell(self, name: str, **values: int | bytes) -> int:
        """Queues a record of the present moment; returns its time."""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._answers.put((name, self._schemas[name].pack(time=now, **values)))
        return now


def own_addresses(net: Path) -> list[bytes]:
    """The addresses of a network namespace from a /proc/PID/net, as `kt_address`, without loopback
    and link-local ones."""
    return [*_ipv4(_read(net / "fib_trie")), *_ipv6(_read(net / "if_inet6"))]


def _ipv4(trie: str) -> list[bytes]:
    """Each leaf of the trie is a line `|-- ADDRESS`, followed by a line for each of its routes."""
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
