# SPDX-License-Identifier: Apache-2.0
"""How counts are divided among listening sockets, and how an event says itself."""

from __future__ import annotations

import ipaddress
import os
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.bounds import Bound
from tests.unit.records import Decoding
from tracer.backends.objects import Objects
from tracer.kernel.bpf_object import shipped
from tracer.kernel.netstat import KEPT_PIDS, Counters
from tracer.kernel.sockdiag import Listener, Listeners
from tracer.model.batch import cell
from tracer.model.event import Event
from tracer.probes import LAST_CALL, polling
from tracer.probes.backlog import MAX_LISTENERS, PROBE, companion
from tracer.probes.backlog.companion import ACCEPT, SYN, Namespace, Polled, Told, attribute

ANY = ipaddress.IPv4Address("0.0.0.0")
BOUNDS = {
    "sockets of which `backlog` knows the holder, and is looking for it": Bound(
        (
            "test_holders_that_are_known_are_bounded",
            "test_holders_that_are_looked_for_are_bounded",
            "test_a_search_for_a_holder_has_an_end",
        ),
        (MAX_LISTENERS, companion.MAX_HOLDERS, companion.MAX_DESCRIPTORS),
    ),
    "processes in namespaces that `backlog` has still to look at": Bound(
        ("test_processes_that_wait_are_bounded",), (companion.MAX_HEARD,)
    ),
}


def listener(cookie: int, drops: int, queued: int = 0, limit: int = 1) -> Listener:
    return Listener(cookie, ANY, 8000 + cookie, cookie, queued, limit, drops, None)


def known(**drops: int) -> Namespace:
    return Namespace([1], Counters(), {int(name[1:]): count for name, count in drops.items()})


def test_each_socket_tells_its_own() -> None:
    one, two, idle = listener(1, 30, 2), listener(2, 16, 2), listener(3, 4, 0)
    answer = Listeners([one, two, idle])
    told = attribute(known(_1=7, _3=4), Counters(39, 39), answer)
    assert told == [Told(ACCEPT, 23, one, 2, 1), Told(ACCEPT, 16, two, 2, 1)]


def test_a_queue_that_was_emptied_meanwhile_is_still_named() -> None:
    one = listener(1, 23, 0, 128)
    (told,) = attribute(known(), Counters(23, 23), Listeners([one]))
    assert (told.queue, told.count, told.listener) == (ACCEPT, 23, one)


def test_two_reasons_are_told_apart_by_what_is_full() -> None:
    full, flooded = listener(1, 10, 2), listener(2, 5, 0, 8)
    answer = Listeners([full, flooded], Counter({8002: 9}), 0, 2048)
    told = attribute(known(), Counters(10, 15, 5), answer)
    assert told == [Told(ACCEPT, 10, full, 2, 1), Told(SYN, 5, flooded, 9, 8)]


def test_two_reasons_that_cannot_be_told_apart_name_no_port() -> None:
    answer = Listeners([listener(1, 10, 2), listener(2, 5, 2)], Counter(), 0, 2048)
    told = attribute(known(), Counters(10, 15, 5), answer)
    assert told == [Told(ACCEPT, 10), Told(SYN, 5)]


def test_a_socket_that_is_gone_leaves_its_drops_without_a_port() -> None:
    assert attribute(known(), Counters(23, 23), Listeners()) == [Told(ACCEPT, 23)]
    assert attribute(known(), Counters(23, 23), None) == [Told(ACCEPT, 23)]


def test_drops_between_the_two_readings_are_told_once() -> None:
    """The sockets were asked after the counters were read; a storm went on."""
    namespace = known()
    first = attribute(namespace, Counters(20, 20), Listeners([listener(1, 23, 2)]))
    second = attribute(namespace, Counters(10, 10), Listeners([listener(1, 30, 2)]))
    assert [told.count for told in first + second] == [20, 10]
    assert all(told.listener for told in first + second)


def test_a_socket_that_counts_more_than_the_namespace_is_not_believed() -> None:
    """A SYN that is sent again counts there, and turns nobody away."""
    one = listener(1, 34, 0, 10)
    answer = Listeners([one], Counter({8001: 11}), 0, 2048)
    assert attribute(known(), Counters(0, 23, 23), answer) == [Told(SYN, 23, one, 11, 10)]


def test_drops_for_other_reasons_are_not_ours() -> None:
    answer = Listeners([listener(1, 5, 0, 100)], Counter({8001: 1}), 1, 2048)
    assert attribute(known(), Counters(0, 5), answer) == []


def test_the_last_quarter_of_the_syn_queue() -> None:
    one = listener(1, 5, 0, 100)
    answer = Listeners([one], Counter({8001: 13}), 0, 16)
    assert attribute(known(), Counters(0, 5), answer) == [Told(SYN, 5, one, 13, 12)]


def event(**body: Any) -> Event[Any]:
    local = {"address": "10.0.0.5", "port": 8080, "pod": None}
    filled = {"queue": "accept", "local": local, "depth": 129, "limit": 128, "count": 37}
    return Event("backlog_drop", 1, None, None, filled | body)


def test_summary() -> None:
    assert PROBE.summary(event()) == (
        "10.0.0.5:8080 turned away 37 attempts: accept queue full (129 of 128)"
    )
    nameless = {"address": None, "port": None, "pod": None}
    assert PROBE.summary(event(queue="socket", count=1, local=nameless, depth=None)) == (
        "a port turned away 1 packet: socket backlog full"
    )


def test_columns_fit_60_cells() -> None:
    from tracer.outputs.table import GAP, SIGN, TIME

    needed = [c for c in PROBE.columns if not c.wide and c.title != "CONTAINER"]
    widths = [column.narrow for column in (TIME, SIGN, *needed)]
    assert [c.title for c in needed] == ["QUEUE", "LOCAL", "COUNT", "DEPTH", "POD"]
    assert sum(widths) + len(GAP) * (len(widths) - 1) <= 60


def test_a_namespace_in_which_nobody_is_left_may_be_another_one() -> None:
    known = Namespace([10, 11], Counters(), network=7)
    known.found_with([11, 12])
    assert (known.pids, known.network) == ([11, 12], 7)
    known.found_with([13])
    assert (known.pids, known.network) == ([13], 0)


def test_short_processes_do_not_push_out_the_first_of_a_namespace() -> None:
    """As the commands of a liveness probe do: without it, every reading would begin with a search
    of all processes."""
    objects = Objects()
    objects.open("backlog")
    objects.open("context")
    polled = Polled({schema.name: schema for schema in objects.schemas.values()})
    netns, first = 1, 1 << 22
    for number in range(3 * KEPT_PIDS):
        polled.use(netns, 7, first + number)
    pids = polled._namespaces[netns].pids
    last = first + 3 * KEPT_PIDS
    assert pids == [first, *range(last - KEPT_PIDS + 1, last)]


def schemas() -> dict[str, Any]:
    objects = Objects()
    for name in ("backlog", "context"):
        objects.open(name)
    return dict(objects.by_name())


def test_holders_that_are_known_are_bounded() -> None:
    stream = Decoding(PROBE)

    def tell(kind: str, **values: int) -> Any:
        schema = shipped("backlog").schemas[kind]
        (record,) = schema.cells(memoryview(cell(schema.pack(**values))))
        return stream.decode[kind](record)

    for socket in range(1, MAX_LISTENERS + 2):
        tell("backlog_listener", socket=socket, process_pid=7)
    assert tell("backlog_drop", socket=1, count=1).body["process"] is None
    assert tell("backlog_drop", socket=2, count=1).body["process"].pid == 7


def test_holders_that_are_looked_for_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(companion, "holder", lambda socket, netns: None)
    holders = companion.Holders(schemas())
    for socket in range(1, companion.MAX_HOLDERS + 9):
        holders.describe(socket, 1)
    assert len(holders._known) == companion.MAX_HOLDERS


def test_a_search_for_a_holder_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr(companion, "MAX_DESCRIPTORS", 0)
    monkeypatch.setattr(companion, "processes", lambda: [os.getpid()] * 5)
    monkeypatch.setattr(companion, "netns_of", lambda pid: 1)
    listed = os.listdir

    def listdir(path: str) -> list[str]:
        looked.append(path)
        return listed(path)

    monkeypatch.setattr(os, "listdir", listdir)
    assert companion.holder(-1, 1) is None
    assert len(looked) == 1


def test_processes_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []

    class Looking:
        def __init__(self, *_: Any) -> None: ...

        def use(self, netns: int, network: int, pid: int) -> None:
            used.append(pid)

        def records(self) -> list[bytes]:
            return []

    monkeypatch.setattr(companion, "Polled", Looking)
    monkeypatch.setattr(polling, "INTERVAL", 60.0)
    counted = companion.Counted(schemas())
    told = SimpleNamespace(how=-1, netns=1, network=1, pid=1)
    counted.hear(iter([told] * (companion.MAX_HEARD + 9)))
    counted.records(LAST_CALL)
    assert len(used) == companion.MAX_HEARD


def test_only_what_has_changed_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By each namespace for itself; of the first process that is still in it."""
    texts = {11: None, 12: b"one", 21: b"one"}
    parsed: list[bytes] = []

    def parse(text: bytes) -> Counters:
        parsed.append(text)
        return Counters(len(parsed))

    monkeypatch.setattr(companion, "read_text", lambda pid, netns: texts[pid])
    monkeypatch.setattr(companion, "parse", parse)
    one, two = Namespace([11, 12], Counters()), Namespace([21], Counters())
    assert [one.read(1), one.read(1), two.read(2)] == [Counters(1), Counters(1), Counters(2)]
    texts[12] = b"two"
    assert [one.read(1), two.read(2)] == [Counters(3), Counters(2)]
    texts[12] = None
    assert one.read(1) is None
    assert parsed == [b"one", b"one", b"two"]
