# SPDX-License-Identifier: Apache-2.0
"""Connects that fail, in a network namespace of the test's own, over IPv4 and IPv6: each is seen
once, every field is compared, and a connect that succeeds or is given up early is not told.

A listener whose queue is full answers nobody, and a message of ICMP made by hand needs no router.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.checks import TIMES, check_circumstances
from tests.support.ktrace import Ktrace
from tests.support.peer import Peer
from tests.support.raisers import check_process, facts

Event = dict[str, Any]

KEYS = ["kind", "time", "boot_ns", "node", "pod", "container", "error", "errno", "answer"]
KEYS += ["syns", "duration_ns", "local", "remote", "process"]
SECOND = 1_000_000_000

PEER = r"""
import errno, select

TCP_SYNCNT, TCP_INFO = 7, 11
kept = {}

# since 6.5 further SYNs come before those that TCP_SYNCNT counts
linear = "/proc/sys/net/ipv4/tcp_syn_linear_timeouts"
if os.path.exists(linear):
    with open(linear, "w") as file:
        file.write("0")

def closed_port(address):
    hole = bound(address)
    where = hole.getsockname()[:2]
    hole.close()
    return where

def silent(address):
    # a full accept queue: its connection is never accepted, and every further SYN is dropped
    end = bound(address)
    end.listen(0)
    where = end.getsockname()[:2]
    first = bound(address)
    first.connect(where)
    kept[address] = end, first
    return where

def begin(address, where, times, syns=None):
    ends = []
    for _ in range(times):
        end = bound(address)
        if syns:
            end.setsockopt(socket.IPPROTO_TCP, TCP_SYNCNT, syns)
        end.setblocking(False)
        assert end.connect_ex(where) == errno.EINPROGRESS
        ends.append(end)
    return ends

def until_ended(ends):
    # the error of each
    for end in ends:
        ready = select.select([], [end], [], 60)
        if not ready[1]:
            raise TimeoutError("it still connects")
    return [end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for end in ends]

def until_asked(ends, syns):
    # tcpi_retransmits: without the first
    deadline = time.monotonic() + 60
    for end in ends:
        while end.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 8)[2] < syns - 1:
            if time.monotonic() > deadline:
                raise TimeoutError("it does not ask again")
            time.sleep(0.01)

def told(ends, where):
    return [[end.getsockname()[1] for end in ends], where[1]]

def refused(address, times):
    where = closed_port(address)
    ends = [bound(address) for _ in range(times)]
    for end in ends:
        assert end.connect_ex(where) == errno.ECONNREFUSED
    return told(ends, where)

def timed_out(address, times, retries):
    where = silent(address)
    ends = begin(address, where, times, retries)
    assert set(until_ended(ends)) == {errno.ETIMEDOUT}
    return told(ends, where)

def given_up(address, times, syns):
    where = silent(address)
    ends = begin(address, where, times)
    until_asked(ends, syns)
    ports = told(ends, where)
    for end in ends:
        end.close()
    return ports

def killed(address, syns):
    # a child that waits in connect(2)
    where = silent(address)
    end = bound(address)
    child = os.fork()
    if not child:
        end.connect(where)
        os._exit(1)
    until_asked([end], syns)
    port = end.getsockname()[1]
    end.close()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return [[port], where[1], child]

def answered_late(address, times, syns):
    where = silent(address)
    ends = begin(address, where, times)
    until_asked(ends, syns)
    listening, first = kept.pop(address)
    listening.listen(2 * times)
    assert set(until_ended(ends)) == {0}
    return told(ends, where)

def no_port(address, times):
    listening = bound(address)
    listening.listen(10)
    where = listening.getsockname()[:2]
    with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
        file.write("40000 40001")
    ends, failed = [], 0
    while failed < times:
        end = opened(address)
        answer = end.connect_ex(where)
        if answer == errno.EADDRNOTAVAIL:
            failed += 1
            end.close()
        else:
            assert not answer and len(ends) < 2
            ends.append(end)
    return [[], where[1]]

def icmp(address, code, times):
    # answers each SYN as a router would, with the head of the packet
    v6 = ":" in address
    where = silent(address)
    kind = socket.htons(0x86DD if v6 else 0x0800)
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, kind)
    wire.bind(("lo", 0))
    wire.settimeout(60)
    family, protocol = (socket.AF_INET6, 58) if v6 else (socket.AF_INET, 1)
    router = socket.socket(family, socket.SOCK_RAW, protocol)
    router.bind((address, 0))
    ends = begin(address, where, times)
    wanted = {end.getsockname()[1] for end in ends}
    while wanted:
        packet = wire.recv(2000)
        head = 40 if v6 else 4 * (packet[0] & 15)
        port = int.from_bytes(packet[head : head + 2], "big")
        if packet[6 if v6 else 9] != 6 or port not in wanted:
            continue
        wanted.discard(port)
        message = bytes([1 if v6 else 3, code]) + bytes(6) + packet
        if not v6:  # the kernel adds only ICMPv6's checksum
            words = struct.unpack(f"!{len(message) // 2}H", message)
            total = sum(words) % 0xFFFF
            message = message[:2] + struct.pack("!H", 0xFFFF - total) + message[4:]
        router.sendto(message, (address, 0))
    return [until_ended(ends), *told(ends, where)]

def harmless(address, times):
    # connects that succeed, or are given up before anybody answers, in two ways
    listening = bound(address)
    listening.listen(100)
    for _ in range(times):
        client = bound(address)
        client.connect(listening.getsockname()[:2])
        client.close()
    for end in begin(address, silent(address), times):
        end.close()
    for end in begin(address, kept[address][0].getsockname()[:2], times):
        if ctypes.CDLL(None).connect(end.fileno(), bytes(16), 16):
            raise OSError("connect(AF_UNSPEC)")
"""

# What decides on these is the same function for IPv4 and IPv6.
FAMILIES = [4, pytest.param(6, marks=pytest.mark.any_kernel)]


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    with Peer(PEER, tmp_path) as running:
        yield running


@contextmanager
def traced(*options: str) -> Iterator[Ktrace]:
    with Ktrace("connects", *(options or ("--all",))) as ktrace:
        yield ktrace
        assert ktrace.summary.lost == 0


def mine(peer: Peer, events: list[Event]) -> list[Event]:
    ends = peer.addresses.values()
    return [e for e in events if e["remote"]["address"] in ends]


def of(error: str, events: list[Event]) -> list[Event]:
    return [event for event in events if event["error"] == error]


def check(
    events: list[Event],
    address: str,
    ports: list[int],
    asked: int,
    *,
    errno: str | None = None,
    answer: str | None = None,
    syns: range,
    seconds: tuple[float, float] | None,
    process: dict[str, Any] | None = None,
) -> None:
    """One event for each of the clients' ports, and none besides."""
    assert Counter(e["local"]["port"] for e in events) == Counter(ports)
    for event in events:
        assert list(event) == KEYS
        assert event["kind"] == "connect_failure"
        check_circumstances(event)
        assert (event["errno"], event["answer"]) == (errno, answer)
        assert event["syns"] in syns
        if seconds:
            assert seconds[0] * SECOND <= event["duration_ns"] <= seconds[1] * SECOND
        else:
            assert event["duration_ns"] is None
        assert event["local"] == {
            "address": address,
            "port": event["local"]["port"],
            "pod": None,
        }
        assert event["remote"] == {"address": address, "port": asked, "pod": None}
        if process:
            check_process(event["process"], process)
        else:
            assert event["process"] is None


@pytest.mark.parametrize("family", [4, 6])
def test_refused_by_a_reset(peer: Peer, family: int) -> None:
    address = peer.addresses[family]
    with traced() as ktrace:
        ports, asked = peer.do("refused", address, TIMES)
        events = mine(peer, ktrace.stop())
    assert of("refused", events) == events
    check(
        *(events, address, ports, asked),
        errno="ECONNREFUSED",
        answer="reset",
        syns=range(1, 2),
        seconds=(0, 60),
    )


@pytest.mark.parametrize(
    ("family", "code", "error", "number"),
    [
        (4, 3, "refused", errno.ECONNREFUSED),
        (4, 1, "unreachable", errno.EHOSTUNREACH),
        (4, 0, "unreachable", errno.ENETUNREACH),
        (6, 4, "refused", errno.ECONNREFUSED),
        (6, 3, "unreachable", errno.EHOSTUNREACH),
        (6, 0, "unreachable", errno.ENETUNREACH),
    ],
)
def test_answered_by_icmp(peer: Peer, family: int, code: int, error: str, number: int) -> None:
    address = peer.addresses[family]
    with traced() as ktrace:
        numbers, ports, asked = peer.do("icmp", address, code, TIMES)
        events = mine(peer, ktrace.stop())
    assert numbers == [number] * TIMES
    ended = of(error, events)
    # a slow machine may ask three times before it answers
    assert len(ended) + len(of("unanswered", events)) == len(events)
    check(
        *(ended, address, ports, asked),
        errno=errno.errorcode[number],
        answer="icmp",
        syns=range(1, 8),
        seconds=(0, 60),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_nobody_answers(peer: Peer, family: int) -> None:
    """With one retransmission the end is told, with two also the attempt while it lasts."""
    address = peer.addresses[family]
    with traced() as ktrace:
        few, asked = peer.do("timed_out", address, TIMES, 1)
        ports, asked_later = peer.do("timed_out", address, TIMES, 2)
        events = mine(peer, ktrace.stop())
    assert len(events) == 3 * TIMES
    ended = of("timeout", events)
    for retries, clients, to in ((1, few, asked), (2, ports, asked_later)):
        check(
            *([e for e in ended if e["remote"]["port"] == to], address, clients, to),
            errno="ETIMEDOUT",
            syns=range(retries + 1, retries + 2),
            seconds=(1.5, 60),
        )
    check(
        *(of("unanswered", events), address, ports, asked_later),
        syns=range(3, 4),
        seconds=(1.5, 60),
    )
    told = {e["local"]["port"]: e["boot_ns"] for e in of("unanswered", events)}
    for event in ended:
        assert told.get(event["local"]["port"], 0) < event["boot_ns"]


@pytest.mark.parametrize("family", FAMILIES)
def test_given_up(peer: Peer, family: int) -> None:
    """By its program, which is known."""
    address = peer.addresses[family]
    with traced() as ktrace:
        ports, asked = peer.do("given_up", address, TIMES, 3)
        events = mine(peer, ktrace.stop())
    assert len(events) == 2 * TIMES
    check(
        *(of("given_up", events), address, ports, asked),
        syns=range(3, 8),
        seconds=(1.5, 60),
        process=facts(peer.pid),
    )


def test_killed_in_its_call(peer: Peer) -> None:
    address = peer.addresses[4]
    with traced() as ktrace:
        (port,), asked, child = peer.do("killed", address, 3)
        events = mine(peer, ktrace.stop())
    (event,) = of("given_up", events)
    assert (event["local"]["port"], event["remote"]["port"]) == (port, asked)
    assert event["process"]["pid"] == child


@pytest.mark.parametrize("family", FAMILIES)
def test_answered_late(peer: Peer, family: int) -> None:
    address = peer.addresses[family]
    with traced() as ktrace:
        ports, asked = peer.do("answered_late", address, TIMES, 3)
        events = mine(peer, ktrace.stop())
    assert len(events) == 2 * TIMES
    check(
        *(of("late", events), address, ports, asked),
        syns=range(3, 8),
        seconds=None,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_no_local_port(peer: Peer, family: int) -> None:
    address = peer.addresses[family]
    with traced() as ktrace:
        _, asked = peer.do("no_port", address, TIMES)
        events = mine(peer, ktrace.stop())
    assert len(of("no_local_port", events)) == len(events) == TIMES
    who = facts(peer.pid)
    for event in events:
        assert list(event) == KEYS
        assert (event["errno"], event["answer"], event["syns"]) == (None, None, 0)
        assert event["duration_ns"] is None
        assert event["local"]["port"] is None
        assert event["remote"] == {"address": address, "port": asked, "pod": None}
        check_process(event["process"], who)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_no_failure(peer: Peer, family: int) -> None:
    with traced() as ktrace:
        peer.do("harmless", peer.addresses[family], TIMES)
        assert mine(peer, ktrace.stop()) == []


@pytest.mark.any_kernel
def test_by_pid_only_those_of_a_process_that_is_known(peer: Peer) -> None:
    with traced("--pid", str(peer.pid)) as ktrace:
        peer.do("refused", peer.addresses[4], TIMES)
        peer.do("no_port", peer.addresses[4], TIMES)
        events = ktrace.stop()
    assert Counter(event["error"] for event in events) == {"no_local_port": TIMES}


@pytest.mark.any_kernel
def test_the_default_leaves_out_what_is_in_no_pod(peer: Peer) -> None:
    with Ktrace("connects") as ktrace:
        peer.do("refused", peer.addresses[4], TIMES)
        assert mine(peer, ktrace.stop()) == []
