# SPDX-License-Identifier: Apache-2.0
"""Queues that are really full, in a network namespace of the test's own. What is true is what that
namespace has counted: `tests/support/queues.py` makes the drops, one by one where that is possible.

On a kernel where functions can be probed each event also tells the stage and the other side; where
not, the counters are all there is, and the fields that they cannot tell are null.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernel.checks import TIMES
from tests.support.ktrace import Ktrace
from tests.support.queues import LOOPBACK, Queues
from tests.support.wait import wait_for

PORT = 8080
EVENT_KEYS = ["kind", "time", "boot_ns", "node", "pod", "container"]
EVENT_KEYS += ["queue", "stage", "local", "remote", "depth", "limit", "process", "count", "source"]
Event = dict[str, Any]


@pytest.fixture
def queues() -> Iterator[Queues]:
    with Queues() as running:
        running.do("sysctl", "ipv4/tcp_syncookies", 0)
        yield running


@pytest.fixture(params=["ipv4", "ipv6"])
def address(request: pytest.FixtureRequest) -> str:
    return LOOPBACK[request.param]


def test_accept_queue_full_at_the_syn(queues: Queues, address: str) -> None:
    fill_accept_queue(queues, address)
    with Ktrace("backlog", "--all") as ktrace:
        before, began = queues.do("counters"), time.monotonic()
        ports = queues.do("knock", PORT, TIMES, address)
        await_added(queues, before, {"ListenOverflows": TIMES, "ListenDrops": TIMES})
        events = told(ktrace, TIMES)
        took = time.monotonic() - began
    assert sum(event["count"] for event in events) == TIMES
    assert len(events) <= 3 + took
    for event in events:
        check(event, queues, "accept", address)
        assert (event["depth"], event["limit"]) == (2, 1)
        assert event["stage"] == ("syn" if probed(event) else None)
    if probed(events[0]):
        assert events[0]["count"] == 1
        assert events[0]["remote"] == {"address": address, "port": ports[0], "pod": None}
        assert all(event["remote"]["address"] == address for event in events)


def test_accept_queue_full_at_the_ack(queues: Queues, address: str) -> None:
    """The SYNs came while there was room; the clients take part when the server asks again."""
    queues.do("listen", PORT, 100, address)
    queues.do("connect", PORT, 2, address)
    with Ktrace("backlog", "--all") as ktrace:
        queues.do("connect_halfway", PORT, TIMES, address)
        queues.do("listen", PORT, 1, address)
        before = queues.do("counters")
        queues.do("hear", 2 + TIMES)
        wait_for(
            "the final ACKs to be dropped",
            lambda: added(queues, before).get("ListenOverflows", 0) >= TIMES,
        )
        queues.do("close", PORT)
        queues.do("hang_up")
        dropped = added(queues, before)["ListenOverflows"]
        told(ktrace, dropped)
        # whoever knocks again meets a SYN queue that has become short
        events = [event for event in ktrace.stop() if event["queue"] == "accept"]
    assert sum(event["count"] for event in events) == dropped
    for event in events:
        assert (event["queue"], event["count"] > 0) == ("accept", True)
        if probed(event):
            check_listener(event, address)
            assert event["stage"] == "ack"
            assert (event["depth"], event["limit"]) == (2, 1)
            assert event["remote"]["address"] == address


@pytest.mark.parametrize("quarter", [False, True], ids=["listen", "sysctl"])
def test_syn_queue_full(queues: Queues, address: str, quarter: bool) -> None:
    """By the length that listen(2) was told, and by the sysctl that all listeners share: its last
    quarter is not for strangers, and of these drops no counter tells the reason."""
    limit = 12 if quarter else 10
    if quarter:
        queues.do("sysctl", "ipv4/tcp_max_syn_backlog", 16)
    queues.do("listen", PORT, 100 if quarter else limit, address)
    with Ktrace("backlog", "--all") as ktrace:
        queues.do("connect_halfway", PORT, limit + 1, address)
        before = queues.do("counters")
        queues.do("knock", PORT, TIMES, address)
        reason = {} if quarter else {"TCPReqQFullDrop": TIMES}
        await_added(queues, before, {"ListenDrops": TIMES, **reason})
        told(ktrace, TIMES)
        queues.do("hang_up")
        events = ktrace.stop()
        dropped = added(queues, before)["ListenDrops"]  # some may have knocked again
    counts = [(e["count"], e["depth"], e["local"]["port"], e["boot_ns"]) for e in events]
    assert TIMES <= sum(event["count"] for event in events) <= dropped + 1, counts
    for event in events:
        check(event, queues, "syn", address)
        assert event["limit"] == limit
        assert event["stage"] == ("syn" if probed(event) else None)
    assert any(event["depth"] in (limit, limit + 1) for event in events)


def test_socket_backlog(queues: Queues, address: str) -> None:
    """Of a connection, not of a listener: the kernel's counter names neither."""
    queues.do("listen", PORT, 10, address)
    with Ktrace("backlog", "--all") as ktrace:
        before = queues.do("counters")
        client = queues.do("overrun", PORT, TIMES, address)
        assert added(queues, before) == {"TCPBacklogDrop": TIMES}
        events = told(ktrace, TIMES)
    assert sum(event["count"] for event in events) == TIMES
    for event in events:
        assert (event["queue"], event["stage"], event["limit"]) == ("socket", None, None)
        if probed(event):
            check(event, queues, "socket", address)
            assert event["remote"] == {"address": address, "port": client, "pod": None}
            assert 64 << 10 < event["depth"] < 256 << 10
        else:
            assert list(event) == EVENT_KEYS
            assert event["local"] == {"address": None, "port": None, "pod": None}
            assert (event["depth"], event["process"], event["remote"]) == (None, None, None)


def test_an_ipv4_client_of_an_ipv6_listener_is_counted_once(queues: Queues) -> None:
    """For it the kernel runs the functions of both families."""
    queues.do("listen", PORT, 100, "::")
    queues.do("connect", PORT, 2, "127.0.0.1")
    with Ktrace("backlog", "--all") as ktrace:
        queues.do("connect_halfway", PORT, TIMES, "127.0.0.1")
        queues.do("listen", PORT, 1, "::")
        before = queues.do("counters")
        queues.do("hear", 2 + TIMES)
        wait_for(
            "the final ACKs to be dropped",
            lambda: added(queues, before).get("ListenOverflows", 0) >= TIMES,
        )
        queues.do("close", PORT)
        queues.do("hang_up")
        dropped = added(queues, before)["ListenOverflows"]
        told(ktrace, dropped)
        # whoever knocks again meets a SYN queue that has become short
        events = [event for event in ktrace.stop() if event["queue"] == "accept"]
    assert sum(event["count"] for event in events) == dropped


@pytest.mark.any_kernel
def test_a_storm_is_few_lines(queues: Queues, address: str) -> None:
    """1000 connections on each of two ports: about a line a second for each, and none missing."""
    for port in (PORT, PORT + 1):
        queues.do("listen", port, 1, address)
        queues.do("connect", port, 2, address)
    with Ktrace("backlog", "--all") as ktrace:
        before = queues.do("counters")
        for _ in range(10):
            for port in (PORT, PORT + 1):
                queues.do("knock", port, 100, address)
        await_added(queues, before, {"ListenOverflows": 2000, "ListenDrops": 2000})
        told(ktrace, 2000)
        events = ktrace.stop()
        seconds, lost = ktrace.summary.seconds, ktrace.summary.lost
    for port in (PORT, PORT + 1):
        of_port = [event for event in events if event["local"]["port"] == port]
        assert sum(event["count"] for event in of_port) == 1000
        assert len(of_port) <= seconds + 2
    assert lost == 0


@pytest.mark.any_kernel
def test_drops_before_the_start_are_not_told(queues: Queues, address: str) -> None:
    fill_accept_queue(queues, address)
    queues.do("knock", PORT, 100, address)
    with Ktrace("backlog", "--all") as ktrace:
        queues.do("knock", PORT, TIMES, address)
        events = told(ktrace, TIMES)
    assert sum(event["count"] for event in events) == TIMES
    assert all(event["local"]["port"] == PORT for event in events)


@pytest.mark.any_kernel
def test_drops_right_before_the_end_are_told(queues: Queues, address: str) -> None:
    fill_accept_queue(queues, address)
    with Ktrace("backlog", "--all") as ktrace:
        queues.do("knock", PORT, TIMES, address)
        events = ktrace.stop()
    assert sum(event["count"] for event in events) == TIMES


@pytest.mark.any_kernel
def test_a_namespace_that_goes_while_it_is_watched(queues: Queues, address: str) -> None:
    """Tracing goes on in the others, where another port is full."""
    fill_accept_queue(queues, address, PORT + 1)

    def count_here(event: Event) -> int:
        return int(event["count"]) if event["local"]["port"] == PORT + 1 else 0

    with Ktrace("backlog", "--all") as ktrace:
        with Queues() as short:
            fill_accept_queue(short, address)
            short.do("knock", PORT, TIMES, address)
        queues.do("knock", PORT + 1, TIMES, address)
        wait_for(
            "the drops of the one that stays",
            lambda: sum(map(count_here, ktrace.events)) >= TIMES,
        )
        events = ktrace.stop()
        assert sum(map(count_here, events)) == TIMES
        assert "Traceback" not in ktrace.stderr


@pytest.mark.any_kernel
def test_a_healthy_server_is_silent(queues: Queues, address: str) -> None:
    queues.do("listen", PORT, 100, address)
    with Ktrace("backlog", "--all", "--duration", "2s") as ktrace:
        assert queues.do("connect", PORT, TIMES, address) == TIMES
        assert ktrace.wait() == []


@pytest.mark.any_kernel
def test_without_all_the_host_is_not_shown(queues: Queues, address: str) -> None:
    fill_accept_queue(queues, address)
    with Ktrace("backlog", "--duration", "2s") as ktrace:
        queues.do("knock", PORT, TIMES, address)
        assert ktrace.wait() == []


def fill_accept_queue(queues: Queues, address: str, port: int = PORT) -> None:
    """One more than its limit of 1 gets in."""
    queues.do("listen", port, 1, address)
    assert queues.do("connect", port, 2, address) == 2


def added(queues: Queues, before: dict[str, int]) -> dict[str, int]:
    names = ("ListenOverflows", "ListenDrops", "TCPReqQFullDrop", "TCPBacklogDrop")
    now = queues.do("counters")
    return {name: now[name] - before[name] for name in names if now[name] != before[name]}


def await_added(queues: Queues, before: dict[str, int], wanted: dict[str, int]) -> None:
    """Exactly these; the kernel may count a moment later."""
    seen: list[dict[str, int]] = []

    def look() -> bool:
        seen.append(added(queues, before))
        return seen[-1] == wanted or any(count > wanted.get(n, 0) for n, count in seen[-1].items())

    wait_for("the drops to be counted", look)
    assert seen[-1] == wanted


def told(ktrace: Ktrace, drops: int) -> list[Event]:
    """The events, when they account for so many drops."""
    wait_for(
        f"{drops} drops to be told",
        lambda: sum(event["count"] for event in ktrace.events) >= drops,
    )
    return ktrace.events


def probed(event: Event) -> bool:
    assert event["source"] in ("function", "counter")
    return bool(event["source"] == "function")


def check(event: Event, queues: Queues, queue: str, address: str) -> None:
    assert list(event) == EVENT_KEYS
    assert (event["kind"], event["queue"]) == ("backlog_drop", queue)
    assert event["pod"] is None and event["container"] is None
    check_listener(event, address)
    assert event["process"]["pid"] == queues.pid
    assert event["process"]["argv"][1].endswith("queues.py")
    if not probed(event):
        assert event["remote"] is None


def check_listener(event: Event, address: str) -> None:
    assert event["local"] == {"address": address, "port": PORT, "pod": None}
