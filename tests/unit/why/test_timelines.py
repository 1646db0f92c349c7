# SPDX-License-Identifier: Apache-2.0
"""The sink that keeps timelines: whose an event is, what counts as lost, and which stories there
are at the end."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from tests.unit.why.world import (
    ALL,
    APP,
    CLOCK,
    HOST,
    INIT,
    MS,
    NETWORK,
    SECOND,
    UID,
    World,
    place_of,
    process,
)
from tracer.model.event import Event, Place, Process
from tracer.model.kubernetes import Facts, KubePod
from tracer.model.names import Pod
from tracer.model.selection import Selection
from tracer.probes.resets import WITHOUT_SOCKET
from tracer.session.patterns import Pattern
from tracer.why.life import WEIGHED_BYTES, Life
from tracer.why.story import ANY_PROBE, UNDESCRIBED, WINDOW_NS, Loss, Story
from tracer.why.timelines import GATHERED_NS, MAX_LOSSES, Timelines, sees_both_ends

OTHER = place_of("b" * 64, "side")
OTHER_INIT = process(17, place=OTHER, init=True)
SHIM = [(50, "containerd-shim"), (1, "init")]


def made() -> Any:
    return World()


def life_of(world: Any, place: Place = APP) -> Life:
    key = place.identity.container_id or place.identity.pod_uid
    found: Life = world.timelines._lives[key]
    return found


def counted(story: Story) -> list[tuple[str, int, int, int]]:
    return [(e.event.kind, e.boot_ns, e.last_ns, e.count) for e in story.entries]


# Whose an event is


def test_events_are_counted_for_all_and_for_each() -> None:
    world = made()
    world.signal("SIGUSR1", "host")
    world.signal("SIGUSR1", "host", target=OTHER_INIT)
    world.signal("SIGUSR1", "host", target=OTHER_INIT)
    world.signal("SIGUSR1", "host", target=process(5, place=HOST))
    world.lost("signals")
    assert world.timelines.events == 5
    assert (life_of(world).events, life_of(world, OTHER).events) == (1, 2)
    assert world.timelines.places() == [APP, OTHER]


def test_the_first_event_begins_it_if_nobody_else_says() -> None:
    world: Any = World(began=None)
    world.lost("signals")
    world.signal("SIGUSR1", "host")
    assert world.timelines.began_ns == 10_000 * MS
    assert made().timelines.began_ns == SECOND


def test_what_is_not_wanted_has_no_timeline() -> None:
    world = made()
    world.timelines.mine = lambda event: event.place is APP
    world.signal("SIGUSR1", "host", target=OTHER_INIT)
    world.signal("SIGUSR1", "host")
    assert world.timelines.places() == [APP]


def test_now_is_the_clocks() -> None:
    clock: Any = SimpleNamespace(now=lambda: 42, offset_ns=0)
    assert Timelines(clock).now() == 42


# Patterns of like events


def sighted(world: Any, target: Process = INIT, name: str = "SIGUSR1") -> Pattern:
    """A pattern of a signal that another world made."""
    return Pattern(made().signal(name, "host", target=target))


def test_sightings_are_events() -> None:
    """The story is the same as if each were told by itself."""
    one, other = made(), made()
    patterns = [sighted(one), sighted(one, OTHER_INIT), sighted(one, name="SIGTERM")]
    told = [(10_000 * MS + n, patterns[n * n % 3]) for n in range(20)]
    one.timelines.sightings(told[:5])
    assert all(pattern.spot for pattern in (patterns[0], patterns[1]))
    one.timelines.sightings(told[5:])
    for boot_ns, pattern in told:
        other.timelines.event(pattern.event.at(boot_ns))
    assert one.timelines.events == other.timelines.events == 20
    stories = [timelines.timelines.stories() for timelines in (one, other)]
    assert [counted(story) for story in stories[0]] == [counted(story) for story in stories[1]]
    assert sum(count for _, _, _, count in counted(stories[0][0])) == 20 - 13
    for place in (APP, OTHER):
        assert life_of(one, place).events == life_of(other, place).events
        assert life_of(one, place).entries_size == life_of(other, place).entries_size


def test_a_place_that_is_closed_is_looked_for_anew() -> None:
    """After the end of the container they outlive it, and in the pod another chapter begins."""
    world = made()
    pattern = sighted(world)
    world.timelines.sightings([(world.now, pattern)])
    before = pattern.spot
    world.at(10).exit(1)
    assert before.group.closed
    world.timelines.sightings([(world.now, pattern)])
    assert pattern.spot is None, "what comes after the end is not an entry"
    (story,) = world.timelines.stories()
    assert [entry.count for entry in story.entries] == [1, 1]


def test_who_has_no_spot() -> None:
    """Events that count more than once, and those after an end that was not certain."""
    world = made()
    many = Pattern(made().drop(count=3))
    world.timelines.sightings([(world.now, many), (world.now + 1, many)])
    assert many.spot is None
    assert [entry.count for entry in life_of(world, NETWORK).entries()] == [6]
    one = Pattern(made().drop(count=1))
    world.timelines.sightings([(world.now, one), (world.now + 1, one)])
    assert one.spot is not None
    ended = process(8, place=OTHER, parents=SHIM)
    world.exit(by=9, who=ended, ends_container=None)
    again = sighted(world, OTHER_INIT)
    world.timelines.sightings([(world.now, again)])
    assert again.spot is None
    assert [e.event.kind for e in life_of(world, OTHER).entries()] == ["exit", "signal"]


def test_a_life_is_weighed_when_it_has_grown() -> None:
    world = made()
    weighed: list[int] = []
    weigh = world.timelines._weigh_grown

    def grown(life: Life) -> None:
        weighed.append(life.entries_size - life.weighed)
        weigh(life)
        assert life.weighed == life.entries_size

    world.timelines._weigh_grown = grown
    patterns = [sighted(world, process(100 + n)) for n in range(10)]
    for pattern in patterns * 3:
        world.timelines.sightings([(world.now, pattern)])
    assert 3 < len(weighed) <= 20
    assert all(WEIGHED_BYTES <= by < WEIGHED_BYTES + 3 * patterns[0].event.size for by in weighed)
    assert abs(world.timelines._lives.bytes - life_of(world).size) < WEIGHED_BYTES + 1000


# Room


def test_who_runs_is_spared_and_counted_when_forgotten() -> None:
    room: Any = World(most=40_000)
    ended, running = [], []
    for n in range(30):
        place = place_of(f"{n:064x}", uid=f"{n:032x}")
        room.signal("SIGUSR1", "host", target=process(n, place=place, init=True))
        if n < 15:
            room.exit(1, who=process(n, place=place, init=True))
            ended.append(place)
        else:
            running.append(place)
    kept = room.timelines.places()
    assert 0 < len(kept) < 30
    assert [place for place in kept if place in ended] == []
    assert room.timelines.forgotten == len(running) - len(kept)


def test_a_pod_that_is_removed() -> None:
    world = made()
    pattern = sighted(world)
    world.timelines.sightings([(world.now, pattern)])
    stranger = place_of("c" * 64, uid="d" * 32)
    world.signal("SIGUSR1", "host", target=process(5, place=stranger))
    world.reset("sent", None)
    world.timelines.forget_pod(UID)
    assert world.timelines.places() == [stranger]
    assert pattern.spot.group.closed
    assert world.timelines.forgotten == 0


def test_ended_pods_are_those_whose_sandbox_ended() -> None:
    world = made()
    world.exit(1)
    assert world.timelines.ended_pods() == set()
    sandbox = place_of("e" * 64, None)
    world.signal("SIGTERM", "runtime", target=process(5, "pause", sandbox, init=True))
    assert world.timelines.ended_pods() == set()
    world.exit(0, who=process(5, "pause", sandbox, init=True))
    assert world.timelines.ended_pods() == {UID}


# Losses


def test_losses_of_each_probe() -> None:
    world = made()
    world.lost("signals", 5)
    world.lost("exits", 1)
    world.lost("signals", 7)
    world.add(Event("signal", world.now, Process(5, 5), None, {}))
    assert world.timelines.lost() == {"signals": 12, "exits": 1}


def test_when_a_loss_was() -> None:
    world = made()
    world.lost("signals", 5, over_ms=1234.567891)
    (loss,) = world.timelines._losses
    assert loss == Loss("signals", 5, 10_000 * MS - 1_234_567_891, 10_000 * MS)


def test_events_of_nobody_are_a_loss() -> None:
    """Those within a second of the first are one; of an event with a place it is known whose."""
    world = made()

    def nobody(at: int, **more: Any) -> None:
        world.timelines.event(Event("exit", at, Process(5, 5), None, {}, **more))

    nobody(100)
    nobody(100 + GATHERED_NS - 1)
    assert world.timelines._losses == [Loss(UNDESCRIBED, 2, 100, 100 + GATHERED_NS - 1)]
    nobody(100 + GATHERED_NS)
    assert world.timelines._losses[1:] == [
        Loss(UNDESCRIBED, 1, 100 + GATHERED_NS, 100 + GATHERED_NS)
    ]
    nobody(101 + GATHERED_NS)
    assert [loss.count for loss in world.timelines._losses] == [2, 2]
    world.at(0).lost("signals")
    nobody(102 + GATHERED_NS)
    assert [loss.probe for loss in world.timelines._losses][2:] == ["signals", UNDESCRIBED]
    before = list(world.timelines._losses)
    nobody(103 + GATHERED_NS, place=HOST)
    world.timelines.event(Event("tcp_x", 104, None, None, {}))
    world.timelines.event(Event("exit", 105, Process(5, 5, comm="sh"), None, {}))
    assert world.timelines._losses == before


def test_the_oldest_losses_are_added_up() -> None:
    world = made()
    for n in range(MAX_LOSSES):
        world.at(2000 * n).lost("signals" if n < 3 else "exits", n + 1)
    first, second, *_ = losses = list(world.timelines._losses)
    assert len(losses) == MAX_LOSSES
    world.at(2000 * MAX_LOSSES).lost("oom", 1)
    assert len(world.timelines._losses) == MAX_LOSSES
    assert world.timelines._losses[0] == Loss("signals", 3, first.since_ns, second.until_ns)
    assert world.timelines._losses[1:-1] == losses[2:]
    assert world.timelines._losses[-1].probe == "oom"
    world.at(2000 * MAX_LOSSES + 1).lost("oom", 1)
    world.at(2000 * MAX_LOSSES + 2).lost("oom", 1)
    merged = world.timelines._losses[0]
    assert merged == Loss(ANY_PROBE, 1 + 2 + 3 + 4, first.since_ns, losses[3].until_ns)


def test_which_losses_matter_to_a_story() -> None:
    """Those of the minute before its end."""
    world = made()
    world.at(0).lost("signals", 1, over_ms=10)
    for at in (-1, 0, 60_000, 60_001):
        world.at(at).lost("exits", 100 + at, over_ms=0)
    world.at(60_000).exit(1)
    world.at(60_005).lost("oom", 7, over_ms=5)
    world.at(60_005).lost("oom", 8, over_ms=4)
    (story,) = world.timelines.stories()
    assert WINDOW_NS == 60_000 * MS
    assert [loss.count for loss in story.losses] == [1, 100, 60_100, 7]


# The ends of commands


def command(pid: int, *words: str) -> Process:
    who = process(pid, "probe", parents=SHIM)
    return replace(who, argv=list(words) or ["probe"])


def test_commands_by_what_became_of_them() -> None:
    """Each outcome is an entry; the rhythm is that of all runs."""
    world = made()
    for at, code, by in [(0, 1, None), (2000, 0, None), (4000, 1, None), (7000, None, 9)]:
        world.at(at).exit(code, by, who=command(20 + at), ends_container=False)
    world.at(9000).exit(1, who=command(70, "other"), ends_container=False)
    world.at(9500).exit(9, who=command(71), ends_container=False)
    life = life_of(world)
    groups = {name: list(group) for name, group in life.groups.items()}
    assert groups == {
        ("executed", True): [
            (("probe",), False, 1),
            (("probe",), True, 9),
            (("other",), False, 1),
            (("probe",), False, 9),
        ],
        ("executed", False): [(("probe",), False, 0)],
    }
    gaps = {key: e.gaps for group in life.groups.values() for key, e in group.items()}
    assert gaps == {
        (("probe",), False, 1): (2000 * MS,),
        (("probe",), False, 0): (2000 * MS,),
        (("probe",), True, 9): (3000 * MS,),
        (("other",), False, 1): (),
        (("probe",), False, 9): (2500 * MS,),
    }
    assert life.executed == {("probe",): world.now - MS, ("other",): 19_000 * MS}
    assert life.end is None


def test_children_are_entries_by_process_and_way() -> None:
    world = made()
    world.exit(1, who=process(8), ends_container=False)
    world.exit(1, who=process(9), ends_container=False)
    world.exit(by=9, who=process(8), ends_container=False)
    groups = {name: list(group) for name, group in life_of(world).groups.items()}
    assert groups == {("exit", False, True): [8, 9], ("exit", False, False): [8]}


def test_the_end_of_a_container() -> None:
    world = made()
    world.reset("sent", None)
    pod = life_of(world, NETWORK)
    assert pod.chapter == 0
    event = world.exit(3)
    life = life_of(world)
    assert life.end is not None and life.end.event == event
    assert list(life.groups) == [("exit", True, True)]
    assert list(life.groups["exit", True, True]) == [INIT.pid]
    assert pod.chapter == 1


# Resets


def test_resets_are_entries_by_service() -> None:
    world = made()
    for remote in (1, 2):
        world.reset("sent", "no_socket", "closed port", remote=remote)
    world.reset("sent", "no_socket", "closed port", port=81)
    world.reset("sent", "no_socket", "another")
    groups: dict[Any, Any] = life_of(world, NETWORK).groups
    counts = [[entry.count for entry in group.values()] for group in groups.values()]
    assert counts == [[2, 1], [1]]
    world.reset("received", "no_socket", "closed port")
    assert {name[:3] for name in groups} == {
        ("tcp_reset", "sent", "no_socket"),
        ("tcp_reset", "received", "no_socket"),
    }
    for name, group in groups.items():
        assert {entry.sort for entry in group.values()} == {name[3]}


def test_what_both_ends_need() -> None:
    everything, one = Selection(everything=True), Selection(pods=("web-0",))
    assert sees_both_ends(everything, {})
    assert sees_both_ends(everything, {"resets": ("something",)})
    assert not sees_both_ends(everything, {"resets": ("x", WITHOUT_SOCKET)})
    assert sees_both_ends(everything, {"signals": (WITHOUT_SOCKET,)})
    assert sees_both_ends(one, {}) == one.sees_others("tcp_reset")


# Stories


def test_a_story_has_what_the_timelines_know() -> None:
    world = made()
    world.timelines.event(world.signal("SIGUSR1", "host"))
    world.at(20).exit(1)
    survivor = process(8)
    world.at(30).signal("SIGKILL", "kernel", target=survivor)
    run = world.at(40).exit(1, who=command(9), ends_container=False)
    life_of(world).left_out = 5
    (story,) = world.timelines.stories()
    assert (story.place, story.began_ns, story.left_out) == (APP, SECOND, 5)
    assert (story.traced, story.both_ends) == (ALL, True)
    assert (story.survivors, story.outlived) == ([survivor], [run])
    assert story.end is life_of(world).end
    assert (story.network, story.told, story.losses) == ([], None, [])
    assert Timelines(CLOCK, None).stories() == []


def test_stories_are_in_the_order_of_their_ends() -> None:
    world = made()
    places = [place_of(f"{n:064x}", uid=f"{n:032x}") for n in range(3)]
    for n in (2, 0, 1):
        who = process(n + 1, place=places[n], init=True)
        world.at(100 - 10 * n).exit(1, who=who)
    assert [story.place for story in world.timelines.stories()] == places[::-1]
    assert [story.place for story in world.timelines.stories({f"{1:032x}"})] == [places[1]]
    alone = place_of("f" * 64, uid=None)
    world.exit(1, who=process(77, place=alone, init=True))
    assert [story.place for story in world.timelines.stories({"f" * 64})] == [alone]


def test_what_happened_to_the_network_is_the_only_containers() -> None:
    world = made()
    world.at(0).reset("sent", "no_socket", "closed port")
    world.at(10).exit(1)
    world.at(20).reset("sent", "no_socket", "another")
    first, rest = world.timelines.stories()
    assert [entry.body["meaning"] for entry in first.network] == ["closed port"]
    assert [entry.event.kind for entry in first.entries] == ["tcp_reset", "exit"]
    assert rest.place is NETWORK
    assert [entry.body["meaning"] for entry in rest.entries] == ["another"]
    assert first.ends == [10_010 * MS]
    assert rest.ends == first.ends


def test_of_several_containers_the_network_is_the_pods() -> None:
    world = made()
    world.at(0).reset("sent", "no_socket", "closed port")
    world.at(10).exit(1)
    world.at(20).exit(1, who=OTHER_INIT)
    stories = world.timelines.stories()
    assert [story.place for story in stories] == [NETWORK, APP, OTHER]
    for story in stories[1:]:
        assert [entry.event.kind for entry in story.entries] == ["exit"]
        assert [entry.body["meaning"] for entry in story.network] == ["closed port"]
    assert stories[1].ends == stories[0].ends != [10_010 * MS]


def test_lives_of_one_container_share_its_network_in_turn() -> None:
    world = made()
    again = place_of("c" * 64)
    world.at(0).reset("sent", "no_socket", "closed port")
    world.at(10).exit(1)
    world.at(20).reset("sent", "no_socket", "closed port")
    world.at(30).exit(1, who=process(9, place=again, init=True))
    first, second = world.timelines.stories()
    assert [entry.boot_ns for entry in first.network] == [10_000 * MS]
    assert [entry.event.kind for entry in first.entries] == ["tcp_reset", "exit"]
    assert [entry.event.kind for entry in second.entries] == ["tcp_reset", "exit"]
    assert second.entries[0].boot_ns == 10_020 * MS
    assert first.ends == second.ends == [10_010 * MS, 10_030 * MS]


def test_a_sandbox_has_no_story() -> None:
    world = made()
    sandbox = place_of("e" * 64, None)
    world.exit(0, who=process(5, "pause", sandbox, init=True))
    assert world.timelines.stories() == []


def test_what_kubernetes_says_is_of_the_pod() -> None:
    world = made()
    assert world.timelines.told_of(APP) is None
    facts = world.timelines.facts = Facts()
    facts.learn([KubePod(UID, "shop", "web-0", phase="Running")])
    told = world.timelines.told_of(APP)
    assert told is not None and told.pod is not None
    assert told.pod.phase == "Running"
    assert told.offset_ns == CLOCK.offset_ns
    assert world.timelines.told_of(HOST) is None
    nameless = replace(APP, pod=Pod(UID, None, None, {}))
    assert world.timelines.told_of(nameless) is None
    elsewhere = place_of("a" * 64, uid="9" * 32)
    assert world.timelines.told_of(elsewhere) is None
    world.exit(1)
    (story,) = world.timelines.stories()
    assert story.told is not None and story.told.pod == told.pod


def test_a_reset_that_was_overtaken_moves() -> None:
    """The entry that it leaves counts it no more, and has no line in the story if it is empty."""
    world = made()
    seen = world.timelines._connections.add(world.reset("received", None))
    seen.entry = life_of(world, NETWORK).entries()[0]
    before = seen.entry
    seen.sort = next(sort for sort in type(seen.sort) if sort is not seen.sort)
    world.timelines._move(seen)
    assert before.count == 0
    assert seen.entry is not before
    (moved,) = life_of(world, NETWORK).entries()
    assert (moved, moved.sort) == (seen.entry, seen.sort)
    seen.entry = None
    world.timelines._move(seen)
    assert len(life_of(world, NETWORK).entries()) == 1
