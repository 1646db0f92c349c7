# SPDX-License-Identifier: Apache-2.0
"""Timelines and what is made of them: bounds, lost events, contradictions, several lives."""

from __future__ import annotations

import re
from dataclasses import replace

import click
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.why.world import (
    ALL,
    APP,
    CLOCK,
    CRON,
    HOST,
    INIT,
    MS,
    NETWORK,
    RUNC,
    SECOND,
    UID,
    World,
    place_of,
    process,
)
from tracer.model.event import Event, Process, to_json
from tracer.why import causes
from tracer.why import timelines as timeline
from tracer.why.entry import MAX_ALIKE
from tracer.why.life import MAX_GROUPS
from tracer.why.render import MAX_LINES, shown, to_event, to_text
from tracer.why.verdict import Certainty

COUNT = 23


def killed(world: World) -> World:
    world.signal("SIGKILL", "host", CRON)
    world.exit(by=9)
    return world


# What lowers certainty


@pytest.mark.parametrize("probe", ["signals", "exits", "oom"])
def test_lost_events_lower_certainty(probe: str) -> None:
    world = World()
    world.lost(probe)
    verdict = killed(world).only().verdict
    assert verdict.certainty is Certainty.LIKELY
    assert verdict.doubts == (f"5 {probe} events were lost in the minute before",)


def test_events_that_may_be_any_containers_lower_certainty() -> None:
    world = World()
    for _ in range(23):
        world.at(-1).add(Event("exit", world.now, Process(4711, 4711), None, {"exit_code": 1}))
    world.at(0).exit(1)
    verdict = world.only().verdict
    assert (verdict.id, verdict.certainty) == ("exited", Certainty.LIKELY)
    assert any("23 events in the minute before" in doubt for doubt in verdict.doubts)
    assert world.timelines.lost() == {}


def test_what_was_lost_elsewhere_or_long_before_does_not() -> None:
    world = World()
    world.at(-120_000).lost("signals")
    world.at(0).lost("backlog")
    assert killed(world).only().verdict.certainty is Certainty.CERTAIN


def test_what_was_lost_afterwards_does_not() -> None:
    world = killed(World())
    world.at(5000).lost("signals", over_ms=1000)
    assert world.only().verdict.certainty is Certainty.CERTAIN


def test_a_probe_that_did_not_run() -> None:
    verdict = killed(World(traced=ALL - {"oom"})).only().verdict
    assert verdict.certainty is Certainty.LIKELY
    assert verdict.doubts == ("oom was not traced",)


def test_only_exits_were_traced() -> None:
    world = World(traced=frozenset({"exits"}))
    world.exit(by=9)
    verdict = world.only().verdict
    assert (verdict.id, verdict.certainty) == ("unexplained", Certainty.UNKNOWN)
    assert verdict.doubts == ("oom was not traced", "signals was not traced")


def test_two_killers_contradict_each_other() -> None:
    world = World()
    other = process(55, "killer", HOST)
    world.signal("SIGKILL", "host", CRON)
    world.signal("SIGKILL", "host", other)
    world.exit(by=9)
    verdict = world.only().verdict
    assert "cron[901]" in verdict.sentence
    assert verdict.certainty is Certainty.LIKELY
    assert verdict.doubts == ("killer[55] (/bin/killer) sent the same signal as well",)


def test_a_kill_that_was_survived() -> None:
    world = World()
    world.signal("SIGKILL", "host", CRON)
    world.exit(0)
    verdict = world.only().verdict
    assert (verdict.id, verdict.certainty) == ("exited", Certainty.LIKELY)
    assert verdict.doubts == ("yet a SIGKILL had reached it before",)


def test_an_oom_kill_that_ended_otherwise() -> None:
    world = World()
    world.oom()
    world.exit(0)
    verdict = world.only().verdict
    assert (verdict.id, verdict.certainty) == ("oom_container_limit", Certainty.LIKELY)
    assert verdict.doubts == ("yet its end was another: 0: success",)


def test_a_shared_pid_namespace() -> None:
    """The runtime's child that a signal ended may have been the first process."""
    world = World()
    of_shim = process(9, parents=[(3, "containerd-shim")])
    world.signal("SIGKILL", "same-pod", process(8), of_shim)
    world.exit(by=9, who=of_shim, ends_container=None)
    verdict = world.only().verdict
    assert (verdict.id, verdict.certainty) == ("killed_from_same_pod", Certainty.LIKELY)
    assert "PID namespace is shared" in verdict.doubts[0]


def test_a_command_that_ends_in_a_shared_pid_namespace() -> None:
    world = World()
    of_shim = process(9, parents=[(3, "containerd-shim")])
    world.exit(0, who=of_shim, ends_container=None)
    world.exit(by=9, who=process(10, parents=[(9, "sh")]), ends_container=None)
    assert world.explained() == []


# Whose story it is


def test_nothing_that_matters() -> None:
    world = World()
    world.signal("SIGUSR1", "same-container", INIT)
    world.exit(0, who=process(30), ends_container=False)
    assert world.explained() == []


def test_what_is_in_no_pod() -> None:
    world = World()
    world.exit(by=9, who=process(30, place=HOST))
    world.exit(by=9, who=process(30, place=None))
    assert world.explained() == []


def test_the_sandbox_has_no_story() -> None:
    world = World()
    pause = process(3, "pause", place_of("b" * 64, None), init=True)
    world.exit(by=9, who=pause)
    assert world.explained() == []


def test_a_sandbox_that_was_only_prepared_is_no_container_of_the_pod() -> None:
    """All that is seen of it are the runtime's own steps."""
    world = World()
    place = place_of("b" * 64, None)
    assert place.container is not None and place.container.is_sandbox
    world.exit(0, who=process(3, "runc:[1:CHILD]", place), ends_container=False)
    world.reset("sent", "no_socket", "closed port")
    world.exit(3)
    explanation = world.only()
    assert explanation.verdict.id == "exited"
    assert [other.id for other in explanation.others] == ["closed_port"]


def test_each_container_has_its_own() -> None:
    world = World()
    other = process(3, "other", place_of("b" * 64, "other"), init=True)
    world.exit(3)
    world.exit(by=9, who=other)
    found = [(e.story.place.container, e.verdict.id) for e in world.explained()]
    assert [(c and c.name, v) for c, v in found] == [("app", "exited"), ("other", "unexplained")]


def test_the_network_of_a_pod_is_its_only_containers() -> None:
    world = World()
    world.reset("sent", "no_socket", "closed port")
    world.exit(3)
    explanation = world.only()
    assert explanation.verdict.id == "exited"
    assert [other.id for other in explanation.others] == ["closed_port"]


def test_the_network_of_a_pod_with_several_containers_is_its_own() -> None:
    world = World()
    world.reset("sent", "no_socket", "closed port")
    world.exit(3)
    world.exit(3, who=process(3, place=place_of("b" * 64, "other"), init=True))
    found = [(e.verdict.id, e.story.place) for e in world.explained()]
    assert ("closed_port", NETWORK) in found
    assert [v for v, _ in found].count("exited") == 2
    assert len(found) == 3


def restarted(world: World, n: int, at: int, code: int = 3) -> None:
    container = process(100 + n, place=place_of(f"{n:064x}"), start=world.now, init=True)
    world.at(at).exit(code, who=container)


def test_what_happened_to_the_network_belongs_to_the_life_in_which_it_happened() -> None:
    world = World()
    for n, code in enumerate((3, 4)):
        for at in range(COUNT + n):
            world.at(n * 100_000 + at * 1000).reset("sent", "no_socket", "closed port")
        restarted(world, n, n * 100_000 + 60_000, code)
    counts = [[entry.count for entry in e.story.of("tcp_reset")] for e in world.explained()]
    assert counts == [[COUNT], [COUNT + 1]]


def test_nothing_is_added_after_an_end() -> None:
    world = World()
    world.at(-100).signal("SIGTERM", "same-container", CRON)
    world.exit(3)
    before = world.only()
    world.at(100).signal("SIGTERM", "same-container", CRON)
    world.reset("sent", "tcp_abort_on_close", place=APP)
    world.exit(by=9, who=process(30), ends_container=False)
    after = world.only()
    assert [e.count for e in after.story.entries] == [e.count for e in before.story.entries]
    assert [o.id for o in after.others] == [o.id for o in before.others]


# Again and again


def lives(world: World, ends: int, code: int = 3, seconds: float = 60) -> None:
    for n in range(ends):
        place = place_of(f"{n:064x}")
        start = world.now
        world.at(n * seconds * 1000).exit(
            code, who=process(100 + n, place=place, start=start, init=True)
        )


def test_a_loop() -> None:
    world = World()
    lives(world, COUNT, seconds=90)
    explanation = world.only()
    assert explanation.verdict.id == "restart_loop"
    assert explanation.verdict.sentence.startswith(
        "restarting in a loop: ended 23 times in the same way, every 1.5 min; ended by itself:"
    )
    assert explanation.verdict.certainty is Certainty.CERTAIN
    assert explanation.others[0].id == "exited"
    assert len([e for e in explanation.verdict.evidence if e.event.kind == "exit"]) == COUNT


def test_pauses_that_grow_are_told_from_the_shortest_to_the_longest() -> None:
    world = World()
    at, pauses = 0.0, [0.3, 10, 20, 40, 80, 90]
    for n, pause in enumerate([*pauses, 0]):
        start = world.at(at * 1000).now
        container = process(100 + n, place=place_of(f"{n:064x}"), start=start, init=True)
        at += 2
        world.at(at * 1000).exit(3, who=container)
        at += pause
    assert world.only().verdict.sentence.startswith(
        "restarting in a loop: ended 7 times in the same way, started again after 300 ms to"
        " 1.5 min, later each time; ended by itself:"
    )


def test_pauses_without_an_order() -> None:
    world = World()
    for n, at in enumerate([0, 1, 100, 103]):
        container = process(100 + n, place=place_of(f"{n:064x}"), start=0, init=True)
        world.at(at * 1000).exit(3, who=container)
    said = world.only().verdict.sentence
    assert "ended 4 times in the same way, 1 s to 1.6 min apart; ended" in said


def test_a_loop_of_what_is_not_known() -> None:
    world = World(traced=frozenset({"exits"}))
    for n in range(5):
        end = process(100 + n, place=place_of(f"{n:064x}"), start=world.now, init=True)
        world.at(n * 1000).exit(by=9, who=end)
    explanation = world.only()
    assert explanation.verdict.id == "restart_loop"
    assert explanation.verdict.certainty is Certainty.UNKNOWN
    assert explanation.verdict.doubts == ("oom was not traced", "signals was not traced")
    assert [other.id for other in explanation.others] == ["unexplained"]


def test_two_ends_are_no_loop() -> None:
    world = World()
    lives(world, 2)
    assert [e.verdict.id for e in world.explained()] == ["exited", "exited"]


def test_different_ends_are_no_loop() -> None:
    world = World()
    lives(world, 2)
    place = place_of("c" * 64)
    world.at(500_000).exit(by=9, who=process(200, place=place, init=True))
    assert [e.verdict.id for e in world.explained()] == ["exited", "exited", "unexplained"]


# Bounds


def test_a_storm_does_not_push_out_what_matters() -> None:
    world = World()
    world.at(-30_000).signal("SIGTERM", "runtime", RUNC, result="ignored")
    for n in range(5000):
        sender = process(1000 + n, "noise")
        world.now = 9_000 * MS + n
        world.signal("SIGUSR1", "same-container", sender)
        world.signal("SIGTERM", "same-container", sender, result="ignored")
        world.exit(0, who=sender, ends_container=False)
    world.at(0).signal("SIGKILL", "runtime", RUNC)
    world.exit(by=9)
    explanation = world.only()
    assert explanation.verdict.id == "stop_ignored"
    groups = MAX_GROUPS * MAX_ALIKE
    assert len(explanation.story.entries) < groups
    assert explanation.story.left_out > 9000
    assert "older ones are not shown" in to_text(explanation, CLOCK)


def test_children_that_did_their_work_are_not_missed() -> None:
    """They are not shown anyway, and nothing is said of those that were left out."""
    world = World()
    for n in range(MAX_ALIKE + 7):
        child = process(1000 + n, "date")
        world.now = 9_000 * MS + n
        world.exit(0, who=child, ends_container=False)
    world.at(0).exit(3)
    explanation = world.only()
    assert explanation.story.left_out == 0
    assert "not shown" not in to_text(explanation, CLOCK)


def test_what_is_not_shown_for_want_of_lines_is_counted() -> None:
    world = World()
    for n in range(MAX_LINES + 5):
        world.now = 9_000 * MS + n
        origin = ("same-container", "host")[n % 2]
        world.signal("SIGUSR1", origin, process(1000 + n, "noise"))
    world.at(0).exit(3)
    explanation = world.only()
    kept = [e for e in explanation.story.entries if e.event.kind == "signal"]
    assert len(kept) > MAX_LINES
    missing = MAX_LINES + 5 - len([e for e in shown(explanation) if e.event.kind == "signal"])
    assert f" {missing} older ones are not shown" in to_text(explanation, CLOCK)


def test_signals_to_children_do_not_push_out_those_to_the_first_process() -> None:
    """As the runtime sends them when commands in the container take too long."""
    world = World()
    world.at(-30_000).signal("SIGTERM", "runtime", RUNC, result="ignored")
    for n in range(COUNT):
        world.signal("SIGTERM", "runtime", RUNC, process(1000 + n))
    world.at(0).signal("SIGKILL", "runtime", RUNC)
    world.exit(by=9)
    assert world.only().verdict.id == "stop_ignored"


def test_alike_events_are_one_entry() -> None:
    world = World()
    for _ in range(COUNT):
        world.reset("sent", "no_socket", "closed port")
    (entry,) = world.only().story.entries
    assert entry.count == COUNT
    assert entry.last.boot_ns - entry.event.boot_ns == (COUNT - 1) * MS


def test_lives_are_bounded_in_bytes() -> None:
    world = World(most=60_000)
    lives(world, 50, code=3)
    words = world.only().verdict.sentence
    count = re.match(r"restarting in a loop: ended (\d+) times", words)
    assert count
    assert 5 < int(count[1]) < 30
    assert world.timelines.forgotten == 0, "all had ended"


def test_what_lives_outlasts_what_has_ended() -> None:
    """Its timeline goes when there is no other, and is counted."""
    world = World(most=60_000)
    world.signal("SIGTERM", "host", CRON, result="ignored")
    lives(world, 50, code=3)
    assert [story for story in world.timelines.stories() if story.end is None]
    for number in range(50):
        living = process(1000 + number, place=place_of(f"{number:064x}"))
        world.signal("SIGTERM", "host", CRON, living, result="ignored")
    assert 20 < world.timelines.forgotten < 50


def test_a_pod_that_was_taken_away_is_forgotten() -> None:
    world = killed(World())
    world.timelines.forget_pod("another")
    assert len(world.timelines.places()) == 1
    world.timelines.forget_pod(UID)
    assert world.timelines.stories() == []


def test_losses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MAX_LOSSES", 4)
    world = World()
    for _ in range(COUNT):
        world.lost("signals", 1)
    assert len(world.timelines._losses) == 4
    verdict = killed(world).only().verdict
    assert sum(int(doubt.split()[0]) for doubt in verdict.doubts) == COUNT


# Any order of events


ACTS = ["signal", "ignored", "exit", "child", "oom", "reset", "drop", "lost", "allocation"]


@given(st.lists(st.sampled_from(ACTS), max_size=12), st.sampled_from([None, ALL]))
def test_any_story_is_told(acts: list[str], traced: frozenset[str] | None) -> None:
    """Whatever comes in whatever order: no error, and every text and JSON is whole."""
    world = World(traced, began=None)
    for act in acts:
        _do(world, act)
    for explanation in world.explained():
        assert orjson.loads(to_json(to_event(explanation, CLOCK), CLOCK, "node"))["verdict"]
        assert to_text(explanation, CLOCK).endswith("\n")


def _do(world: World, act: str) -> None:
    child: Process = process(9, parents=[(7, "app")])
    acts = {
        "signal": lambda: world.signal("SIGKILL", "runtime", RUNC),
        "ignored": lambda: world.signal("SIGTERM", "runtime", RUNC, result="ignored"),
        "exit": lambda: world.exit(by=9),
        "child": lambda: world.exit(137, who=child, ends_container=False),
        "oom": lambda: world.oom(child),
        "reset": lambda: world.reset("received", None),
        "drop": lambda: world.drop(),
        "lost": lambda: world.lost("exits"),
        "allocation": lambda: world.allocation([]),
    }
    acts[act]()


# Text and JSON


def test_the_text() -> None:
    world = World()
    world.at(0).signal("SIGKILL", "host", process(50, "x\x1b[31m", HOST))
    world.exit(by=9)
    lines = to_text(world.only(), CLOCK).splitlines()
    assert lines[0].startswith("shop/web-0 app: killed: SIGKILL from x\\x1b[31m[50]")
    assert lines[1] == "  certain: the kernel said so"
    assert lines[3] == "  2023-11-14 22:13:30 UTC is 0"
    assert lines[4].split()[:3] == ["-1", "ms", "*"]
    assert "SIGKILL from x\\x1b[31m[50] to app[7]" in lines[4]
    assert lines[5].split()[:3] == ["0", "*", "app[7]"]
    assert lines[7].startswith("  do: look on the node")


def test_colour_says_nothing_that_words_do_not_say() -> None:
    world = World()
    world.at(0).signal("SIGKILL", "host", process(50, "x\x1b[31m", HOST))
    world.exit(by=9)
    certain = world.only()
    likely = replace(certain, verdict=replace(certain.verdict, certainty=Certainty.LIKELY))
    unknown = replace(certain, verdict=replace(certain.verdict, certainty=Certainty.UNKNOWN))
    colours = set()
    for explanation in (certain, likely, unknown):
        plain = to_text(explanation, CLOCK)
        coloured = to_text(explanation, CLOCK, colour=True)
        assert "\x1b" not in plain
        assert click.unstyle(coloured) == plain, "what the sender calls itself is no colour"
        sentence, certainty, *rest = coloured.splitlines()
        assert sentence.startswith("\x1b[1m") and sentence.endswith("\x1b[0m")
        assert "\x1b" not in "".join(rest)
        colours.add(certainty.split("\x1b[")[1].partition("m")[0])
    assert len(colours) == 3


def test_the_json() -> None:
    world = World()
    first = world.at(0).signal("SIGKILL", "host", CRON)
    end = world.exit(by=9)
    world.lost("backlog")
    value = orjson.loads(to_json(to_event(world.only(), CLOCK), CLOCK, "node-7"))
    assert value["kind"] == "verdict"
    assert value["verdict"] == "killed_from_host"
    assert value["certainty"] == "certain"
    assert value["doubts"] == []
    assert value["node"] == "node-7"
    assert value["pod"] == {"namespace": "shop", "name": "web-0", "uid": UID, "labels": {}}
    assert value["container"]["id"] == APP.identity.container_id
    assert value["boot_ns"] == end.boot_ns
    assert value["evidence"] == [
        {"kind": e.kind, "time": CLOCK.iso(e.boot_ns), "boot_ns": e.boot_ns} for e in (first, end)
    ]
    assert [line["offset_ns"] for line in value["timeline"]] == [first.boot_ns - end.boot_ns, 0]
    assert value["others"] == []  # that it is unexplained is no news then
    assert value["remedy"]


def test_verdicts_are_found_by_listing_and_differ_in_id() -> None:
    specific = [cause.specificity for cause in causes.causes()]
    assert specific == sorted(specific)
    assert len(causes.names()) == len(specific) > 20


def test_a_recording_that_begins_in_the_middle() -> None:
    world = World(began=9_990 * MS)
    assert killed(world).only().story.starts_before_tracing()
    early = World(began=SECOND)
    assert not killed(early).only().story.starts_before_tracing()


def test_on_a_terminal_lines_are_broken_between_words() -> None:
    world = World()
    world.at(0).signal("SIGKILL", "host", process(50, "x", HOST))
    world.exit(by=9)
    explanation = world.only()
    whole, broken = to_text(explanation, CLOCK), to_text(explanation, CLOCK, width=40)
    assert max(map(len, whole.splitlines())) > 40
    assert max(map(len, broken.splitlines())) <= 40
    assert broken.split() == whole.split()
