# SPDX-License-Identifier: Apache-2.0
"""What the live view remembers, and that it never remembers more."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.live.world import BY_KIND
from tracer.live import model as module
from tracer.live.model import Model, Snapshot
from tracer.model.cgroup import parse
from tracer.model.event import Clock, Event, Place, Process
from tracer.model.names import Container, Pod
from tracer.model.selection import Selection
from tracer.why.timelines import Timelines

NS = 1_000_000_000
KILL = {"number": 9, "name": "SIGKILL", "code": "SI_USER", "result": "delivered"}
USR1 = {"number": 10, "name": "SIGUSR1", "code": "SI_USER", "result": "delivered"}


def place(number: int) -> Place:
    uid, container = f"{number:08x}-0000-4000-8000-000000000000", f"{number:064x}"
    path = f"/kubepods/burstable/pod{uid}/{container}"
    pod = Pod(uid, "shop", f"web-{number}", {})
    return Place(number + 1, path, parse(path), pod, Container(container, "containerd", "app"))


PLACES = [place(number) for number in range(600)]


def signal(at: float, number: int = 0, told: dict[str, object] = USR1, pid: int = 1) -> Event:
    process = Process(pid, pid, comm="app", place=PLACES[number])
    body = {"signal": told, "origin": "kernel", "sender": None, "target": process}
    return Event("signal", int(at * NS), process, None, body)


def lost(at: float, count: int) -> Event:
    body = {"probe": "signals", "count": count, "since": Clock(0).iso(int(at * NS))}
    return Event("lost", int(at * NS), None, None, body)


class World:
    def __init__(self) -> None:
        self.now = 0.0
        self.posted: list[Snapshot] = []
        self.model = Model(
            BY_KIND, lambda: int(self.now * NS), lambda: Timelines(Clock(0)), self.posted.append
        )

    def told(self, *events: Event) -> Snapshot:
        for event in events:
            self.now = max(self.now, event.boot_ns / NS)
            self.model.event(event)
        self.model.post()
        return self.posted[-1]


def test_a_row() -> None:
    kill, *others = signal(12.5, told=KILL), signal(11.0), signal(11.2), signal(13.9)
    shown = World().told(others[0], others[1], kill, others[2], lost(14, 7))
    (row,) = shown.pods
    assert row.place is PLACES[0]
    assert (row.counts, row.total, row.alarms) == ({"signal": 4}, 4, 1)
    assert (row.worst, row.last) == (kill, others[2])
    assert row.timeline() == [others[0], others[1], kill, others[2]]
    assert row.rate[-4:] == (2, 1, 1, 0)
    assert (shown.events, shown.lost, shown.rate, shown.now) == (4, 7, 1, 14 * NS)
    assert [event.kind for event in shown.stream] == [*["signal"] * 4, "lost"]


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """These events have bodies of their own, which those of a storm share."""
    monkeypatch.setattr(module, "MAX_STREAM_BYTES", 1 << 30)


def test_what_stands_out_outlives_a_storm_of_what_does_not(roomy: None) -> None:
    kill = signal(1, told=KILL)
    shown = World().told(kill, *(signal(2 + n / 1e6) for n in range(30_000)))
    (row,) = shown.pods
    assert row.worst is kill
    assert row.timeline()[0] is kill
    assert len(row.timeline()) == 1 + module.MAX_OTHERS
    assert len(shown.stream) == module.MAX_STREAM
    assert shown.first == 30_001 - module.MAX_STREAM
    assert (shown.events, row.total) == (30_001, 30_001)


def test_only_so_much_that_stands_out_is_kept(roomy: None) -> None:
    many = module.MAX_ALARMS + 20
    (row,) = World().told(*(signal(1 + n, told=KILL) for n in range(many))).pods
    assert (len(row.kept[0]), row.alarms) == (module.MAX_ALARMS, many)


def test_all_that_is_known_of_a_pod(roomy: None) -> None:
    """The timeline has gaps that the stream fills, and begins before it; nothing is there twice."""
    world = World()
    kill = signal(0, told=KILL)
    others = [signal(1 + at / 1000) for at in range(module.MAX_STREAM + 7)]
    world.told(kill, *others[:-150], *(signal(20, 1) for _ in range(7)), lost(20, 3))
    shown = world.told(*others[-150:])
    row = next(row for row in shown.pods if row.place is PLACES[0])
    assert len(row.timeline()) == 1 + module.MAX_OTHERS
    known = shown.known_of(row)
    assert known == [kill, *others[-(module.MAX_STREAM - 8) :]]


def test_the_quietest_pod_leaves() -> None:
    """One that was hurt stays, though it was the first."""
    events = [signal(n, n, KILL if n == 0 else USR1) for n in range(module.MAX_PODS + 3)]
    shown = World().told(*events)
    kept = {row.place.pod.name for row in shown.pods if row.place and row.place.pod}
    assert len(kept) == module.MAX_PODS
    assert {f"web-{n}" for n in range(600)} & {"web-0", "web-1", "web-2", "web-3"} - kept == {
        "web-1",
        "web-2",
        "web-3",
    }
    assert shown.left == 3


def test_what_is_kept_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has much gives up some of it, what does not stand out first; nobody leaves."""
    monkeypatch.setattr(module, "MAX_STREAM_BYTES", 200_000)
    monkeypatch.setattr(module, "MAX_PODS_BYTES", 200_000)
    world = World()
    busy = [signal(n / 1e6, 3 + n % 3, KILL if n < 60 else USR1) for n in range(600)]
    for one in busy:
        one.body = {**one.body, "large": "x" * 2000}
    shown = world.told(signal(0, 1, KILL), signal(0, 2), *busy)
    assert 10 < len(shown.stream) < 120  # by the interpreter
    assert shown.stream[-1] is busy[-1]
    assert shown.first == 602 - len(shown.stream)
    assert (len(shown.pods), shown.left) == (5, 0)
    assert sum(event.size for row in shown.pods for event in row.timeline()) < 250_000
    quiet = [row for row in shown.pods if row.place in PLACES[1:3]]
    assert [len(row.timeline()) for row in quiet] == [1, 1]
    assert all(row.alarms == 0 or row.worst in row.timeline() for row in shown.pods)


def test_a_filter() -> None:
    world = World()
    events = [signal(n, n % 3, pid=n) for n in range(1, 31)]
    world.told(*events[:15], lost(20, 1))
    world.model.choose(Selection(pods=("shop/web-1",)))
    shown = world.told(*events[15:])
    assert [row.key for row in shown.pods] == [PLACES[1].identity.pod_uid]
    assert shown.pods[0].total == 10
    chosen = [event for event in events if event.place is PLACES[1]]
    assert [event for event in shown.stream if event.kind == "signal"] == chosen
    assert len(shown.stream) == 11
    assert shown.events == 30
    world.model.choose(Selection(pids=frozenset((7,))))
    assert [e.about and e.about.pid for e in world.told().stream] == [7, None]
    world.model.choose(None)
    assert len(world.told().stream) == 31


def test_the_latest_of_a_chosen_pod_stays_in_a_storm_of_another() -> None:
    world = World()
    world.model.choose(Selection(pods=("web-1",)))
    world.told()
    shown = world.told(signal(1, 1), *(signal(2) for _ in range(module.MAX_STREAM)))
    assert [event.place for event in shown.stream] == [PLACES[1]]


def test_pictures_come_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("tracer.live.model.time.monotonic", lambda: clock[0])
    world = World()
    world.model.flush()
    assert len(world.posted) == 1
    assert world.model.patience() == pytest.approx(0.2)
    for n in range(10):
        clock[0] += 0.06
        world.model.event(signal(n))
        world.model.flush()
    assert [snapshot.events for snapshot in world.posted] == [0, 4, 8]
    assert world.model.patience() == pytest.approx(0.08)
    world.model.choose(Selection())
    assert world.model.patience() == 0
    world.model.flush()
    clock[0] += 0.9
    world.model.flush()
    assert len(world.posted) == 4
    clock[0] += 0.2
    world.model.flush()  # nothing new, but the rates move on
    assert len(world.posted) == 5


def test_a_snapshot_does_not_change() -> None:
    world = World()
    before = world.told(signal(1))
    copy = replace(before)
    world.told(signal(2, told=KILL), signal(3, 1))
    assert before == copy
    assert before.pods[0].counts == {"signal": 1}


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 100)), max_size=200))
def test_every_event_is_counted_once(told: list[tuple[int, bool, int]]) -> None:
    told.sort(key=lambda each: each[2])
    events = [signal(at, number, KILL if kill else USR1) for number, kill, at in told]
    shown = World().told(*events)
    assert shown.events == sum(row.total for row in shown.pods) == len(events)
    assert sum(row.alarms for row in shown.pods) == sum(kill for _, kill, _ in told)
    last = told[-1][2] if told else 0
    recent = [each for each in told if each[2] > last - module.RATE_SECONDS]
    assert sum(sum(row.rate) for row in shown.pods) == len(recent)
    for row in shown.pods:
        assert row.timeline() == sorted(row.timeline(), key=lambda event: event.boot_ns)


def test_the_verdict() -> None:
    """`ktrace why` says it as soon as the container has ended."""
    world = World()
    process = Process(
        7, 7, "app", "/app", pid_in_pod=1, pid_level=1, start_boot_ns=NS, place=PLACES[0]
    )
    told = {"signal": KILL, "origin": "kernel", "sender": None, "target": process}
    kill = Event("signal", 2 * NS, process, None, told)
    assert world.told(signal(1, 1)).pods[0].verdict is None
    end = {
        "process": process,
        "exit_code": None,
        "signal": {"number": 9, "name": "SIGKILL"},
        "core_dumped": False,
        "container_exit": True,
        "meaning": "137 = 128 + 9: killed by SIGKILL",
    }
    by_key = {
        row.key: row for row in world.told(kill, Event("exit", 3 * NS, process, None, end)).pods
    }
    judged = by_key[PLACES[0].identity.pod_uid or ""].verdict
    assert judged is not None
    assert "SIGKILL" in judged.sentence or "kill" in judged.sentence
    assert by_key[PLACES[1].identity.pod_uid or ""].verdict is None
