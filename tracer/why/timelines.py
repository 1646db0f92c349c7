# SPDX-License-Identifier: Apache-2.0
"""One bounded timeline for each container: relevant events are kept, the rest are counted.

`Timelines` is a sink, so it works for live events and recordings alike. Like events (the same
signal from the same sender, resets of the same port) become one entry with a count. Entries are
kept in groups. Each group has its own bound and keeps the newest, so a storm of one sort cannot
push out the rare event that explains an end. Resets are never left out: those of too many services
share one entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache
from itertools import chain
from math import inf
from operator import attrgetter

from tracer import probes
from tracer.model.bounded import Table, keep
from tracer.model.event import Clock, Event, LostBody, Place, is_loss
from tracer.model.kubernetes import Facts, Told
from tracer.model.selection import Selection
from tracer.probes import Alike, by_process
from tracer.probes.drops import OWN_REASONS
from tracer.probes.exits import ExitBody, is_exit
from tracer.probes.resets import WITHOUT_SOCKET, is_reset
from tracer.session.patterns import PATTERN, TIME, Sighting
from tracer.why.connections import Connections, Seen
from tracer.why.dropped import Dropped
from tracer.why.entry import MAX_GAPS, Entry
from tracer.why.executed import command_of, may_be_executed
from tracer.why.life import MAX_COMMANDS, WEIGHED_BYTES, Life, Spot, ends_container, is_sandbox
from tracer.why.sorts import service
from tracer.why.story import ANY_PROBE, UNDESCRIBED, WINDOW_NS, Loss, Story

# Bytes of all timelines: while tracing on a busy node, under the live view, which keeps events of
# its own besides, and for a recording under examination.
MAX_LIVES, MAX_SHOWN, MAX_RECORDED = 8 << 20, 4 << 20, 256 << 20
MAX_LOSSES = 1024
# Losses within this time are combined.
GATHERED_NS = 1_000_000_000


class Timelines:
    """A sink that keeps the timelines, in about `most` bytes. `forgotten` counts dropped timelines
    of containers that still ran. `traced` and `both_ends` are as in `Story`; `sees_drops` says
    whether drops in all networks of the node are seen. `mine` selects the events that have a
    timeline; the others are what happened at the other ends of connections. `facts` are what
    Kubernetes says, if it is asked. While names decide, an event may be selected, and has a
    timeline, too."""

    def __init__(
        self,
        clock: Clock,
        began_ns: int | None = None,
        traced: frozenset[str] | None = None,
        both_ends: bool = False,
        sees_drops: bool = False,
        mine: Callable[[Event], bool | None] = lambda event: True,
        most: int = MAX_LIVES,
    ) -> None:
        self.events = self.forgotten = 0
        self._clock = clock
        self.began_ns = began_ns
        self.traced = traced
        self.both_ends = both_ends
        self.sees_drops = sees_drops
        self.mine = mine
        self.facts: Facts | None = None
        self._connections = Connections()
        self._dropped = Dropped()
        self._lives: Table[str, Life] = Table(most, attrgetter("size"))
        self._losses: list[Loss] = []
        self._rest: Iterator[Sighting] = iter(())

    def event(self, event: Event) -> None:
        self._take(event)

    def sightings(self, sightings: Iterable[Sighting]) -> None:
        """As `event` for each. After the first event of a pattern, the entry's place is known.
        After an error, the next call goes on behind the event that caused it."""
        self._rest = chain(self._rest, self._repeat(list(sightings)))
        for boot_ns, pattern in self._rest:
            spot: Spot | None = pattern.spot
            if spot is None or spot.group.closed:
                pattern.spot = self._take(pattern.at(boot_ns))
                continue
            life, group, key, size = spot
            self.events += 1
            life.events += 1
            life.put(group, key, pattern.event, boot_ns, size)
            if abs(life.entries_size - life.weighed) >= WEIGHED_BYTES:
                self._weigh_grown(life)

    def _repeat(self, sightings: list[Sighting]) -> Iterable[Sighting]:
        """Adds to each entry its further events at once, as only their number and the last of them
        matter. Returns the sightings that need to be taken one by one: all if there are new
        patterns, else those of groups that get new entries."""
        last = dict(zip(map(PATTERN, sightings), map(TIME, sightings), strict=True))
        spots: list[Spot | None] = [pattern.spot for pattern in last]
        if any(spot is None or spot.group.closed for spot in spots):
            return sightings
        known = [spot for spot in spots if spot]
        growing = {id(spot.group) for spot in known if spot.key not in spot.group}
        if 2 * len(growing) > len(known):
            return sightings
        counts = Counter(map(PATTERN, sightings))
        lives: dict[int, Life] = {}
        for (pattern, boot_ns), (life, group, key, _) in zip(last.items(), known, strict=True):
            if id(group) not in growing:
                count = counts[pattern]
                self.events += count
                life.events += count
                life.repeat(group[key], pattern.event, boot_ns, count)
                lives[id(life)] = life
        for life in lives.values():
            if abs(life.entries_size - life.weighed) >= WEIGHED_BYTES:
                self._weigh_grown(life)
        return [one for one in sightings if id(one[1].spot.group) in growing] if growing else ()

    def _take(self, event: Event) -> Spot | None:
        """Adds an event. Returns where, if the others of its pattern will be added there, too."""
        self.events += 1
        if self.began_ns is None:
            self.began_ns = event.boot_ns
        if is_loss(event):
            self._add_loss(event)
            return None
        seen = self._connections.add(event) if is_reset(event) else None
        self._dropped.add(event)
        if seen is None and _is_anybodys(event):
            self._add_undescribed(event)
        if seen is not None and seen.overtaken is not None:
            self._move(seen.overtaken)
        spot = self._add(event, seen) if self.mine(event) is not False else None
        if seen is not None:
            _join(seen)
        return spot

    def _move(self, seen: Seen) -> None:
        """Moves a reset to an entry of its actual sort."""
        if seen.entry is not None:
            seen.entry.count -= 1
            self._add(seen.event, seen)

    def _add(self, event: Event, seen: Seen | None) -> Spot | None:
        place = event.place
        key = _key(place)
        if place is None or key is None:
            return None
        life = self._lives.get(key)
        if life is None:
            life = self._lives[key] = Life(place)
            self._weigh(key)
        life.events += 1
        if life.is_over(event):
            life.outlive(event)
            self._weigh(key)
            return None
        ended = life.end
        spot = None
        if seen is not None:
            _add_reset(life, seen)
        elif (alike := _alike(event)) and alike.fold:
            life.add(alike.group, alike.alike, event, alike.times, fold=True)
        elif alike:
            spot = life.spot(alike.group, alike.alike, event)
            life.put(spot.group, spot.key, event, event.boot_ns, spot.size, alike.times)
            if alike.times != 1 or ended is not None:
                spot = None
        elif is_exit(event):
            _add_exit(life, event)
        if life.end is not ended:
            life.close_groups()
            pod = self._lives.get(place.identity.pod_uid or "")
            if pod is not None:
                pod.begin_chapter()
        if abs(life.entries_size - life.weighed) >= WEIGHED_BYTES:
            self._weigh_grown(life)
        return spot

    def _weigh_grown(self, life: Life) -> None:
        life.weighed = life.entries_size
        self._weigh(_key(life.place) or "")

    def _weigh(self, key: str) -> None:
        """Weighs a life. When room is needed, containers that still run are spared; if all do, the
        life itself may have gone."""
        if key not in self._lives:
            return
        gone = self._lives.weigh(key, lambda _, life: not _is_done(life))
        for _, life in gone:
            life.close_groups()
            self.forgotten += not _is_done(life)

    def forget_pod(self, uid: str) -> None:
        """Drops the timelines of a pod that has been removed."""
        for place in [place for place in self.places() if place.identity.pod_uid == uid]:
            self.forget(place)

    def forget(self, place: Place) -> None:
        """Drops the timeline of a container, or of a pod as a whole."""
        life = self._lives.drop(_key(place) or "")
        if life is not None:
            life.close_groups()

    def flush(self) -> None:
        """Does nothing: verdicts are shown only on request."""

    def places(self) -> list[Place]:
        """The places of all containers and pods that had events."""
        return [life.place for life in self._lives.values()]

    def now(self) -> int:
        return self._clock.now()

    def lost(self) -> dict[str, int]:
        """The number of lost events of each probe."""
        counts: dict[str, int] = {}
        for loss in self._losses:
            if loss.probe == UNDESCRIBED:  # already in the last line's count
                continue
            counts[loss.probe] = counts.get(loss.probe, 0) + loss.count
        return counts

    def ended_pods(self) -> set[str | None]:
        """The uids of pods whose sandbox has ended."""
        return {
            life.place.identity.pod_uid
            for life in self._lives.values()
            if life.end is not None and is_sandbox(life)
        }

    def stories(self, of: Container[str] | None = None) -> list[Story]:
        """One story for each container with known events, and one for each pod whose network had
        events of no certain container, in the order of their ends. A pod's sandbox has none. `of`
        are the uids of pods, and ids of containers outside of pods; None is all."""
        known = {key: life for key, life in self._lives.items() if of is None or _whose(life) in of}
        pods = {uid: life for uid, life in known.items() if _is_pod(life)}
        lives: dict[str, list[Life]] = {uid: [] for uid in pods}
        for life in known.values():
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
            told=self.told_of(life.place),
            dropped=self._dropped if self.sees_drops else None,
        )
        until = story.until_ns()
        story.losses = [
            loss
            for loss in self._losses
            if loss.since_ns <= until and loss.until_ns >= until - WINDOW_NS
        ]
        return story

    def told_of(self, place: Place) -> Told | None:
        pod = place.pod
        if not self.facts or pod is None or pod.name is None:
            return None
        uid = place.identity.pod_uid or pod.uid
        return self.facts.about(pod.namespace or "", pod.name, uid, self._clock.offset_ns)

    def _add_loss(self, event: Event[LostBody]) -> None:
        since = _boot_ns(event.body["since"], self._clock)
        self._keep_loss(Loss(event.body["probe"], event.body["count"], since, event.boot_ns))

    def _add_undescribed(self, event: Event) -> None:
        last = self._losses[-1] if self._losses else None
        if last and last.probe == UNDESCRIBED and event.boot_ns - last.since_ns < GATHERED_NS:
            self._losses[-1] = replace(last, count=last.count + 1, until_ns=event.boot_ns)
        else:
            self._keep_loss(Loss(UNDESCRIBED, 1, event.boot_ns, event.boot_ns))

    def _keep_loss(self, loss: Loss) -> None:
        if len(self._losses) >= MAX_LOSSES:  # merges two neighbours
            first, second = self._losses[0], self._losses.pop(1)
            probe = first.probe if first.probe == second.probe else ANY_PROBE
            self._losses[0] = Loss(
                probe, first.count + second.count, first.since_ns, second.until_ns
            )
        self._losses.append(loss)


def sees_both_ends(wanted: Selection, cannot_tell: Mapping[str, Iterable[str]]) -> bool:
    """Whether every reset sent by a pod of this node is seen. `cannot_tell`, by probe, says which
    resets are not."""
    return wanted.sees_others("tcp_reset") and WITHOUT_SOCKET not in cannot_tell.get("resets", ())


def sees_drops(wanted: Selection, cannot_tell: Mapping[str, Iterable[str]]) -> bool:
    """Whether every packet that this node drops for a known reason is seen, whoever's."""
    unseen = cannot_tell.get("drops")
    return unseen is not None and OWN_REASONS not in unseen and wanted.sees_others("packet_drop")


def _is_anybodys(event: Event) -> bool:
    """Whether its process was not described, so that its owner is unknown."""
    return event.place is None and event.about is not None and event.about.comm is None


def _key(place: Place | None) -> str | None:
    """Of its container's life, or of its pod's."""
    return (place.identity.container_id or place.identity.pod_uid) if place else None


def _is_done(life: Life) -> bool:
    return life.end is not None or life.place.ended is not None


def _is_pod(life: Life) -> bool:
    return life.place.identity.container_id is None


def _whose(life: Life) -> str | None:
    return life.place.identity.pod_uid or life.place.identity.container_id


def _end_ns(life: Life) -> float:
    return life.end.boot_ns if life.end else inf


def _are_one(lives: Iterable[Life]) -> bool:
    """Whether all are lives of the same container. Then events of the pod's network, whose process
    is unknown, are that container's."""
    containers = [life.place.container for life in lives]
    return len({container and (container.name or container.id) for container in containers}) == 1


def _share(entries: Iterable[Entry], life: Life) -> list[Entry]:
    return [entry for entry in entries if entry.boot_ns <= _end_ns(life)]


def _boot_ns(moment: str, clock: Clock) -> int:
    """RFC 3339 with nanoseconds, as `Clock.iso` writes it."""
    whole, _, fraction = moment.rstrip("Z").partition(".")
    seconds = int(datetime.fromisoformat(f"{whole}+00:00").timestamp())
    return seconds * 1_000_000_000 + int(fraction) - clock.offset_ns


# Each probe defines its own like events. Defined here: exits, which end a life, and resets, which
# have two ends.


@cache
def _groupings() -> dict[str, Callable[[Event], Alike]]:
    every = [probes.get(name) for name in probes.names()]
    return {kind: probe.grouping for probe in every for kind in probe.whose}


def _alike(event: Event) -> Alike | None:
    """None for the end of a container, or of a command in it: these are more than entries."""
    if not is_exit(event):
        return _groupings().get(event.kind, by_process)(event)
    about = event.about
    assert about is not None
    if ends_container(event) or may_be_executed(about):
        return None
    return Alike(_exit_group(event), about.pid)


def _exit_group(event: Event[ExitBody]) -> Hashable:
    return "exit", ends_container(event), event.body["signal"] is None


def _add_exit(life: Life, event: Event[ExitBody]) -> None:
    assert event.about is not None
    if ends_container(event):
        life.end = life.add(_exit_group(event), event.about.pid, event, 1)
    else:
        _add_executed(life, event, command_of(event.about))


def _add_executed(life: Life, event: Event[ExitBody], command: Hashable) -> None:
    """Groups commands by their outcome, but takes the rhythm from all runs of the command, because
    a probe may fail only now and then."""
    signal, code = event.body["signal"], event.body["exit_code"]
    outcome = signal["number"] if signal else code
    entry = life.add(("executed", code != 0), (command, bool(signal), outcome), event, 1)
    before = life.executed.get(command)
    if before is not None:
        entry.gaps = (*entry.gaps, event.boot_ns - before)[-MAX_GAPS:]
    keep(life.executed, command, event.boot_ns, MAX_COMMANDS)


def _add_reset(life: Life, seen: Seen) -> None:
    """Groups resets by service, because its clients use a new port each time."""
    event, body = seen.event, seen.event.body
    group = ("tcp_reset", body["direction"], body["reason"], seen.sort)
    seen.entry = life.add(group, (service(body), body["meaning"]), event, 1, fold=True)
    seen.entry.sort = seen.sort


def _join(seen: Seen) -> None:
    """Adds to each end's entry the observation at the other end."""
    for one in (seen, seen.other):
        if one is not None and one.entry is not None:
            one.entry.asked = one.asked or one.entry.asked
            if one.other is not None:
                one.entry.meet(one.event, one.other.event, one.other.sort)
