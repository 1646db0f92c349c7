# SPDX-License-Identifier: Apache-2.0
"""Like records are decoded once and grouped together; nothing may tell that from decoding each."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, cast

import pytest

from tests.unit.recording.test_recording import Script
from tests.unit.records import argv, cgroup_path, exe, kinds, pack, record, schemas
from tracer import probes
from tracer.identity import resolver as resolver_module
from tracer.identity.resolver import Resolver
from tracer.model.batch import cell
from tracer.model.event import Clock, Event, to_json
from tracer.model.names import Container, Names, Pod
from tracer.model.selection import Selection
from tracer.model.turn import Part, Turn
from tracer.probes import Stream
from tracer.session import patterns as module
from tracer.session.patterns import MAX_PATTERNS, Patterns, Sighting
from tracer.session.session import Session
from tracer.why.engine import explain_all
from tracer.why.render import to_event
from tracer.why.timelines import Timelines

CLOCK = Clock(0)
MS = 1_000_000
PODS, PROCESSES = 4, 6
SIGNALS = (9, 10, 15, 17)


class Eachs:
    """A sink that takes single events only."""

    def __init__(self, timelines: Timelines | None = None) -> None:
        self.lines: list[bytes] = []
        self._timelines = timelines

    def event(self, event: Event) -> None:
        self.lines.append(to_json(event, CLOCK, "node"))
        if self._timelines:
            self._timelines.event(event)

    def flush(self) -> None: ...


class Node:
    """Four pods whose processes do anything: the same things again and again, but also what changes
    the meaning of a record."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.now = 1_000 * MS
        self.references = 100
        self.processes: dict[int, list[tuple[int, int]]] = {}  # reference and pid, by pod

    def turns(self) -> Iterator[Turn]:
        yield self.turn([("cgroup", self.cgroup(pod)) for pod in range(PODS)])
        yield self.turn([one for pod in range(PODS) for one in self.container(pod)])
        for _ in range(40):
            records = [self.anything() for _ in range(60)]
            self.choose.shuffle(records)  # neighbours are swapped
            yield self.turn([one for some in records for one in some], self.names())
        yield Turn(self.now, last=True)

    def turn(self, records: list[tuple[str, bytes]], names: Names | None = None) -> Turn:
        parts: list[Part] = []
        for name, raw in records:
            if parts and parts[-1].kind == kinds()[name]:
                parts[-1].count += 1
                parts[-1].cells = bytes(parts[-1].cells) + cell(raw)
            else:
                parts.append(Part(kinds()[name], 1, cell(raw)))
        return Turn(self.now, parts, names=names or Names())

    def time(self) -> int:
        self.now += self.choose.choice((0, 1_000, MS))
        return self.now

    def cgroup(self, pod: int) -> bytes:
        path = cgroup_path(f"/kubepods/pod{uid(pod)}/{container(pod)}")
        return pack("cgroup", time=self.time(), cgroup=10 + pod, **path)

    def container(self, pod: int) -> list[tuple[str, bytes]]:
        self.processes[pod] = []
        return [("process", self.process(pod, number)) for number in range(PROCESSES)]

    def process(self, pod: int, number: int, reference: int | None = None) -> bytes:
        if reference is None:
            self.references += 1
            reference = self.references
            self.processes[pod].append((reference, 1000 * (pod + 1) + number))
        pid = 1000 * (pod + 1) + number
        what = {"process": reference, "pid": pid, "tid": pid, "pid_in_pod": number + 1}
        where = {"cgroup": 10 + pod, "pid_level": 1, "start": reference}
        comm = b"worker" if number else b"init"
        said = {**exe("/bin/worker"), **argv("worker", str(reference))}
        return pack("process", time=self.time(), comm=comm, **what, **where, **said)

    def names(self) -> Names:
        names = Names()
        if self.choose.random() < 0.2:
            pod = self.choose.randrange(PODS)
            names.pods[uid(pod)] = Pod(uid(pod), "shop", f"web-{pod}", {})
            init = self.choose.choice((None, self.processes[pod][0][1]))
            names.containers[container(pod)] = Container(
                container(pod), "containerd", "app", uid(pod), init
            )
        return names

    def anything(self) -> list[tuple[str, bytes]]:
        pod, what = self.choose.randrange(PODS), self.choose.random()
        if what < 0.01:  # known numbers, another process
            reference, _ = self.choose.choice(self.processes[pod])
            return [("process", self.process(pod, self.choose.randrange(PROCESSES), reference))]
        if what < 0.02:
            return [("process", self.process(pod, self.choose.randrange(1, PROCESSES)))]
        if what < 0.025:
            return [("cgroup_end", pack("cgroup_end", time=self.time(), cgroup=10 + pod))]
        if what < 0.03:
            return [("cgroup", self.cgroup(pod))]
        if what < 0.2:
            return [("exit", self.exit(pod))]
        return [("signal", self.signal(pod))]

    def exit(self, pod: int) -> bytes:
        first = self.choose.random() < 0.02
        reference, pid = (
            self.processes[pod][0] if first else self.choose.choice(self.processes[pod])
        )
        who = {"process_process": reference, "process_pid": pid, "process_tid": pid}
        return pack("exit", time=self.time(), status=self.choose.choice((0, 256, 9)), **who)

    def signal(self, pod: int) -> bytes:
        there = pod if self.choose.random() < 0.9 else self.choose.randrange(PODS)
        (target, pid), (sender, by) = (
            self.choose.choice(self.processes[one]) for one in (pod, there)
        )
        unknown = self.choose.random() < 0.02
        return pack(
            "signal",
            **{"time": self.time(), "cpu": self.choose.randrange(2)},
            **{"target_process": 99_999 if unknown else target, "target_pid": pid},
            **{"sender_process": sender, "sender_pid": by, "target_tid": pid, "sender_tid": by},
            **{"signal": self.choose.choice(SIGNALS), "result": self.choose.choice((0, 0, 1))},
            **{"target_state": self.choose.choice((1, 1, 77))},
        )


def uid(pod: int) -> str:
    return f"{pod:08x}-0000-4000-8000-000000000000"


def container(pod: int) -> str:
    return f"{pod:064x}"


def play(seed: int, sink: Any, selection: Selection, patterns: int) -> Any:
    """The session's last line, with what it said to the sink."""
    source: Any = Script(list(Node(seed).turns()))
    source.schemas = {kinds()[name]: schema for name, schema in schemas().items()}
    told = [probes.get("signals"), probes.get("exits")]
    session = Session(source, told, selection, sink, CLOCK, patterns=patterns)
    return session.run()


def told(timelines: Timelines) -> list[Any]:
    """Everything that a verdict could rest on, and the verdicts."""
    stories = timelines.stories()
    entries = [
        (
            *(to_json(event, CLOCK, "") for event in (entry.event, entry.last)),
            *(entry.count, entry.gaps, entry.boot_ns, entry.last_ns, entry.size),
        )
        for story in stories
        for entry in story.entries
    ]
    rest = [(story.left_out, story.losses, story.until_ns()) for story in stories]
    verdicts = [to_json(to_event(one, CLOCK), CLOCK, "") for one in explain_all(stories)]
    return [entries, rest, verdicts, timelines.events, timelines.forgotten]


@pytest.mark.parametrize("most", [100_000, 256 << 20], ids=["crowded", "roomy"])
@pytest.mark.parametrize("everything", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_grouping_together_tells_what_single_events_tell(
    seed: int, everything: bool, most: int
) -> None:
    selection = Selection(everything=everything)
    alone, together = (Timelines(CLOCK, 0, most=most) for _ in range(2))
    assert play(seed, Eachs(alone), selection, 0) == play(seed, together, selection, MAX_PATTERNS)
    assert told(alone) == told(together)
    assert len(told(together)[0]) > 10


class Together(Eachs):
    """A sink that takes like events together."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[int] = []

    def sightings(self, sightings: list[Sighting]) -> None:
        self.taken.append(len(sightings))
        for boot_ns, pattern in sightings:
            self.event(pattern.at(boot_ns))


def three_pods() -> Iterator[Turn]:
    """Of the third nobody knows a name. What happens in them happens three times."""
    node = Node(1)
    for pod in range(3):
        parts = [("cgroup", node.cgroup(pod)), *node.container(pod)]
        yield node.turn(parts)
    names = Names()
    for pod in range(2):
        named, id = Pod(uid(pod), "shop", f"web-{pod}", {}), container(pod)
        names.pods[uid(pod)] = named
        names.containers[id] = Container(id, "containerd", "app", uid(pod))
    answered = Turn(node.now, names=names, answered=(10, 11, 12))
    yield answered
    for _ in range(3):
        yield node.turn(
            [("signal", killed(node, pod, number)) for number in (9, 15) for pod in (0, 1, 2)]
        )
    yield Turn(node.now + MS, last=True)


def killed(node: Node, pod: int, number: int) -> bytes:
    reference, pid = node.processes[pod][0]
    node.now += 3 * MS
    whose = {"target_process": reference, "target_pid": pid, "target_tid": pid}
    return pack("signal", time=node.now, signal=number, from_kernel=1, **whose)


@pytest.mark.parametrize(
    ("selection", "count", "events", "nameless"),
    [
        (Selection(everything=True), None, 18, 0),
        (Selection(), None, 18, 0),
        (Selection(pods=("web-1",)), None, 6, 6),
        (Selection(pods=("web-?",)), None, 12, 6),
        (Selection(namespaces=("other",)), None, 0, 6),
        (Selection(everything=True), 5, 5, 0),
        (Selection(pods=("web-1",)), 4, 4, None),
        (Selection(everything=True), 18, 18, 0),
    ],
)
def test_what_is_wanted_is_taken_together(
    selection: Selection, count: int | None, events: int, nameless: int | None
) -> None:
    """As each by itself; and what is left out for lack of a name is counted."""
    summaries, sinks = [], [Eachs(), Together()]
    for sink in sinks:
        source: Any = Script(three_pods())
        source.schemas = {kinds()[name]: schema for name, schema in schemas().items()}
        session = Session(source, [probes.get("signals")], selection, sink, CLOCK, count)
        summaries.append(session.run())
        assert session.stopping is (count is not None)
    alone, together = sinks
    assert together.lines == alone.lines
    assert len(together.lines) == sum(cast(Together, together).taken) == events
    assert [summary.events for summary in summaries] == [events, events]
    if nameless is not None:
        assert [summary.nameless for summary in summaries] == [nameless, nameless]


def test_what_is_wanted_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each pattern, as long as nothing new is known."""
    asked: list[bool | None] = []
    wants = Selection.wants

    def counting(self: Selection, event: Event) -> bool | None:
        asked.append(wants(self, event))
        return asked[-1]

    monkeypatch.setattr(Selection, "wants", counting)
    source: Any = Script(three_pods())
    source.schemas = {kinds()[name]: schema for name, schema in schemas().items()}
    sink = Together()
    Session(source, [probes.get("signals")], Selection(pods=("web-?",)), sink, CLOCK).run()
    assert asked.count(True) == 4, "two signals to two pods"
    assert asked.count(None) == 6, "it may be known the next time"


@pytest.mark.parametrize("most", [0, 20 * module.PATTERN_BYTES, MAX_PATTERNS])
@pytest.mark.parametrize("seed", range(6))
def test_a_pattern_tells_what_its_record_tells(
    seed: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where processes are forgotten all the time."""
    monkeypatch.setattr(resolver_module, "MAX_PROCESSES", 12_000)
    each, same = Eachs(), Eachs()
    with monkeypatch.context() as without:
        without.setattr(Patterns, "hold", lambda *_: False)
        before = play(seed, each, Selection(everything=True), 0)
    assert before.unknown
    assert play(seed, same, Selection(everything=True), most) == before
    assert same.lines == each.lines


def test_an_event_at_another_time_differs_in_nothing_else() -> None:
    given = {field.name: object() for field in fields(Event)}
    event: Any = Event(**cast(Any, given))
    other = event.at(7)
    assert {name: getattr(other, name) for name in given} == {**given, "boot_ns": 7}


def resolver() -> Resolver:
    made = Resolver(lambda place: None)
    made.add_cgroup(record("cgroup", cgroup=1, **cgroup_path("/a")))
    made.add_process(record("process", process=7, pid=7, tid=7, comm=b"a", cgroup=1))
    return made


def signals(*numbers: int, reference: int = 7) -> Part:
    made = [pack("signal", target_process=reference, from_kernel=1, signal=n) for n in numbers]
    return Part(kinds()["signal"], len(made), b"".join(map(cell, made)))


def patterns_of(known: Resolver, most: int = MAX_PATTERNS) -> Patterns:
    decoders = probes.get("signals").decoder(Stream(known))
    patterns = Patterns(known, {"signal": decoders["signal"]}, most)
    assert patterns.hold(kinds()["signal"], schemas()["signal"])
    return patterns


def test_like_records_share_a_pattern() -> None:
    patterns = patterns_of(resolver())
    (_, one), (_, two), (_, other) = patterns.sightings([signals(9, 9, 15)])
    assert one is two is not other
    assert patterns.sightings([signals(9)])[0][1] is one


def test_a_process_without_a_description_has_no_pattern() -> None:
    patterns = patterns_of(resolver())
    (_, one), (_, two) = patterns.sightings([signals(9, 9, reference=8)])
    assert one is not two


def test_a_process_that_is_described_anew_has_new_patterns() -> None:
    known = resolver()
    patterns = patterns_of(known)
    ((_, before),) = patterns.sightings([signals(9)])
    known.add_process(record("process", process=7, pid=8, tid=8, comm=b"b", cgroup=1))
    ((_, after),) = patterns.sightings([signals(9)])
    pids = [pattern.event.about.pid for pattern in (before, after) if pattern.event.about]
    assert pids == [7, 8]


def test_patterns_are_bounded() -> None:
    most = 10
    patterns = patterns_of(resolver(), most * module.PATTERN_BYTES)
    for number in range(1, 60):
        patterns.sightings([signals(number)])
        assert sum(map(len, patterns._known.values())) <= most


def test_when_they_are_full_only_the_oldest_are_made_again() -> None:
    """Else a recording with a few more of them than there is room would decode almost each."""
    most = 2 * module.PARTS
    patterns = patterns_of(resolver(), most * module.PATTERN_BYTES)
    made = [patterns.sightings([signals(number)])[0][1] for number in range(1, most + 2)]
    for number, before in list(enumerate(made, 1))[2:]:
        assert patterns.sightings([signals(number)])[0][1] is before
    assert patterns.sightings([signals(1)])[0][1] is not made[0]
