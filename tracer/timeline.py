# SPDX-License-Identifier: Apache-2.0
"""One bounded timeline for each container: what matters of the events is kept, the rest is counted.

`Timelines` is a sink, so it does not know whether its events come from the kernel or from a
recording. Events that are alike (the same signal from the same sender, resets of the same port)
become one entry with a count. Entries are kept in groups, each with a bound of its own and the
newest in it, so that a storm of one sort cannot push out the rare event that explains an end. Of
resets nothing is left out: those of too many services are one entry.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from tracer.bounded import Table, keep, size_of
from tracer.connections import Connections, End, Seen, Sort, service
from tracer.event import Clock, Event, Place, Process
from tracer.executed import command_of, may_be_executed
from tracer.identity.netns import owner_of
from tracer.probes.exits import is_container_init

if TYPE_CHECKING:
    from tracer.identity.states import PodState
    from tracer.verdicts import Verdict

# In bytes, of all timelines: beside a node's work, and of a recording that somebody looks at.
MAX_LIVES, MAX_RECORDED = 10 << 20, 256 << 20
MAX_ALIKE = 16  # entries in one group
MAX_GROUPS = 64  # of one timeline
MAX_LOSSES = 1024
MAX_COMMANDS = 64  # of one timeline that the runtime executed
MAX_GAPS = 8  # between alike events
MAX_OTHERS = 16  # sorts of what was seen at the other ends of an entry's connections
FOLDED = "folded"  # what resets of all further services are alike in
# How far back before an end, or before the last thing that hurt, a lost event could have mattered.
WINDOW_NS = 60_000_000_000
# A kubelet probes once a second or less often, and each time a little earlier or later.
SHORTEST_PERIOD_NS, LATE_NS = 700_000_000, 500_000_000

# By so much a life may grow before all of it is weighed again.
WEIGHED_BYTES = 1024

SIGKILL = 9
ANY_PROBE = "any"  # of losses that were added up
# Without a handler these do nothing, or stop a process and let it go on.
HARMLESS = frozenset(
    ("SIGCHLD", "SIGURG", "SIGWINCH", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU")
)


@dataclass(slots=True, eq=False)
class Entry:
    """Events that are alike: the first one, the last one, and how many (for `backlog_drop` how many
    attempts to connect). `gaps` are the last times between them, where they may have a rhythm. Of
    resets `sort` is that of each, `others` what was seen at the other ends, `asked` whom the
    clients had asked where somebody else answered; `folded` says that they are of several services.
    An entry equals only itself. `size` is about how many bytes it takes."""

    event: Event
    last: Event
    count: int
    gaps: tuple[int, ...] = ()
    sort: Sort | None = None
    others: dict[Hashable, OtherEnd] = field(default_factory=dict)
    asked: End | None = None
    folded: bool = False
    size: int = 0

    @property
    def boot_ns(self) -> int:
        return self.event.boot_ns

    @property
    def body(self) -> dict[str, Any]:
        return self.event.body

    @property
    def period_ns(self) -> int | None:
        """After how long they come again, if that is regular and no faster than a kubelet probes.
        Now and then one may be late."""
        if len(self.gaps) < 2:
            return None
        period = sorted(self.gaps)[len(self.gaps) // 2]
        near = [gap for gap in self.gaps if abs(gap - period) <= max(period // 4, LATE_NS)]
        regular = len(near) * 3 >= len(self.gaps) * 2
        return period if regular and period >= SHORTEST_PERIOD_NS else None

    def meet(self, own: Seen, other: Seen) -> None:
        """One of its resets was seen at the other end, too."""
        place = other.event.place
        sort = other.sort, other.event.body["meaning"]
        key = (*sort, owner_of(place) if place else None)
        if key not in self.others and len(self.others) >= MAX_OTHERS:
            key = (*sort, None)
        count = self.others[key].count if key in self.others else 0
        self.others[key] = OtherEnd(own.event, other.event, other.sort, count + 1)


@dataclass(frozen=True, slots=True)
class OtherEnd:
    """Resets that were seen at both ends: the last one as it was told here and there, of what sort
    it was there, and how many."""

    own: Event
    event: Event
    sort: Sort
    count: int


@dataclass(frozen=True, slots=True)
class Loss:
    """Events of a probe that were lost between two moments."""

    probe: str
    count: int
    since_ns: int
    until_ns: int


@dataclass(slots=True)
class Life:
    """What is kept of one container, from its start to its end, or of a pod as a whole, which is
    where events of its network belong. `left_out` counts events worth showing that no entry holds
    any more; `executed` says when commands that the runtime executes there ended last; `outlived`
    are the exits of those that the end took with it, and `survivors` the first of all processes
    that the kernel then killed. `entries_size` is that of the entries."""

    place: Place
    groups: dict[Hashable, dict[tuple[int, Hashable], Entry]] = field(default_factory=dict)
    end: Entry | None = None
    events: int = 0
    left_out: int = 0
    executed: dict[Hashable, int] = field(default_factory=dict)
    chapter: int = 0
    outlived: list[Event] = field(default_factory=list)
    survivors: list[Process] = field(default_factory=list)
    entries_size: int = 0
    weighed: int = 0  # the size of the entries when that was last made known

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        besides = sum(event.size for event in self.outlived)
        besides += sum(process.size for process in self.survivors) + size_of(self.executed)
        return 2000 + 500 * len(self.groups) + self.entries_size + besides

    def begin_chapter(self) -> None:
        """What comes is like nothing that came before: a container of the pod has ended."""
        self.chapter += 1

    def is_over(self, event: Event) -> bool:
        """Whether the container had ended before; not where its end is not known for certain."""
        end = self.end
        return end is not None and bool(end.body["container_exit"]) and event.boot_ns > end.boot_ns

    def outlive(self, event: Event) -> None:
        """A process that still ran when the container ended, and ends with it."""
        process = event.about
        if _is_last_kill(event) and process is not None and len(self.survivors) < MAX_ALIKE:
            self.survivors.append(process)
        if event.kind == "exit" and process is not None and may_be_executed(process):
            self.outlived = [*self.outlived, event][-MAX_ALIKE:]

    def add(
        self, group: Hashable, alike: Hashable, event: Event, count: int, fold: bool = False
    ) -> Entry:
        """With `fold` what finds no room of its own becomes one entry."""
        alike = (self.chapter, alike)
        entries = self.groups.get(group)
        if entries is None:
            entries = {}
            if len(self.groups) >= MAX_GROUPS:
                for oldest in self.groups.pop(next(iter(self.groups))).values():
                    self._leave_out(oldest)
            self.groups[group] = entries
        room = MAX_ALIKE - fold  # one is for all that find none
        full = len(entries) >= room and alike not in entries
        if fold and full and next(iter(entries))[0] == self.chapter:
            alike, room = (self.chapter, FOLDED), MAX_ALIKE
        known = entries.get(alike)
        if known is not None:
            if event.kind == "tcp_reset" and not known.folded:
                known.gaps = (*known.gaps, event.boot_ns - known.last.boot_ns)[-MAX_GAPS:]
            if known.last is known.event:  # from now on there are two
                self.entries_size += known.size
                known.size *= 2
            known.last = event
            known.count += count
            return known
        while len(entries) >= room:
            self._leave_out(entries.pop(next(iter(entries))))
        entry = entries[alike] = Entry(event, event, count, size=event.size)
        entry.folded = alike[1] == FOLDED
        self.entries_size += entry.size
        return entry

    def _leave_out(self, entry: Entry) -> None:
        self.left_out += _would_be_missed(entry)
        self.entries_size -= entry.size

    def entries(self) -> list[Entry]:
        """In the order of their first events."""
        every = (entry for group in self.groups.values() for entry in group.values() if entry.count)
        return sorted(every, key=attrgetter("boot_ns"))


@dataclass(slots=True)
class Story:
    """What a verdict is made from: one container's timeline, what happened to its pod meanwhile,
    and what the tracing itself missed.

    `traced` are the probes that ran, None if that is not known; `began_ns` is when tracing began.
    `earlier` are the ends of the same container's earlier lives, each with its verdict. `found` is
    what the less specific verdicts have said already, the most specific of them last. `message` is
    the runtime's on the end. `network` is what happened to the pod's network, also where that is
    not this container's alone; `outlived` and `survivors` as in `Life`. `state` is how a pod stands
    with its runtime in which nothing happens. `locate` says where a process crashed, in words, if
    anybody can tell; `refused_ns` is when the kernel log said that it was refused a process. With
    `both_ends` resets at the other end of a connection were seen, too, if that end is on this node;
    `ends` are those of a pod's one container, whichever its life."""

    place: Place
    entries: list[Entry]
    end: Entry | None
    began_ns: int
    traced: frozenset[str] | None
    losses: list[Loss]
    left_out: int = 0
    earlier: list[tuple[Entry, Verdict]] = field(default_factory=list)
    found: list[Verdict] = field(default_factory=list)
    network: list[Entry] = field(default_factory=list)
    outlived: list[Event] = field(default_factory=list)
    survivors: list[Process] = field(default_factory=list)
    message: str | None = None
    state: PodState | None = None
    locate: Callable[[Process | None], str | None] = lambda _process: None
    refused_ns: int | None = None
    _by_kind: dict[str, list[Entry]] = field(default_factory=dict, repr=False)
    both_ends: bool = False
    ends: list[int] = field(default_factory=list)

    @property
    def init(self) -> Process | None:
        """The container's first process, if it has ended or something has happened to it."""
        if self.end is not None:
            return self.end.event.about
        abouts = (entry.event.about for entry in self.entries)
        return next((p for p in abouts if p is not None and is_container_init(p)), None)

    def of(self, kind: str) -> list[Entry]:
        """Kept, because every verdict asks."""
        found = self._by_kind.get(kind)
        if found is None:
            found = [entry for entry in self.entries if entry.event.kind == kind]
            self._by_kind[kind] = found
        return found

    def is_init(self, process: Process | None) -> bool:
        init = self.init
        return (
            process is not None
            and init is not None
            and process.pid == init.pid
            and process.start_boot_ns in (init.start_boot_ns, None)
        )

    def signals(self, process: Process | None = None) -> list[Entry]:
        """Signals to a process, the container's first one unless told otherwise, before the end."""
        wanted = process or self.init
        return [
            entry
            for entry in self.of("signal")
            if wanted is not None
            and entry.event.about is not None
            and entry.event.about.pid == wanted.pid
            and entry.event.about.start_boot_ns in (wanted.start_boot_ns, None)
            and (self.end is None or entry.boot_ns <= self.end.boot_ns)
        ]

    def blow(self) -> Entry | None:
        """The signal that ended the container's first process."""
        ended_by = self.end.body["signal"] if self.end else None
        return self.deadly(ended_by["number"]) if ended_by else None

    def deadly(self, number: int, process: Process | None = None) -> Entry | None:
        """Which of the signals of this number that reached a process ended it: the last one, as
        those before may have been handled. SIGKILL cannot be: the first one."""
        reached = [
            entry
            for entry in self.signals(process)
            if took_effect(entry) and entry.body["signal"]["number"] == number
        ]
        if number == SIGKILL:
            return reached[0] if reached else None
        return max(reached, key=lambda entry: entry.last.boot_ns, default=None)

    def until_ns(self) -> int:
        """The moment that is to be explained."""
        if self.end is not None:
            return self.end.boot_ns
        return max((entry.last.boot_ns for entry in self.entries), default=self.began_ns)

    def starts_before_tracing(self) -> bool:
        """Whether something may have happened to the container before tracing began."""
        started = self.init.start_boot_ns if self.init else None
        return started is None or started < self.began_ns


def target_state(event: Event) -> str | None:
    """What the target of a signal was in. Older recordings and some backends do not tell."""
    state: str | None = event.body.get("target_state")
    return state


def took_effect(entry: Entry) -> bool:
    """Whether a signal was not ignored or refused."""
    return entry.body["signal"]["result"] in ("delivered", "lost_info", None)


class Timelines:
    """A sink that keeps the timelines, in about `most` bytes; `forgotten` counts those of
    containers that were still there. `traced` and `both_ends` as in `Story`; `mine` tells whose
    events have one: the others are resets at the other ends of connections."""

    def __init__(
        self,
        clock: Clock,
        began_ns: int | None = None,
        traced: frozenset[str] | None = None,
        both_ends: bool = False,
        mine: Callable[[Event], bool | None] = lambda event: True,
        most: int = MAX_LIVES,
    ) -> None:
        self.events = self.forgotten = 0
        self._clock = clock
        self.began_ns = began_ns
        self.traced = traced
        self.both_ends = both_ends
        self.mine = mine
        self._connections = Connections()
        self._lives: Table[str, Life] = Table(most, attrgetter("size"))
        self._losses: list[Loss] = []

    def event(self, event: Event) -> None:
        self.events += 1
        if self.began_ns is None:
            self.began_ns = event.boot_ns
        if event.kind == "lost":
            self._add_loss(event)
            return
        seen = self._connections.add(event) if event.kind == "tcp_reset" else None
        if seen is not None and seen.overtaken is not None:
            self._move(seen.overtaken)
        if self.mine(event):
            self._add(event, seen)
        if seen is not None:
            _join(seen)

    def _move(self, seen: Seen) -> None:
        """To an entry of the sort that it turned out to be of."""
        if seen.entry is not None:
            seen.entry.count -= 1
            self._add(seen.event, seen)

    def _add(self, event: Event, seen: Seen | None) -> None:
        place = event.place
        if place is None:
            return
        identity = place.identity
        key = identity.container_id or identity.pod_uid
        if key is None:
            return
        life = self._lives.get(key)
        if life is None:
            life = self._lives[key] = Life(place)
            self._weigh(key)
        life.events += 1
        if life.is_over(event):
            life.outlive(event)
            self._weigh(key)
            return
        ended = life.end
        if seen is not None:
            _add_reset(life, seen)
        else:
            _SORTS.get(event.kind, _add_other)(life, event)
        pod = self._lives.get(identity.pod_uid or "")
        if pod is not None and life.end is not ended:
            pod.begin_chapter()
        if abs(life.entries_size - life.weighed) >= WEIGHED_BYTES:
            life.weighed = life.entries_size
            self._weigh(key)

    def _weigh(self, key: str) -> None:
        """What is still there is spared."""
        gone = self._lives.weigh(key, lambda _, life: not _is_done(life))
        self.forgotten += sum(not _is_done(life) for _, life in gone)

    def forget_pod(self, uid: str) -> None:
        """Of a pod that has been taken away nothing more is to be told."""
        gone = [key for key, life in self._lives.items() if life.place.identity.pod_uid == uid]
        for key in gone:
            self._lives.drop(key)

    def flush(self) -> None:
        """Nothing is shown before it is asked for."""

    def places(self) -> list[Place]:
        """Of every container and pod that had events."""
        return [life.place for life in self._lives.values()]

    def now(self) -> int:
        return self._clock.now()

    def lost(self) -> dict[str, int]:
        """How many events of each probe."""
        counts: dict[str, int] = {}
        for loss in self._losses:
            counts[loss.probe] = counts.get(loss.probe, 0) + loss.count
        return counts

    def ended_pods(self) -> set[str | None]:
        """The uids of those whose sandbox has ended."""
        return {
            life.place.identity.pod_uid
            for life in self._lives.values()
            if life.end is not None and is_sandbox(life)
        }

    def stories(self) -> list[Story]:
        """One for each container that is known to have had events, and for each pod whose network
        had some that belong to no container for certain, in the order of their ends. A pod's
        sandbox has none."""
        pods = {uid: life for uid, life in self._lives.items() if _is_pod(life)}
        lives: dict[str, list[Life]] = {uid: [] for uid in pods}
        for life in self._lives.values():
            if not _is_pod(life) and not is_sandbox(life):
                lives.setdefault(life.place.identity.pod_uid or "", []).append(life)
        stories: list[Story] = []
        for uid, containers in lives.items():
            shared = pods[uid].entries() if uid in pods else []
            containers.sort(key=_end_ns)
            before = len(stories)
            for life in containers:
                network = _share(shared, life)
                own = network if _are_one(containers) else []
                shared = [entry for entry in shared if entry not in own]
                stories.append(self._story(life, [*life.entries(), *own], network))
            if shared:
                stories.append(self._story(pods[uid], shared))
            if _are_one(containers):
                ends = [life.end.boot_ns for life in containers if life.end]
                for story in stories[before:]:
                    story.ends = ends
        return sorted(stories, key=Story.until_ns)

    def _story(self, life: Life, entries: list[Entry], network: Sequence[Entry] = ()) -> Story:
        story = Story(
            place=life.place,
            entries=sorted(entries, key=attrgetter("boot_ns")),
            end=life.end,
            began_ns=self.began_ns or 0,
            traced=self.traced,
            both_ends=self.both_ends,
            losses=[],
            left_out=life.left_out,
            network=list(network),
            outlived=life.outlived,
            survivors=life.survivors,
        )
        until = story.until_ns()
        story.losses = [
            loss
            for loss in self._losses
            if loss.since_ns <= until and loss.until_ns >= until - WINDOW_NS
        ]
        return story

    def _add_loss(self, event: Event) -> None:
        since = _boot_ns(event.body["since"], self._clock)
        if len(self._losses) >= MAX_LOSSES:  # two neighbours become one
            first, second = self._losses[0], self._losses.pop(1)
            probe = first.probe if first.probe == second.probe else ANY_PROBE
            self._losses[0] = Loss(
                probe, first.count + second.count, first.since_ns, second.until_ns
            )
        self._losses.append(Loss(event.body["probe"], event.body["count"], since, event.boot_ns))


def is_ordinary(event: Event) -> bool:
    """The end of a child that has done its work: nobody is shown that."""
    return event.kind == "exit" and event.body["exit_code"] == 0


def _would_be_missed(entry: Entry) -> int:
    return 0 if is_ordinary(entry.event) else entry.count


def ends_container(event: Event) -> bool:
    """Whether an `exit` is that of a container's first process. Where the PID namespace is shared
    that is not known: there a process that the runtime started counts, if a signal ended it. One
    that ends by itself may be a command that was run in the container."""
    known = event.body["container_exit"]
    if known is not None or event.body["signal"] is None or event.about is None:
        return bool(known)
    parent = event.about.ancestry[:1]
    return bool(parent) and parent[0][1].startswith(("containerd-shim", "conmon"))


def _is_last_kill(event: Event) -> bool:
    """With the first process of its PID namespace the kernel kills all others."""
    if event.kind != "signal" or event.body["origin"] != "kernel":
        return False
    return bool(event.body["signal"]["number"] == SIGKILL)


def is_sandbox(life: Life) -> bool:
    """The container that holds a pod's namespaces: the runtime knows it and gives it no name, or it
    runs pause. Where it has only been prepared, nothing of pause was seen."""
    container = life.place.container
    if container is None or container.name is not None:
        return False
    if container.is_sandbox:
        return True
    processes = (entry.event.about for entry in life.entries())
    return any(process is not None and process.comm == "pause" for process in processes)


def _is_done(life: Life) -> bool:
    return life.end is not None or life.place.ended is not None


def _is_pod(life: Life) -> bool:
    return life.place.identity.container_id is None


def _end_ns(life: Life) -> float:
    return life.end.boot_ns if life.end else inf


def _are_one(lives: Iterable[Life]) -> bool:
    """Whether all are lives of the same container: then what happened to the pod's network, which
    no process is known for, happened to it."""
    containers = [life.place.container for life in lives]
    return len({container and (container.name or container.id) for container in containers}) == 1


def _share(entries: Iterable[Entry], life: Life) -> list[Entry]:
    return [entry for entry in entries if entry.boot_ns <= _end_ns(life)]


def _boot_ns(moment: str, clock: Clock) -> int:
    """RFC 3339 with nanoseconds, as `Clock.iso` writes it."""
    whole, _, fraction = moment.rstrip("Z").partition(".")
    seconds = int(datetime.fromisoformat(f"{whole}+00:00").timestamp())
    return seconds * 1_000_000_000 + int(fraction) - clock.offset_ns


# How events of each kind are grouped, and which of them are alike


def _add_signal(life: Life, event: Event) -> None:
    body, target, sender = event.body, event.about, event.by
    signal = body["signal"]
    assert target is not None
    first = is_container_init(target)
    kind = signal["number"], signal["code"], signal["result"], target_state(event)
    life.add(
        ("signal", body["origin"], first, signal["name"] in HARMLESS),
        (kind, target.pid, sender.pid if sender else 0),
        event,
        1,
    )


def _add_exit(life: Life, event: Event) -> None:
    assert event.about is not None
    first = ends_container(event)
    if not first and may_be_executed(event.about):
        _add_executed(life, event, command_of(event.about))
        return
    entry = life.add(("exit", first, event.body["signal"] is None), event.about.pid, event, 1)
    if first:
        life.end = entry


def _add_executed(life: Life, event: Event, command: Hashable) -> None:
    """Alike are those that ended alike, but the rhythm is that of the command: a probe may fail
    only now and then."""
    signal, code = event.body["signal"], event.body["exit_code"]
    outcome = signal["number"] if signal else code
    entry = life.add(("executed", code != 0), (command, bool(signal), outcome), event, 1)
    before = life.executed.get(command)
    if before is not None:
        entry.gaps = (*entry.gaps, event.boot_ns - before)[-MAX_GAPS:]
    keep(life.executed, command, event.boot_ns, MAX_COMMANDS)


def _add_oom(life: Life, event: Event) -> None:
    pid = event.about.pid if event.about else 0
    life.add("oom", (pid, event.body["order"]), event, 1)


def _add_allocation(life: Life, event: Event) -> None:
    """Apart are those of which the free lists were read too late: they explain nothing."""
    pid = event.about.pid if event.about else 0
    known = event.body["buddyinfo"] is not None
    life.add("page_alloc_failure", (pid, event.body["order"], known), event, 1)


def _add_reset(life: Life, seen: Seen) -> None:
    """Alike are those of one service: its clients come from another port each time."""
    event, body = seen.event, seen.event.body
    group = ("tcp_reset", body["direction"], body["reason"], seen.sort)
    seen.entry = life.add(group, (service(body), body["meaning"]), event, 1, fold=True)
    seen.entry.sort = seen.sort


def _join(seen: Seen) -> None:
    """Each end's entry gets what was seen at the other one."""
    for one in (seen, seen.other):
        if one is not None and one.entry is not None:
            one.entry.asked = one.asked or one.entry.asked
            if one.other is not None:
                one.entry.meet(one, one.other)


def _add_drop(life: Life, event: Event) -> None:
    body = event.body
    life.add(("backlog_drop", body["queue"]), body["local"]["port"], event, body["count"])


def _add_other(life: Life, event: Event) -> None:
    """Of a kind that needs nothing of its own: alike if of the same process."""
    life.add(event.kind, event.about.pid if event.about else 0, event, 1)


_SORTS: dict[str, Callable[[Life, Event], None]] = {
    "signal": _add_signal,
    "exit": _add_exit,
    "oom": _add_oom,
    "page_alloc_failure": _add_allocation,
    "backlog_drop": _add_drop,
}
