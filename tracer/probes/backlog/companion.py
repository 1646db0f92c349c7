# SPDX-License-Identifier: Apache-2.0
"""The user-space part of the `backlog` probe, as raw records of its own structs: drops that the
kernel side only counted, drops that only a network namespace's counters show, and the process that
holds a listening socket.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tracer.identity.netns import How
from tracer.kernel.bpf_object import shipped
from tracer.kernel.netstat import (
    KEPT_PIDS,
    Counters,
    mounted_namespaces,
    namespaces,
    netns_of,
    parse,
    processes,
    read_text,
)
from tracer.kernel.sockdiag import Listener, Listeners, listeners
from tracer.model.bounded import keep
from tracer.model.schema import Schema
from tracer.probes import LAST_CALL, Table
from tracer.probes.described import Processes, boot_ns
from tracer.probes.polling import INTERVAL, Polling

# A call that comes slightly early, caused by another companion's interval, counts as well.
NEARLY = 0.9
# A search finds namespaces in which no process executes a program. It runs at this interval, and
# when all known processes of a namespace have gone, but takes at most a hundredth of the time.
SEARCH_SECONDS = 10.0
SEARCH_SHARE = 100
# How long the known holder of a socket stays valid, and how many descriptors a search for one may
# read: each costs the thread that reads the ring a microsecond or two.
HOLDER_SECONDS = 10.0
MAX_DESCRIPTORS = 20_000
MAX_HOLDERS = 4096
MAX_HEARD = 16_384  # processes in namespaces, within a second
# Failed questions to the sockets before drops are reported without a port.
MAX_UNANSWERED = 3

UNKNOWN = -1
# enum backlog_queue in probes/backlog.bpf.c
SYN, ACCEPT, SOCKET = "KT_QUEUE_SYN", "KT_QUEUE_ACCEPT", "KT_QUEUE_SOCKET"
AF_INET, AF_INET6 = 2, 10

Answer = Callable[[int, int, bool], Listeners | None]


class Held:
    """Reports the drops that the kernel side only counted. `counts` is `kt_backlog_held`, whose
    counts only grow."""

    interval: float | None = INTERVAL

    def __init__(self, schemas: Mapping[str, Schema], counts: Table) -> None:
        self._drop = schemas["backlog_drop"]
        self._counts = counts
        self._most = shipped("backlog").maps["kt_backlog_held"].entries
        self._holders = Holders(schemas)
        self._told: dict[bytes, int] = {}
        self._last_told = 0.0

    def records(self, fresh: frozenset[str]) -> list[bytes]:
        now = time.monotonic()
        due = fresh == LAST_CALL or now - self._last_told >= NEARLY * INTERVAL
        if not due and "backlog_drop" not in fresh:
            return []
        out: list[bytes] = []
        for key, value in self._counts.items():
            drop = self._drop.make(self._drop.struct.unpack(value))
            out += self._holders.describe(drop.socket, drop.netns)
            new = drop.count - self._told.get(key, 0)
            if due and new:
                self._told[key] = drop.count
                held = drop._replace(kind=self._drop.kind, time=boot_ns(), count=new)
                out.append(self._drop.struct.pack(*held))
        if due:
            self._last_told = now
            self._forget_idle()
        return out

    def close(self) -> None: ...

    def _forget_idle(self) -> None:
        """Deletes only when room is short, because a drop at the moment of deletion is not
        counted."""
        if len(self._told) < self._most * 3 // 4:
            return
        before = boot_ns() - 60_000_000_000
        for key, value in list(self._counts.items()):
            if self._drop.make(self._drop.struct.unpack(value)).time < before:
                self._counts.delete(key)
                self._told.pop(key, None)


@dataclass(slots=True)
class Namespace:
    """The last reading of a namespace. `network` tells it apart from a later one with the same
    inode; 0 if unknown. `untold` are the drops, by cookie, that its sockets counted beyond the
    namespace's own count."""

    pids: list[int]
    counters: Counters
    drops: dict[int, int] = field(default_factory=dict)  # by socket cookie
    untold: dict[int, int] = field(default_factory=dict)
    unanswered: int = 0
    network: int = 0
    mark: int | None = None
    latest: Counters = field(default_factory=Counters)

    def read(self, netns: int) -> Counters | None:
        """The present counters; None if no known process is left in the namespace. Where nothing
        happened, the text is the same, and is not parsed again."""
        for pid in self.pids:
            text = read_text(pid, netns)
            if text is not None:
                mark = hash(text)
                if mark != self.mark:
                    self.mark, self.latest = mark, parse(text)
                return self.latest
        return None

    def found_with(self, pids: list[int]) -> None:
        """Takes the processes that a search has found. If none of the former ones is left, this may
        be another namespace: the kernel reuses inodes, and the kernel side reports no namespace in
        which no process executes a program."""
        if not set(pids) & set(self.pids):
            self.network = 0
        self.pids = pids


class Counted(Polling):
    """The companion where no function can be probed: runs `Polled` every second in a thread."""

    hears = "network"

    def __init__(self, schemas: Mapping[str, Schema], ask: Answer = listeners) -> None:
        self._of_host = How.OF_HOST.number
        self._polled = Polled(schemas, ask)
        self._heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        super().__init__(self._poll)

    def hear(self, records: Iterator[Any]) -> None:
        for record in records:
            if record.how != self._of_host and self._heard.qsize() < MAX_HEARD:
                self._heard.put((record.netns, record.network, record.pid))

    def _poll(self) -> list[bytes]:
        for _ in range(self._heard.qsize()):
            self._polled.use(*self._heard.get())
        return self._polled.records()


class Polled:
    """Reads the counters of each namespace, and the listening sockets if a counter has moved."""

    def __init__(self, schemas: Mapping[str, Schema], ask: Answer = listeners) -> None:
        self._drop = schemas["backlog_drop"]
        self._holders = Holders(schemas)
        self._ask = ask
        self._queues = shipped("backlog").numbers("backlog_queue")
        self._source = shipped("backlog").numbers("backlog_source")["KT_SOURCE_COUNTER"]
        self._namespaces: dict[int, Namespace] = {}
        self._next_search = self._earliest = 0.0
        # these may have no process yet, but non-zero counters
        self._older = mounted_namespaces()
        self._search(first=True)

    def use(self, netns: int, network: int, pid: int) -> None:
        """Notes that a process is in the namespace. A new namespace with a reused inode counts from
        zero."""
        known = self._namespaces.get(netns)
        if known is None or network != (known.network or network):
            known = self._namespaces[netns] = Namespace([], Counters())
            if netns in self._older:
                known.pids.append(pid)
                self._begin(netns)
        known.network = network
        if pid not in known.pids:  # the first lives longest: it is no command of a liveness probe
            known.pids = [*known.pids[:1], *known.pids[1:][2 - KEPT_PIDS :], pid]

    def records(self) -> list[bytes]:
        if time.monotonic() >= max(self._next_search, self._earliest):
            self._search()
        out: list[bytes] = []
        for netns, known in list(self._namespaces.items()):
            counters = known.read(netns)
            if counters is None:
                self._next_search = 0.0
            elif counters != known.counters:
                added, known.counters = counters - known.counters, counters
                out += self._tell(netns, known, added)
        return out

    def _search(self, first: bool = False) -> None:
        """Finds namespaces. One that did not exist at the first search counts from zero."""
        began = time.monotonic()
        found = namespaces()
        for netns, pids in found.items():
            known = self._namespaces.get(netns)
            if known is not None:
                known.found_with(pids)
            else:
                self._namespaces[netns] = Namespace(pids, Counters())
                if first or netns in self._older:
                    self._begin(netns)
        for netns in self._namespaces.keys() - found.keys():
            del self._namespaces[netns]
        now = time.monotonic()
        self._next_search = now + SEARCH_SECONDS
        self._earliest = now + max(INTERVAL, SEARCH_SHARE * (now - began))

    def _begin(self, netns: int) -> None:
        known = self._namespaces[netns]
        known.counters = known.read(netns) or Counters()
        self._older.discard(netns)
        if known.counters.listen_drops:
            answer = self._ask(known.pids[0], netns, False)
            known.drops = {s.cookie: s.drops or 0 for s in answer.sockets} if answer else {}

    def _tell(self, netns: int, known: Namespace, added: Counters) -> list[bytes]:
        """The records of new drops. If the sockets do not answer, the same drops are tried again
        next time."""
        answer: Listeners | None = None
        if added.listen_drops:
            half_open = added.listen_drops > added.listen_overflows
            asked = (self._ask(pid, netns, half_open) for pid in known.pids)
            answer = next((one for one in asked if one is not None), None)
            known.unanswered = 0 if answer else known.unanswered + 1
            if answer is None and known.unanswered < MAX_UNANSWERED:
                known.counters = known.counters - added
                return []
        out: list[bytes] = []
        if added.backlog_drops:
            out.append(self._record(netns, SOCKET, added.backlog_drops, None))
        if added.listen_drops:
            for told in attribute(known, added, answer):
                if told.listener:
                    out += self._holders.describe(told.listener.inode, netns)
                out.append(
                    self._record(
                        netns, told.queue, told.count, told.listener, told.depth, told.limit
                    )
                )
        return out

    def _record(
        self,
        netns: int,
        queue: str,
        count: int,
        listener: Listener | None,
        depth: int | None = None,
        limit: int | None = None,
    ) -> bytes:
        values: dict[str, Any] = {}
        if listener:
            values["cgroup"] = listener.cgroup or 0
            values["socket"] = listener.inode
            values["flow_local_port"] = listener.port
            if listener.address.version == 4:
                values["flow_local_address"] = bytes(10) + b"\xff\xff" + listener.address.packed
                values["flow_family"] = AF_INET
            else:
                values["flow_local_address"] = listener.address.packed
                values["flow_family"] = AF_INET6
        return self._drop.pack(
            time=boot_ns(),
            count=count,
            network=self._namespaces[netns].network,
            netns=netns,
            queue=self._queues[queue],
            source=self._source,
            depth=UNKNOWN if depth is None else depth,
            limit=UNKNOWN if limit is None else limit,
            **values,
        )


@dataclass(frozen=True, slots=True)
class Told:
    queue: str
    count: int
    listener: Listener | None = None
    depth: int | None = None
    limit: int | None = None


def attribute(known: Namespace, added: Counters, answer: Listeners | None) -> list[Told]:
    """Divides a namespace's drops among its listening sockets.

    The namespace's counters give the number of drops, the sockets' own counts the port. The sockets
    are read slightly later, and also count packets that were ignored without a lost connection (a
    repeated SYN, tcp_check_req()). So a surplus is kept for the next time.

    Only the namespace counts the reasons. With one socket or one reason they are certain. Otherwise
    the sockets with a full accept queue must account for exactly the overflows, or no port is
    named. Drops that no socket accounts for happened at a closed socket, and are reported without a
    port.

    Updates `known`."""
    sockets = answer.sockets if answer else []
    before, known.drops = known.drops, {s.cookie: s.drops or 0 for s in sockets}
    for s in sockets:
        new = max(0, (s.drops or 0) - before.get(s.cookie, 0))
        known.untold[s.cookie] = known.untold.get(s.cookie, 0) + new
    known.untold = {s.cookie: known.untold[s.cookie] for s in sockets}
    gone, moved = added.listen_drops, {}
    for s in sockets:
        count = min(gone, known.untold[s.cookie])
        if count:
            moved[s] = count
            gone -= count
            known.untold[s.cookie] -= count
    other = max(0, added.listen_drops - added.listen_overflows - added.syn_drops)
    syn = added.syn_drops + (other if _quarter_kept(answer, moved) else 0)
    overflows = added.listen_overflows

    if not syn:
        queues = dict.fromkeys(moved, ACCEPT)
    elif not overflows:
        queues = dict.fromkeys(moved, SYN)
    else:
        queues = {s: ACCEPT if s.full else SYN for s in moved}
        if sum(moved[s] for s, queue in queues.items() if queue == ACCEPT) != overflows:
            return _nameless(overflows, syn)
    if not syn and not overflows:
        return []  # dropped for want of memory or of a route: no queue was full
    told = [_at(s, queue, moved[s], answer) for s, queue in queues.items()]
    if gone:
        told.append(Told(SYN if syn and not overflows else ACCEPT, gone))
    return told


def _nameless(overflows: int, syn: int) -> list[Told]:
    return [Told(queue, count) for queue, count in ((ACCEPT, overflows), (SYN, syn)) if count]


def _quarter_kept(answer: Listeners | None, moved: Mapping[Listener, int]) -> bool:
    """Whether a drop without a counter of its own came from a SYN queue. Without SYN cookies, the
    last quarter of tcp_max_syn_backlog is reserved for known peers (tcp_conn_request(),
    net/ipv4/tcp_input.c). Some entries may have left the queue by now."""
    if answer is None or answer.syncookies != 0 or answer.max_syn_backlog is None:
        return False
    usable = answer.max_syn_backlog - (answer.max_syn_backlog >> 2)
    return any(answer.half_open[s.port] * 10 >= usable * 9 for s in moved)


def _at(listener: Listener, queue: str, count: int, answer: Listeners | None) -> Told:
    if queue == ACCEPT:
        return Told(queue, count, listener, listener.queued, listener.limit)
    depth, limit = answer.half_open[listener.port] if answer else None, listener.limit
    if answer and answer.max_syn_backlog and answer.syncookies == 0:
        limit = min(limit, answer.max_syn_backlog - (answer.max_syn_backlog >> 2))
    return Told(queue, count, listener, depth, limit)


class Holders:
    """Finds the process that holds a socket, and describes it like the kernel side does."""

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._listener = schemas["backlog_listener"]
        self._processes = Processes(schemas)
        self._known: dict[int, float] = {}

    def describe(self, socket: int, netns: int) -> list[bytes]:
        """The records of the holder; none if it was described just before, or is not found."""
        now = time.monotonic()
        if not socket or self._known.get(socket, 0.0) > now:
            return []
        keep(self._known, socket, now + HOLDER_SECONDS, MAX_HOLDERS)
        pid = holder(socket, netns)
        return self._records(pid, socket) if pid else []

    def _records(self, pid: int, socket: int) -> list[bytes]:
        described = self._processes.describe(pid)
        if described is None:
            return []
        listener = self._listener.pack(
            time=boot_ns(),
            socket=socket,
            process_process=described.process,
            process_pid=pid,
            process_tid=pid,
        )
        return [*described.records, listener]


def holder(socket: int, netns: int) -> int | None:
    """The oldest process of a network namespace that has the socket open."""
    wanted, looked = f"socket:[{socket}]", 0
    for pid in processes():
        if netns_of(pid) != netns:
            continue
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for name in names:
            looked += 1
            try:
                if os.readlink(f"/proc/{pid}/fd/{name}") == wanted:
                    return pid
            except OSError:
                continue
        if looked > MAX_DESCRIPTORS:
            return None
    return None
