# SPDX-License-Identifier: Apache-2.0
"""The pipeline between a backend and a sink.

The backend is a fake that plays a script: the real one needs a kernel and is tested in
tests/kernel. Its records are real, packed with the layouts of the objects. So are the session, the
resolver, the probes and the selection. Time only passes when the fake backend waits.

Events are numbered. Their times are so far apart that the ring's order is beyond doubt, but for the
tests that are about that.
"""

from __future__ import annotations

import dataclasses
import itertools
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit import records
from tests.unit.records import argv, cgroup_path, exe
from tracer import probes
from tracer.backends import Cost
from tracer.identity import names as name_service
from tracer.identity.arguments import Arguments
from tracer.identity.names import NameService
from tracer.kernel import heap
from tracer.kernel.bpf_object import shipped
from tracer.kernel.cgroupfs import Cgroup
from tracer.model import turn
from tracer.model.batch import DISCARDED, HEADER, Batch, split
from tracer.model.cgroup import parse
from tracer.model.errors import KtraceError
from tracer.model.event import Clock, Event, LostBody, is_loss
from tracer.model.kubernetes import Fact, KubeEvent
from tracer.model.names import Container, Names, Pod
from tracer.model.schema import Schema
from tracer.model.selection import AS_SENDER, BOTH_SIDES, Mode, Selection
from tracer.model.turn import Part
from tracer.probes import AttachPoint, Decode, Probe, Stream
from tracer.session import live, session
from tracer.session.live import LiveSource
from tracer.session.session import Session, Summary
from tracer.session.settings import of_selection

UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
CID = "7dea796eb5d6826a85978fa316612874aa3d576ac576495bed83d77fbc9dc744"
PATH = f"/kubepods/burstable/pod{UID}/{CID}"
NAMED = Names({UID: Pod(UID, "shop", "web-0", {})}, {CID: Container(CID, "containerd", "nginx")})
OTHER = Names({UID: Pod(UID, "shop", "db-0", {})}, {CID: Container(CID, "containerd", "nginx")})

POD, HOST = 5, 6  # cgroups
IN_POD, ON_HOST = 100, 200  # processes

Step = bytes | Batch | Callable[[], object] | None


STEP_NS = 2 * session.REORDER_NS


class Time(Clock):
    """One clock for everything, far from the times of the events."""

    def __init__(self) -> None:
        super().__init__(0)
        self.seconds = 1e6

    def now(self) -> int:
        self.seconds += 1e-4  # even the fastest turn takes some
        return int(self.seconds * 1e9)


class FakeBackend:
    """`script` holds what one read after the other finds: cells, nothing after having waited, or
    something that happens meanwhile. At its end `at_end` is called once."""

    name = "core"

    def __init__(self, time: Time) -> None:
        self.schemas: dict[int, Schema] = {
            records.kinds()[name]: schema for name, schema in records.schemas().items()
        }
        self.attached: dict[str, AttachPoint] = {}
        self.walked = False
        self.unseen: dict[str, int] = {}
        self.settings: dict[str, int] = {}
        self.selected: list[tuple[int, int]] = []
        self.pids: list[int] = []
        self.script: Iterator[Step] = iter(())
        self.left_in_the_ring: list[bytes] = []
        self.counts: dict[str, int] = {}
        self.calls: list[str] = []
        self.bytes_read = 0
        self.at_end: Callable[[], object] = lambda: None
        self._time = time

    def attach(self, probes: list[Probe], settings: dict[str, int]) -> None:
        self.calls.append("attach")
        self.settings = settings

    def select(self, cgroup: int, verdict: int) -> None:
        self.selected.append((cgroup, verdict))

    def trace_pid(self, pid: int) -> None:
        self.pids.append(pid)

    def read(self, timeout: float) -> Batch | None:
        if "detach" in self.calls:
            step: Step = self.left_in_the_ring.pop(0) if self.left_in_the_ring else None
        else:
            step = self._next()
        if step is None:
            self._time.seconds += timeout
            return None
        batch = step if isinstance(step, Batch) else split(cast(bytes, step))[0]
        self.bytes_read += len(batch.data)
        return batch

    def _next(self) -> Step:
        for step in self.script:
            if not callable(step):
                return step
            step()
        self.at_end()
        return None

    def wake(self) -> None:
        self.calls.append("wake")

    def lost(self) -> dict[str, int]:
        return dict(self.counts)

    def cost(self) -> Cost:
        return Cost()

    def detach(self) -> None:
        self.calls.append("detach")

    def close(self) -> None:
        self.calls.append("close")


class FakeNames:
    """A name service whose sources answer when the test wants them to."""

    def __init__(self) -> None:
        self.tickets = 0
        self.settled = 0
        self.stopped = False
        self.on_done: Callable[[], object] = lambda: None

    def refresh(self) -> int:
        self.tickets += 1
        return self.tickets

    def done(self, ticket: int) -> bool:
        self.on_done()
        return ticket <= self.settled

    def stop(self) -> None:
        self.stopped = True


class Arrivals(name_service.Arrivals):
    """Waiting in vain takes no real time."""

    time: Time

    def get(self, block: bool = True, timeout: float | None = None) -> Names:
        if timeout is not None and self.empty():
            self.time.seconds += timeout
            raise queue.Empty
        return super().get(block=False)


class Sink:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.waiting = 0
        self.on_event: Callable[[Event], object] = lambda event: None

    def event(self, event: Event) -> None:
        self.events.append(event)
        self.waiting += 1
        self.on_event(event)

    def flush(self) -> None:
        self.waiting = 0


class PatientSink(Sink):
    def __init__(self) -> None:
        super().__init__()
        self.late: list[Event] = []

    def undecided(self, event: Event) -> None:
        self.late.append(event)

    def decided(self) -> tuple[int, int]:
        return 2, 1


class World:
    """A session and everything around it."""

    def __init__(self, time: Time, selection: Selection, probes: list[Probe]) -> None:
        self.time = time
        self.backend = FakeBackend(time)
        self.names = FakeNames()
        self.arrivals = Arrivals()
        self.arrivals.time = time
        self.sink: Any = Sink()
        self.backend.at_end = self.stop
        self.frugal = False
        self._selection = selection
        self._probes = probes

    def run(
        self, *script: Step, duration: float | None = None, count: int | None = None
    ) -> Summary:
        self.backend.script = itertools.chain(self.backend.script, script)
        self.start(duration=duration, count=count)
        return self.session.run()

    def start(
        self,
        settings: dict[str, int] | None = None,
        duration: float | None = None,
        count: int | None = None,
    ) -> None:
        names = cast(NameService, self.names)
        self.source = LiveSource(
            *(self.backend, names, self.arrivals, self.time),
            duration=duration,
            frugal=self.frugal,
        )
        self.session = Session(
            self.source, self._probes, self._selection, self.sink, self.time, count
        )
        chosen = of_selection(self._selection) | (settings or {})
        self.backend.attach(self._probes, chosen)
        self.source.attached(self._selection)
        for first in self.source.begin():
            self.session.take(first)

    def stop(self) -> None:
        self.session.stop()

    @property
    def shown(self) -> list[int]:
        """The numbers of the events."""
        return [numbered(event) for event in self.sink.events if event.kind != "lost"]

    @property
    def lost(self) -> list[LostBody]:
        return [event.body for event in self.sink.events if is_loss(event)]

    def names_come(self, names: Names = NAMED) -> Callable[[], object]:
        return lambda: self.arrivals.put(names)

    def sources_answer(self) -> None:
        self.names.settled = self.names.tickets

    def sources_know_nobody(self) -> None:
        """Whatever will be asked is answered at once, with nothing."""
        self.names.settled = 1 << 60


Make = Callable[..., World]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Make:
    time = Time()
    monkeypatch.setattr(live, "container_cgroups", lambda: [])

    def make(selection: Selection | None = None, given: list[Probe] | None = None) -> World:
        both = given or [probes.get("signals"), probes.get("exits")]
        return World(time, selection or Selection(everything=True), both)

    return make


# Records


def context() -> bytes:
    """Two cgroups and a process in each, as they stand before the first event."""
    return records.cells(
        [
            records.pack("cgroup", cgroup=POD, **cgroup_path(PATH)),
            records.pack("cgroup", cgroup=HOST, **cgroup_path("/user.slice")),
            records.pack("process", process=IN_POD, pid=10, tid=10, cgroup=POD, comm=b"nginx"),
            records.pack(
                "process",
                process=ON_HOST,
                pid=20,
                tid=20,
                cgroup=HOST,
                comm=b"pkill",
                **exe("/usr/bin/pkill"),
                **argv("pkill", "nginx"),
            ),
        ]
    )


def numbered(event: Event) -> int:
    number, rest = divmod(event.boot_ns, STEP_NS)
    assert rest == 0
    return number


def signal(number: int, target: int = IN_POD, sender: int = ON_HOST) -> bytes:
    values = {"target_process": target, "target_pid": 10, "target_tid": 10}
    values |= {"sender_process": sender, "sender_pid": 20, "sender_tid": 20, "signal": 9}
    return records.pack("signal", time=number * STEP_NS, **values)


def exit_(number: int, process: int = IN_POD) -> bytes:
    return records.pack("exit", time=number * STEP_NS, process_process=process, status=9)


def signals(*numbers: int, **sides: int) -> bytes:
    return records.cells(signal(number, **sides) for number in numbers)


# From the ring to the sink


def test_events_come_out_in_the_order_of_the_ring(world: Make) -> None:
    w = world()
    makers: list[Callable[[int], bytes]] = [signal, signal, exit_, signal, exit_, exit_]
    kinds = itertools.cycle(makers)
    numbers = range(1, 400)
    made = [next(kinds)(number) for number in numbers]
    batches = [records.cells(made[at : at + 37]) for at in range(0, len(made), 37)]
    summary = w.run(context(), *batches)
    assert w.shown == list(numbers)
    assert (summary.events, summary.lost, summary.nameless) == (399, 0, 0)


def test_long_runs_are_worked_off_in_slices_and_stay_whole(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SLICE", 7)
    w = world()
    first = context() + signals(*range(1, 51)) + records.cells(map(exit_, range(51, 71)))
    w.run(first, signals(*range(71, 100)), None, signals(100))
    assert w.shown == list(range(1, 101))


def at(nanoseconds: int) -> bytes:
    values = {"target_process": ON_HOST, "sender_process": ON_HOST, "signal": 15}
    return records.cells([records.pack("signal", time=nanoseconds, **values)])


def times(w: World) -> list[int]:
    return [event.boot_ns for event in w.sink.events]


def test_neighbours_that_are_swapped_come_out_in_time_order(world: Make) -> None:
    """Two CPUs write side by side: the record that was begun first may have the later time."""
    w = world()
    w.run(context() + at(1300) + at(1100) + at(1200), at(1250), at(9_000_000), at(8_900_000), None)
    assert times(w) == [1100, 1200, 1250, 1300, 8_900_000, 9_000_000]


def test_the_last_millisecond_waits_for_what_may_come_before_it(world: Make) -> None:
    w = world()
    now = w.time.now() + 10_000_000
    w.run(context() + at(now - 50_000_000) + at(now), None, at(now - 10), *[None] * 5)
    assert times(w) == [now - 50_000_000, now - 10, now]


def test_the_last_millisecond_is_not_forgotten_at_the_end(world: Make) -> None:
    w = world()
    now = w.time.now() + 3_600_000_000_000
    w.backend.left_in_the_ring = [at(now), at(now - 10)]
    w.run(context())
    assert times(w) == [now - 10, now]


def test_a_quiet_node_does_not_hold_back_its_only_event(world: Make) -> None:
    w = world()
    now = w.time.now()
    waited: list[int] = []
    w.sink.on_event = lambda event: waited.append(w.time.now() - now)
    w.run(context() + at(now), *[None] * 10)
    assert len(waited) == 1
    assert waited[0] < 100_000_000


def test_a_record_may_be_kept_for_a_later_one(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = probes.get("signals")

    def decoder(stream: Stream) -> dict[str, Decode]:
        decode = whole.decoder(stream)["signal"]
        return {"signal": lambda r: None if r.time // STEP_NS % 2 else decode(r)}

    even = dataclasses.replace(whole, decoder=decoder, repeating=frozenset())
    monkeypatch.setattr(session, "NAME_SECONDS", 0.0)
    w = world(given=[even, probes.get("exits")])
    summary = w.run(context() + signals(1, 2, 3, 4))
    assert w.shown == [2, 4]
    assert summary.events == 2


def test_an_event_says_who_and_what(world: Make) -> None:
    w = world()
    w.run(context() + signals(1) + records.cells([exit_(2)]))
    killed, ended = w.sink.events
    assert (killed.kind, ended.kind) == ("signal", "exit")
    assert killed.about is not None
    assert killed.by is not None
    assert (killed.about.comm, killed.by.comm, killed.by.argv) == (
        "nginx",
        "pkill",
        ["pkill", "nginx"],
    )
    assert killed.body["origin"] == "host"
    assert ended.about is killed.about


def test_a_kernel_without_a_description_still_tells_the_numbers(world: Make) -> None:
    w = world()
    w.run(signals(1))
    (event,) = w.sink.events
    assert event.about is not None
    assert (event.about.pid, event.about.comm) == (10, None)


def test_what_is_shown_is_flushed_before_waiting(world: Make) -> None:
    w = world()
    w.sources_know_nobody()
    waiting: list[tuple[int, int]] = []
    look = lambda: waiting.append((len(w.shown), w.sink.waiting))  # noqa: E731
    w.run(context() + signals(1), None, None, look, signals(2), None, None, look)
    assert waiting == [(1, 0), (2, 0)]


# Start


@pytest.mark.parametrize(
    ("selection", "mode"),
    [
        (Selection(), Mode.EITHER),
        (Selection(everything=True), Mode.ALL),
        (Selection(pods=("web",)), Mode.TARGET),
        (Selection(sender_pods=("web",)), Mode.BOTH),
    ],
)
def test_the_kernel_side_is_told_the_mode(world: Make, selection: Selection, mode: Mode) -> None:
    w = world(selection)
    w.start({"kt_signal_mask": 256})
    number = shipped("context").numbers("kt_selection_mode")[mode.value]
    assert w.backend.settings == {"kt_mode": number, "kt_by_pid": 0, "kt_signal_mask": 256}


def test_the_kernel_side_is_told_the_pids(world: Make) -> None:
    w = world(Selection(pids=frozenset({7, 8})))
    w.start({})
    assert w.backend.settings["kt_by_pid"] == 1
    assert sorted(w.backend.pids) == [7, 8]


def test_cgroups_that_exist_are_known_from_the_start(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = world(Selection())

    def present() -> list[Cgroup]:
        assert w.backend.calls == ["attach"], "a cgroup made in between would be missed"
        return [Cgroup(POD, PATH, "", parse(PATH)), Cgroup(HOST, "/x", "", parse("/x"))]

    monkeypatch.setattr(live, "container_cgroups", present)
    w.start({})
    assert w.backend.selected == [(POD, BOTH_SIDES), (HOST, 0)]


def test_who_runs_already_in_what_is_traced_is_remembered(
    world: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    places = {POD: PATH, HOST: f"/docker/{CID}"}
    for cgroup in places:
        (tmp_path / str(cgroup)).mkdir()
        (tmp_path / str(cgroup) / "cgroup.procs").write_text(f"{cgroup}0\n{cgroup}1\n")
    present = [Cgroup(n, p, str(tmp_path / str(n)), parse(p)) for n, p in places.items()]
    monkeypatch.setattr(live, "container_cgroups", lambda: present)
    w = world(Selection())
    remembered: list[int] = []
    monkeypatch.setattr(Arguments, "remember", lambda _, pids: remembered.extend(pids))
    w.run()
    assert sorted(remembered) == [50, 51]


# The end


def test_stopping_shows_what_is_left_in_the_ring(world: Make) -> None:
    w = world()
    w.backend.left_in_the_ring = [signals(2, 3), signals(4)]
    summary = w.run(context() + signals(1))
    assert w.shown == [1, 2, 3, 4]
    assert summary.events == 4
    assert w.sink.waiting == 0
    assert w.backend.calls == ["attach", "wake", "detach", "close"]
    assert w.names.stopped


def test_stopping_works_off_the_backlog(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SLICE", 3)
    w = world()
    w.run(context() + signals(*range(1, 40)), w.stop, signals(*range(40, 50)))
    assert w.shown == list(range(1, 50))


def test_what_a_failing_backend_had_told_is_worked_off(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SLICE", 3)

    def fail() -> None:
        raise KtraceError("it broke")

    w = world()
    w.backend.left_in_the_ring = [signals(50)]
    with pytest.raises(KtraceError, match="it broke"):
        w.run(context() + signals(*range(1, 40)), signals(*range(40, 50)), fail, signals(51))
    assert w.shown == list(range(1, 51))
    assert w.backend.calls[-2:] == ["detach", "close"]


def test_duration(world: Make) -> None:
    w = world()
    w.backend.at_end = lambda: None
    before = w.time.seconds
    summary = w.run(context() + signals(1), duration=30.0)
    assert w.time.seconds - before == pytest.approx(30, abs=1)
    assert summary.seconds == pytest.approx(30, abs=1)
    assert w.shown == [1]


def test_count(world: Make) -> None:
    w = world()
    w.backend.left_in_the_ring = [signals(9)]
    summary = w.run(context() + signals(1, 2), signals(3, 4, 5), signals(6), None, count=3)
    assert w.shown == [1, 2, 3]
    assert summary.events == 3
    assert w.backend.calls[-1] == "close"


def test_the_last_event_that_was_asked_for_ends_the_session(world: Make) -> None:
    w = world()
    w.backend.at_end = lambda: None
    w.sources_know_nobody()
    before = w.time.seconds
    w.run(context() + signals(1, 2), duration=3600.0, count=2)
    assert w.time.seconds - before < 5


def test_count_is_of_events_that_are_wanted(world: Make) -> None:
    w = world(Selection())
    between = signals(1, target=ON_HOST) + signals(2) + signals(3, target=ON_HOST) + signals(4, 5)
    w.sources_answer()
    w.run(w.names_come(), context() + between, None, count=2)
    assert w.shown == [2, 4]


def test_everything_is_given_back_when_a_sink_fails(world: Make) -> None:
    w = world()

    def broken(event: Event) -> None:
        raise BrokenPipeError

    w.sink.on_event = broken
    with pytest.raises(BrokenPipeError):
        w.run(context() + signals(1))
    assert w.backend.calls[-1] == "close"
    assert w.names.stopped


# Lost events


def lose(w: World, **counts: int) -> Callable[[], None]:
    return lambda: w.backend.counts.update(counts)


def test_lost_events_are_reported_once(world: Make) -> None:
    w = world()
    summary = w.run(lose(w, signal=5), None, None, None, None, None)
    assert [(body["probe"], body["count"]) for body in w.lost] == [("signals", 5)]
    assert summary.lost == 5
    assert summary.events == 0


def test_each_report_has_what_is_new_of_each_probe(world: Make) -> None:
    w = world()
    steps: list[Step] = [lose(w, signal=5), None, None, None]
    steps += [lose(w, signal=7, exit=1), None, None, None]
    summary = w.run(*steps)
    found = [(body["probe"], body["count"]) for body in w.lost]
    assert found == [("signals", 5), ("signals", 2), ("exits", 1)]
    assert summary.lost == 8


def test_what_is_lost_at_the_very_end_is_reported(world: Make) -> None:
    w = world()
    summary = w.run(context() + signals(1), lose(w, signal=3))
    assert [body["count"] for body in w.lost] == [3]
    assert summary.lost == 3


def test_a_report_says_since_when(world: Make) -> None:
    w = world()
    w.run(lose(w, signal=1), None, None, None, lose(w, signal=2), None, None, None)
    events = [event for event in w.sink.events if is_loss(event)]
    assert len(events) == 2
    first, second = (w.time.iso(event.boot_ns) for event in events)
    assert events[0].body["since"] < first <= events[1].body["since"] < second


def test_freed_memory_is_given_back_every_ten_seconds(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []
    w = world(Selection())
    monkeypatch.setattr(heap, "give_back", lambda: given.append(w.time.seconds))
    start = w.time.seconds
    w.run(*[None] * 100)
    passed = w.time.seconds - start
    assert passed > 50
    assert passed / live.HEAP_SECONDS - 2 <= len(given) <= passed / live.HEAP_SECONDS + 2


def test_a_quiet_time_is_one_turn(world: Make) -> None:
    """As long as who asks has patience. The ring is looked at every second meanwhile, because two
    CPUs may each leave it to the other to wake the reader."""
    w = world()
    w.start()
    waited: list[float] = []
    w.backend.read = lambda timeout: waited.append(timeout)  # type: ignore[method-assign]
    turn = w.source.turn(False, 5.0)
    assert waited == [live.LOOK_SECONDS] * 5
    assert turn.empty
    waited.clear()
    w.source.turn(True, 5.0)
    assert waited == [live.WAITING_SECONDS], "events that wait have no patience"


@pytest.mark.parametrize("what", ["records", "names", "an answer", "facts", "an end"])
def test_a_quiet_time_ends_with_what_comes(world: Make, what: str) -> None:
    w = world()
    w.start()
    reads = 0
    told: list[Fact] = []
    w.source._facts = lambda: [told.pop()] if told else []
    w.source.ask(7)
    fact = KubeEvent("uid", "Killing", "stopping")

    def read(timeout: float) -> Batch | None:
        nonlocal reads
        reads += 1
        if reads == 2:
            if what == "records":
                return split(context())[0]
            happens = {
                "names": w.names_come(),
                "an answer": w.sources_answer,
                "facts": lambda: told.append(fact),
                "an end": w.stop,
            }
            happens[what]()
        return None

    w.backend.read = read  # type: ignore[method-assign]
    turn = w.source.turn(False, 60.0)
    assert reads == 2 + (what == "records")
    assert bool(turn.parts) == (what == "records")
    assert bool(turn.names.pods) == (what == "names")
    assert list(turn.answered) == ([7] if what == "an answer" else [])
    assert list(turn.facts) == ([fact] if what == "facts" else [])
    assert w.source.turn(False, 0).facts == [], "and nothing is told twice"


def test_lost_reports_do_not_count_as_events(world: Make) -> None:
    w = world()
    w.run(lose(w, signal=1), None, None, None, context() + signals(1, 2, 3), None, count=2)
    assert w.shown == [1, 2]
    assert len(w.lost) == 1


# Waiting for names


def names_of(w: World) -> list[str | None]:
    pods = [event.about.pod for event in w.sink.events if event.about]
    return [pod.name if pod else None for pod in pods]


def test_an_event_waits_for_the_name_that_is_being_asked_for(world: Make) -> None:
    w = world(Selection())
    seen: list[int] = []
    w.run(
        context() + signals(1, 2),
        None,
        lambda: seen.append(len(w.shown)),
        w.names_come(),
        None,
        lambda: seen.append(len(w.shown)),
        None,
    )
    assert seen == [0, 2]
    assert names_of(w) == ["web-0", "web-0"]
    assert w.names.tickets == 1


def test_what_follows_waits_too_so_that_the_order_stays(world: Make) -> None:
    w = world()
    host_to_host = {"target": ON_HOST}
    seen: list[list[int]] = []
    w.run(
        context() + signals(1, **host_to_host) + signals(2) + signals(3, **host_to_host),
        None,
        lambda: seen.append(w.shown),
        w.names_come(),
        None,
    )
    assert seen == [[1]]
    assert w.shown == [1, 2, 3]


def in_no_pod() -> bytes:
    """A container of podman's, and a process in it."""
    described = records.pack("cgroup", cgroup=POD, **cgroup_path(f"/machine/libpod-{CID}"))
    process = records.pack("process", process=IN_POD, pid=10, tid=10, cgroup=POD, comm=b"nginx")
    return records.cells([described, process])


def test_the_name_of_a_container_in_no_pod_is_asked_for_and_waited_for(world: Make) -> None:
    w = world(Selection(without_pods=True))
    named = Names({}, {CID: Container(CID, "podman", "web")})
    seen: list[int] = []
    w.run(
        in_no_pod() + signals(1),
        None,
        lambda: seen.append(len(w.shown)),
        w.names_come(named),
        None,
    )
    assert seen == [0]
    assert w.shown == [1]
    assert w.names.tickets == 1


def test_a_runtime_that_tells_of_a_pod_changes_the_decision(world: Make) -> None:
    w = world(Selection(pods=("shop",)))
    pod = Pod("d6701ec289c5", "", "shop")
    named = Names({pod.uid: pod}, {CID: Container(CID, "podman", "web", pod.uid)})
    w.run(in_no_pod(), None, w.names_come(named), None, signals(1), None)
    assert w.backend.selected == [(POD, AS_SENDER), (POD, BOTH_SIDES)]
    assert w.shown == [1]


def test_a_sender_is_waited_for_as_well(world: Make) -> None:
    w = world()
    seen: list[int] = []
    w.run(
        context() + signals(1, target=ON_HOST, sender=IN_POD),
        None,
        lambda: seen.append(len(w.shown)),
        w.names_come(),
        None,
    )
    assert seen == [0]
    assert w.shown == [1]


def test_an_event_is_shown_without_a_name_when_the_time_is_up(world: Make) -> None:
    w = world(Selection())
    when: list[float] = []
    w.sink.on_event = lambda event: when.append(w.time.seconds)
    start = w.time.seconds
    w.run(context() + signals(1), *[None] * 200)
    assert names_of(w) == [None]
    assert when[0] - start == pytest.approx(turn.NAME_SECONDS, abs=0.1)


def test_an_event_is_shown_without_a_name_when_nobody_knows_it(world: Make) -> None:
    w = world(Selection())
    seen: list[int] = []
    w.run(
        context() + signals(1),
        None,
        w.sources_answer,
        None,
        lambda: seen.append(len(w.shown)),
        None,
    )
    assert seen == [1]
    assert names_of(w) == [None]


def test_a_name_that_comes_with_the_answer_is_not_missed(world: Make) -> None:
    """The service puts the names into the queue, then says that it is done. Both may happen after
    the queue was looked at."""
    w = world(Selection(pods=("web-0",)))

    def answer() -> None:
        if w.names.settled < w.names.tickets:
            w.arrivals.put(NAMED)
            w.sources_answer()

    w.names.on_done = answer
    summary = w.run(context() + signals(1), None, None)
    assert names_of(w) == ["web-0"]
    assert summary.nameless == 0


def test_not_too_many_events_wait(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_HELD", 10)
    w = world(Selection())
    seen: list[list[int]] = []
    w.run(
        context() + signals(*range(1, 31)),
        None,
        lambda: seen.append(w.shown),
        w.names_come(),
        None,
    )
    assert seen == [list(range(1, 21))]
    assert w.shown == list(range(1, 31))


def test_waiting_events_are_shown_at_the_end(world: Make) -> None:
    w = world(Selection())
    w.run(context() + signals(1, 2))
    assert w.shown == [1, 2]
    assert names_of(w) == [None, None]


def test_a_name_that_comes_at_the_end_is_used(world: Make) -> None:
    w = world(Selection())

    def end() -> None:
        w.session.stop()
        w.arrivals.put(NAMED)

    w.backend.at_end = end
    w.run(context() + signals(1))
    assert names_of(w) == ["web-0"]


def test_count_holds_for_events_that_waited(world: Make) -> None:
    w = world(Selection())
    w.run(context() + signals(1, 2, 3, 4), None, w.names_come(), None, None, count=2)
    assert w.shown == [1, 2]
    w = world(Selection())
    w.run(context() + signals(1, 2, 3, 4), count=3)
    assert w.shown == [1, 2, 3]


# Deciding on cgroups


def test_the_kernel_side_is_told_as_soon_as_names_allow(world: Make) -> None:
    w = world(Selection(pods=("web-0",)))
    seen: list[list[tuple[int, int]]] = []
    w.run(context(), None, lambda: seen.append(list(w.backend.selected)), w.names_come(), None)
    assert seen == [[(HOST, AS_SENDER)]]
    assert w.backend.selected == [(HOST, AS_SENDER), (POD, BOTH_SIDES)]


def test_a_pod_that_turns_out_to_be_another_is_no_longer_traced(world: Make) -> None:
    w = world(Selection(pods=("web-0",)))
    summary = w.run(context() + signals(1), None, w.names_come(OTHER), None)
    assert w.backend.selected[-1] == (POD, AS_SENDER)
    assert w.shown == []
    assert summary.nameless == 0


def test_names_that_are_late_still_decide(world: Make) -> None:
    w = world(Selection(pods=("web-0",)))
    late = [None] * 100
    summary = w.run(context() + signals(1), *late, w.names_come(), None, signals(2), None)
    assert w.backend.selected[-1] == (POD, BOTH_SIDES)
    assert w.shown == [2]
    assert (summary.events, summary.nameless) == (1, 1)


def test_a_sink_may_keep_what_names_decide_on_later(world: Make) -> None:
    """It says in the end on how many events they have decided."""
    w = world(Selection(pods=("web-0",)))
    w.sink = PatientSink()
    late = [None] * 100
    summary = w.run(context() + signals(1, 2, 3), *late, w.names_come(), None, signals(4), None)
    assert w.shown == [4]
    assert [numbered(event) for event in w.sink.late] == [1, 2, 3]
    assert (summary.events, summary.nameless) == (3, 0)


@pytest.mark.parametrize(
    "selected", [{}, {"labels": (("tier", "front"),)}, {"pods": ("deploy/web",)}]
)
def test_labels_are_waited_for(world: Make, selected: dict[str, Any]) -> None:
    """Log directories tell names and know no labels."""
    name, labels = "web-67768f46c4-sxdwg", {"tier": "front", "pod-template-hash": "67768f46c4"}
    container = Container(CID, "containerd", "nginx")
    unlabelled = Names({UID: Pod(UID, "shop", name)}, {CID: container})
    w = world(Selection(**selected))
    seen: list[int] = []
    summary = w.run(
        context() + signals(1),
        w.names_come(unlabelled),
        None,
        lambda: seen.append(len(w.shown)),
        w.names_come(Names({UID: Pod(UID, "shop", name, labels)}, {CID: container})),
        None,
    )
    assert seen == [0]
    assert w.shown == [1]
    (event,) = w.sink.events
    assert event.place and event.place.pod
    assert event.place.pod.labels == labels
    assert summary.nameless == 0


def test_a_pod_is_decided_once(world: Make) -> None:
    w = world(Selection(pods=("web-0",)))
    w.run(context(), None, w.names_come(), None, w.names_come(), None, w.names_come(), None)
    assert w.backend.selected == [(HOST, AS_SENDER), (POD, BOTH_SIDES)]


def test_what_the_kernel_side_has_forgotten_it_is_told_again(world: Make) -> None:
    """Its table is bounded. A cgroup that fell out of it is described once more."""
    w = world(Selection(pods=("web-0",)))
    w.run(w.names_come(), None, context(), None, context(), None)
    assert w.backend.selected == [(POD, BOTH_SIDES), (HOST, AS_SENDER)] * 2


def test_events_whose_name_never_comes_are_counted(world: Make) -> None:
    w = world(Selection(pods=("web-0",)))
    summary = w.run(context() + signals(1, 2, 3), *[None] * 100)
    assert w.shown == []
    assert (summary.events, summary.nameless) == (0, 3)


# What the last line counts


def test_what_was_not_described_is_counted_and_is_no_event(world: Make) -> None:
    w = world()
    steps: list[Step] = [lose(w, process=2, cgroup=1), None, None, None]
    steps += [lose(w, process=4, cgroup=1), None, None, None]
    summary = w.run(*steps)
    assert (summary.undescribed, summary.lost, w.lost) == (5, 0, [])


def test_records_that_cannot_be_decoded_cost_no_others(world: Make) -> None:
    """Of each kind the decoder goes on behind them."""
    signals_ = probes.get("signals")

    def decoder(stream: Stream) -> dict[str, Decode]:
        decode = signals_.decoder(stream)["signal"]

        def careful(record: Any) -> Event | None:
            if not record.signal:
                raise ValueError("no signal")
            return decode(record)

        return {"signal": careful}

    given = dataclasses.replace(signals_, decoder=decoder, repeating=frozenset())
    w = world(given=[given])
    broken = [records.pack("signal", time=n * STEP_NS) for n in (2, 3, 5)]
    first = [records.cells(broken[:2]), signals(4), records.cells(broken[2:])]
    summary = w.run(context() + signals(1) + b"".join(first), signals(6))
    assert w.shown == [1, 4, 6]
    assert (summary.events, summary.undecoded) == (3, 3)


def test_records_of_no_probe_are_counted(world: Make) -> None:
    w = world(given=[probes.get("signals")])
    exits = records.cells([exit_(2), exit_(3)])
    summary = w.run(context() + signals(1) + exits, records.cells([exit_(4)]))
    assert (w.shown, summary.undecoded) == ([1], 3)


def test_who_stops_it_is_told_so(world: Make) -> None:
    w = world()
    w.start()
    assert not w.session.stopping
    w.session.stop()
    assert w.session.stopping is True
    assert w.session.run().events == 0


def test_the_recorder_gets_every_turn(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """And whether something waited when it began."""
    noted: list[tuple[turn.Turn, bool]] = []

    class Noting:
        def add(self, turn: turn.Turn, waited: bool, resolver: Any) -> None:
            assert resolver is w.session.resolver
            noted.append((turn, waited))

        def patience(self, now: int) -> float:
            return 0.5

    w = world()
    w.start()
    w.session.recorder = Noting()
    taken: list[turn.Turn] = []
    take = w.session._learn

    def learn(given: turn.Turn) -> None:
        taken.append(given)
        take(given)

    monkeypatch.setattr(w.session, "_learn", learn)
    w.backend.script = iter([context() + signals(1), None, None])
    w.session.run()
    assert [given for given, _ in noted] == taken
    assert [waited for _, waited in noted[:2]] == [False, True]


def test_without_a_sink_events_are_counted(world: Make) -> None:
    w = world()
    w.start()
    w.session = Session(w.source, [probes.get("signals")], Selection(everything=True), None, w.time)
    w.backend.script = iter([context() + signals(1, 2), records.cells([exit_(3)]) + signals(4)])
    summary = w.session.run()
    assert (summary.events, summary.undecoded) == (3, 0)


# The backlog


def test_the_backlog_is_bounded(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storm that lasts stays in the kernel's ring, and is counted there if there is no room."""
    monkeypatch.setattr(live, "MAX_BACKLOG_BYTES", 100_000)
    monkeypatch.setattr(live, "SLICE", 64)
    w = world()
    w.sources_know_nobody()
    size = len(signals(1))
    ahead: list[int] = []
    w.sink.on_event = lambda event: ahead.append(w.backend.bytes_read - numbered(event) * size)
    w.run(context(), *(signals(*range(at, at + 100)) for at in range(1, 20_001, 100)))
    assert w.shown == list(range(1, 20_001))
    assert 90_000 < max(ahead) < 100_000 + 100 * size + len(context())


def test_a_frugal_turn_is_small(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes: what is made of it takes several times as much for a moment."""
    size = len(signals(1))
    monkeypatch.setattr(live, "FRUGAL_SLICE_BYTES", 10 * size)
    w = world()
    w.sources_know_nobody()
    w.frugal = True
    taken: list[int] = []
    take = live.LiveSource._take

    def noted(source: live.LiveSource) -> list[Part]:
        parts = take(source)
        taken.append(sum(len(part.cells) for part in parts))
        return parts

    monkeypatch.setattr(live.LiveSource, "_take", noted)
    w.run(context(), signals(*range(1, 101)), signals(*range(101, 104)))
    assert w.shown == list(range(1, 104))
    assert taken.count(10 * size) == 10, "a record of context that is larger is a turn of its own"


@pytest.mark.timeout(30)
def test_batches_without_records_take_no_room(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring may hold nothing but cells that were given up."""
    monkeypatch.setattr(live, "MAX_BACKLOG_BYTES", 10_000)
    w = world()
    discarded = bytearray(signals(1))
    discarded[3] |= DISCARDED >> 24
    assert len(discarded) > HEADER
    script: list[Step] = [context(), None]
    script += [split(bytes(discarded) * 50)[0], None] * 10
    w.run(*script, signals(1), duration=20)
    assert w.shown == [1]
