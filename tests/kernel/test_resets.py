# SPDX-License-Identifier: Apache-2.0
"""TCP resets in a network namespace of the test's own, over IPv4 and IPv6: both ends of each are
seen, every field is compared, none is missing and none is too many.

Everything is done with each way to attach that this kernel has, not only with the one that ktrace
would choose.
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.checks import TIMES, check_circumstances
from tests.support.ktrace import BACKEND, HAS_KPROBES, IN_GUEST, Ktrace
from tests.support.peer import Peer
from tests.support.raisers import check_process, facts
from tracer.kernel.btf import kernel_enum

Event = dict[str, Any]

STORM = 2_000 if IN_GUEST else 20_000
KEYS = ["kind", "time", "boot_ns", "node", "pod", "container", "direction", "reason"]
KEYS += ["reason_inferred", "meaning", "state", "local", "remote", "process", "idle"]
KEYS += ["bytes", "answered"]
REASONS = set(kernel_enum("sk_rst_reason"))

# The attach points by their place in the probe's table. Functions can be traced where there are
# kprobes; fentry came earlier (5.5) than all else that ktrace needs. The first two ways need BTF.
BY_REASON, BY_FENTRY, BY_KPROBE, BY_TRACEPOINT = range(4)
BTF = BACKEND != "bcc"
THERE = [BTF and bool(REASONS), BTF and HAS_KPROBES, HAS_KPROBES, True]
POINTS = [point for point, there in enumerate(THERE) if there]

# What the process in a network namespace of its own can do.
PEER = r"""
def listener(address):
    end = bound(address)
    end.listen(100)
    return end

def pair(address):
    listening = listener(address)
    client = bound(address)
    client.connect(listening.getsockname()[:2])
    served, _ = listening.accept()
    listening.close()
    return client, served

def ports(client, served_port):
    return [client.getsockname()[1], served_port]

def until_reset(client):
    client.settimeout(30)
    try:
        while client.recv(100):
            pass
    except ConnectionResetError:
        pass

def await_bytes(end, count):
    while struct.unpack("i", fcntl.ioctl(end, 0x541B, bytes(4)))[0] < count:  # FIONREAD
        time.sleep(0.001)

def await_state(end, state):
    while end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != state:
        time.sleep(0.001)

def await_queued(listening):
    # the client's last acknowledgement may come after its connect() has returned
    def queued():  # tcpi_unacked
        return listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)[24:28]

    while not any(queued()):
        time.sleep(0.001)

def linger_zero(end):
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

def closed_port(address, times):
    hole = bound(address)
    where = hole.getsockname()[:2]
    hole.close()
    done = []
    for _ in range(times):
        client = bound(address)
        try:
            client.connect(where)
        except ConnectionRefusedError:
            done.append(ports(client, where[1]))
        client.close()
    return done

def closed_port_mapped(address, times):
    hole = bound(address)
    port = hole.getsockname()[1]
    hole.close()
    done = []
    for _ in range(times):
        client = bound("::ffff:" + address)
        try:
            client.connect(("::ffff:" + address, port))
        except ConnectionRefusedError:
            done.append(ports(client, port))
        client.close()
    return done

def storm(address, times):
    hole = bound(address)
    where = hole.getsockname()[:2]
    hole.close()
    refused = 0
    for _ in range(times):
        client = opened(address)
        refused += client.connect_ex(where) == 111
        client.close()
    return [where[1], refused]

def unread(address, fin, times):
    done = []
    for _ in range(times):
        client, served = pair(address)
        client.sendall(b"x")
        await_bytes(served, 1)
        if fin:
            client.shutdown(socket.SHUT_WR)
            await_state(served, 8)
            await_state(client, 5)
        done.append(ports(client, served.getsockname()[1]))
        served.close()
        until_reset(client)
        client.close()
    return done

def linger(address, fin, times):
    done = []
    for _ in range(times):
        client, served = pair(address)
        if fin:
            client.shutdown(socket.SHUT_WR)
            await_state(served, 8)
            await_state(client, 5)
        linger_zero(served)
        done.append(ports(client, served.getsockname()[1]))
        served.close()
        until_reset(client)
        client.close()
    return done

def disconnect(address, times):
    # what a connection that was read to its end is reset for: connect(AF_UNSPEC)
    done = []
    for _ in range(times):
        client, served = pair(address)
        done.append(ports(client, served.getsockname()[1]))
        libc = ctypes.CDLL(None)
        if libc.connect(served.fileno(), bytes(16), 16):
            raise OSError("connect(AF_UNSPEC)")
        until_reset(client)
        served.close()
        client.close()
    return done

def not_accepted(address, times):
    done = []
    for _ in range(times):
        listening = listener(address)
        port = listening.getsockname()[1]
        client = bound(address)
        client.connect(listening.getsockname()[:2])
        await_queued(listening)
        listening.close()
        until_reset(client)
        done.append(ports(client, port))
        client.close()
    return done

def end_at_peer(port):
    # the state and the timer of the end whose peer is this port, once its FIN was acknowledged,
    # which is told at leisure
    end, theirs = time.monotonic() + 60, f":{port:04X}"
    while time.monotonic() < end:
        for name in ("tcp", "tcp6"):
            with open(f"/proc/self/net/{name}") as table:
                for line in table:
                    words = line.split()
                    if words[2].endswith(theirs) and words[3] == "05":
                        return words[5][:2]
        time.sleep(0.01)
    raise TimeoutError("the FIN was never acknowledged")

def await_small_socket(port):
    # An acknowledgement that comes while close() still holds the socket leaves it a whole one in
    # FIN_WAIT2, which waits by its keepalive timer. Else it is exchanged for TIME_WAIT's at once.
    for _ in range(100):
        timer = end_at_peer(port)
        if timer == "03":
            return True
        time.sleep(0.001)
    return False

def after_the_end(address, times):
    done = []
    for _ in range(20 * times):
        client, served = pair(address)
        used = ports(client, served.getsockname()[1])
        served.close()
        await_state(client, 8)
        if await_small_socket(used[0]):
            done.append(used)
            client.sendall(b"x")
            await_state(client, 7)
        client.close()
        if len(done) == times:
            return done
    raise RuntimeError(f"{len(done)} of {times} connections came to TIME_WAIT")

def after_close(address, times):
    # the server closes with more to send than the client has room for: it stays in FIN_WAIT1
    done = []
    for _ in range(times):
        client, served = pair(address)
        served.setblocking(False)
        try:
            while True:
                served.send(bytes(1 << 16))
        except BlockingIOError:
            pass
        done.append(ports(client, served.getsockname()[1]))
        served.close()
        client.sendall(b"x")
        await_state(client, 7)
        client.close()
    return done
"""


def mine(peer: Peer, events: list[Event]) -> list[Event]:
    ends = peer.addresses.values()
    return [e for e in events if e["kind"] == "tcp_reset" and e["local"]["address"] in ends]


def resets(point: int | None, *options: str, output: str = "json") -> Ktrace:
    """A ktrace that has only this attach point."""
    only = None if point is None else ("resets", point)
    return Ktrace("resets", *options, output=output, only=only)


# What decides on these resets is the same function for IPv4 and IPv6.
FAMILIES = [4, pytest.param(6, marks=pytest.mark.any_kernel)]
FIN = [False, pytest.param(True, marks=pytest.mark.any_kernel)]


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    with Peer(PEER, tmp_path) as running:
        yield running


POINT_NAMES = [("reason", "fentry", "kprobe", "tracepoint")[point] for point in POINTS]


@pytest.fixture(params=POINTS, ids=POINT_NAMES)
def point(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture(
    params=[POINTS[0], *(pytest.param(p, marks=pytest.mark.any_kernel) for p in POINTS[1:])],
    ids=POINT_NAMES,
)
def main_point(request: pytest.FixtureRequest) -> int:
    """What the attach points have in common is tested in guests with one of them."""
    number: int = request.param
    return number


def tells_without_socket(point: int) -> bool:
    """The tracepoint alone fires for closed ports only where it has a reason argument."""
    return point != BY_TRACEPOINT or bool(REASONS)


def expected_reason(point: int, reason: str | None) -> tuple[str | None, bool]:
    """All kernels get the same word; those that know it themselves need no inference."""
    if reason is None:
        return None, False
    return reason, not (point == BY_REASON and f"SK_RST_REASON_{reason.upper()}" in REASONS)


def check(
    peer: Peer,
    events: list[Event],
    address: str,
    pairs: list[list[int]],
    point: int,
    *,
    sent: tuple[str | None, str | None, str | None],
    received: tuple[str | None, str | None, str | None],
    by_process: bool,
    told: bool = True,
) -> None:
    """`sent` and `received` are reason, meaning and state; `pairs` are the client's and the
    server's ports, of which the server resets."""
    ours = mine(peer, events)
    expected = Counter(("received", client, server) for client, server in pairs)
    if told:
        expected += Counter(("sent", server, client) for client, server in pairs)
    assert len(pairs) == TIMES
    seen = [(e["direction"], e["local"]["port"], e["remote"]["port"]) for e in ours]
    assert Counter(seen) == expected
    who = facts(peer.pid)
    for event, (direction, local, remote) in zip(ours, seen, strict=True):
        assert list(event) == KEYS
        assert event["kind"] == "tcp_reset"
        check_circumstances(event)
        assert event["local"] == {"address": address, "port": local, "pod": None}
        assert event["remote"] == {"address": address, "port": remote, "pod": None}
        reason, meaning, state = sent if direction == "sent" else received
        assert event["reason"] == reason
        _, inferred = expected_reason(point, reason)
        assert event["reason_inferred"] is inferred
        assert event["meaning"] == meaning
        assert event["state"] == state
        if direction == "sent" and by_process:
            check_process(event["process"], who)
        else:
            assert event["process"] is None


def traced(peer: Peer, point: int, family: int, *order: Any) -> tuple[list[Event], str, Any]:
    address = peer.addresses[family]
    name, *arguments = order
    with resets(point, "--all") as ktrace:
        answer = peer.do(name, address, *arguments)
        events = ktrace.stop()
        assert ktrace.summary.lost == 0
        return events, address, answer


@pytest.mark.parametrize("family", [4, 6])
def test_a_closed_port(peer: Peer, point: int, family: int) -> None:
    events, address, pairs = traced(peer, point, family, "closed_port", TIMES)
    check(
        *(peer, events, address, pairs, point),
        sent=("no_socket", "closed port", None),
        received=("connection_refused", "connection refused", "SYN_SENT"),
        by_process=False,
        told=tells_without_socket(point),
    )


def test_ipv4_through_an_ipv6_socket(peer: Peer, main_point: int) -> None:
    events, address, pairs = traced(peer, main_point, 4, "closed_port_mapped", TIMES)
    check(
        *(peer, events, address, pairs, main_point),
        sent=("no_socket", "closed port", None),
        received=("connection_refused", "connection refused", "SYN_SENT"),
        by_process=False,
        told=tells_without_socket(main_point),
    )


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("fin", FIN)
def test_closed_with_unread_data(peer: Peer, main_point: int, family: int, fin: bool) -> None:
    """One byte, also where the other end has closed too: its FIN is no byte."""
    events, address, pairs = traced(peer, main_point, family, "unread", fin, TIMES)
    check(
        *(peer, events, address, pairs, main_point),
        sent=("tcp_abort_on_close", "closed with unread data", "CLOSE"),
        received=(None, None, "FIN_WAIT2" if fin else "ESTABLISHED"),
        by_process=True,
    )


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("fin", FIN)
def test_closed_with_linger_zero(peer: Peer, main_point: int, family: int, fin: bool) -> None:
    """Not for unread data, though the other end's FIN has not been read."""
    events, address, pairs = traced(peer, main_point, family, "linger", fin, TIMES)
    check(
        *(peer, events, address, pairs, main_point),
        sent=("so_linger_zero", "closed with SO_LINGER 0", "CLOSE"),
        received=(None, None, "FIN_WAIT2" if fin else "ESTABLISHED"),
        by_process=True,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_disconnected(peer: Peer, main_point: int, family: int) -> None:
    """No reason is invented where only the kernel could know it."""
    events, address, pairs = traced(peer, main_point, family, "disconnect", TIMES)
    known = main_point == BY_REASON and "SK_RST_REASON_TCP_STATE" in REASONS
    check(
        *(peer, events, address, pairs, main_point),
        sent=("tcp_state", "aborted or disconnected", "CLOSE") if known else (None, None, "CLOSE"),
        received=(None, None, "ESTABLISHED"),
        by_process=True,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_listener_that_closes_before_it_accepts(peer: Peer, main_point: int, family: int) -> None:
    events, address, pairs = traced(peer, main_point, family, "not_accepted", TIMES)
    check(
        *(peer, events, address, pairs, main_point),
        sent=("listener_closed", "listener closed before accept", "CLOSE"),
        received=(None, None, "ESTABLISHED"),
        by_process=False,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_data_for_a_connection_that_has_ended(peer: Peer, main_point: int, family: int) -> None:
    """The socket that answers is the small one of TIME_WAIT."""
    events, address, pairs = traced(peer, main_point, family, "after_the_end", TIMES)
    check(
        *(peer, events, address, pairs, main_point),
        sent=("tcp_timewait_socket", "connection had ended", "TIME_WAIT"),
        received=(None, None, "CLOSE_WAIT"),
        by_process=False,
        told=tells_without_socket(main_point),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_data_for_a_connection_that_was_closed(peer: Peer, main_point: int, family: int) -> None:
    """The kernel calls tcp_reset() for itself, and nothing is received by who sends the reset."""
    events, address, pairs = traced(peer, main_point, family, "after_close", TIMES)
    check(
        *(peer, events, address, pairs, main_point),
        sent=("tcp_abort_on_data", "data came after close", "CLOSE"),
        received=(None, None, "ESTABLISHED"),
        by_process=False,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_refused_as_fast_as_they_go(peer: Peer, family: int) -> None:
    """Captured and counted as lost together are what was sent."""
    address = peer.addresses[family]
    with resets(None, "--all") as ktrace:
        port, refused = peer.do("storm", address, STORM)
        assert refused == STORM
        ktrace.signal(signal.SIGINT)
        assert ktrace.exit_code() == 0, ktrace.stderr
        seen: Counter[str] = Counter()
        lost = 0
        for line in ktrace.output.splitlines():
            event = json.loads(line)
            if event["kind"] == "lost":
                assert event["probe"] == "resets"
                lost += event["count"]
            elif event["local"]["address"] == address:
                assert port in (event["local"]["port"], event["remote"]["port"])
                seen[event["direction"]] += 1
        assert ktrace.summary.lost == lost
    assert seen["sent"] <= STORM
    assert seen["received"] <= STORM
    # other resets of the machine may be among the lost
    assert 2 * STORM - lost <= seen.total() <= 2 * STORM
    if not lost:
        assert seen == {"sent": STORM, "received": STORM}


@pytest.mark.any_kernel
def test_by_pid_only_those_of_a_process_that_is_known(peer: Peer) -> None:
    with resets(None, "--pid", str(peer.pid)) as ktrace:
        for family in (4, 6):
            peer.do("closed_port", peer.addresses[family], 3)
            peer.do("unread", peer.addresses[family], False, TIMES)
            peer.do("linger", peer.addresses[family], False, TIMES)
        events = ktrace.stop()
    assert [event["process"]["pid"] for event in events] == [peer.pid] * 4 * TIMES


@pytest.mark.any_kernel
def test_the_default_leaves_out_what_is_in_no_pod(peer: Peer) -> None:
    with resets(None) as ktrace:
        for family in (4, 6):
            peer.do("closed_port", peer.addresses[family], TIMES)
            peer.do("unread", peer.addresses[family], False, TIMES)
        assert mine(peer, ktrace.stop()) == []


@pytest.mark.any_kernel
def test_the_table(peer: Peer) -> None:
    """Whole lines into a file; what was inferred has a question mark."""
    with resets(None, "--all", output="table") as ktrace:
        (pair,) = peer.do("linger", peer.addresses[6], False, 1)
        ktrace.signal(signal.SIGINT)
        assert ktrace.exit_code() == 0, ktrace.stderr
        titles, *lines = ktrace.output.decode().splitlines()
        assert titles.split()[:5] == ["TIME", "RESET", "LOCAL", "REMOTE", "REASON"]
        ends = {f"[{peer.addresses[6]}]:{port}" for port in pair}
        (sent,) = (line for line in lines if "sent" in line and all(e in line for e in ends))
        assert "closed with SO_LINGER 0?" in sent
        assert "!" not in sent
