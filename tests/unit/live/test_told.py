# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes says in the live view: rows of the stream and of the pod, and the verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.wait import wait_for
from tests.unit.live.test_model import KILL, NS, PLACES, World, signal
from tests.unit.live.test_player import playing, stands
from tests.unit.live.world import live_app, running
from tests.unit.recording.test_facts import with_facts
from tests.unit.recording.test_recording import BEGAN, incident, metadata, record
from tests.unit.recording.test_recording import UID as POD
from tracer.live import model as module
from tracer.live.model import Snapshot
from tracer.live.told import KIND, told_events
from tracer.model.event import Clock, Event, Place
from tracer.model.kubernetes import Fact, KubeEvent, KubePod
from tracer.model.selection import Selection

OFFSET = metadata().clock_offset_ns
UID = str(PLACES[0].identity.pod_uid)
REFUSED = "Liveness probe failed: dial tcp 10.0.0.7:8080: connect: connection refused"
EVERY = Selection(everything=True)


def said(reason: str = "Unhealthy", message: str = REFUSED, **changes: Any) -> KubeEvent:
    told: dict[str, Any] = {
        **{"uid": f"{reason} {message}", "reason": reason, "message": message},
        **{"namespace": "shop", "name": "web-0", "pod": "web-0", "object_uid": UID},
        **{"container": "app", "first_ns": 10 * NS, "last_ns": 12 * NS, "count": 3},
    }
    return KubeEvent(**{**told, **changes})


def rows(
    *facts: Fact, places: Sequence[Place] = PLACES[:2], wanted: Selection = EVERY
) -> list[Event]:
    resolver: Any = SimpleNamespace(places=lambda: places)
    return told_events(facts, resolver, Clock(0), wanted)


def test_an_event_of_a_container() -> None:
    (row,) = rows(said(), said("Pulled", "an image"), KubePod(UID, "shop", "web-0"))
    assert (row.kind, row.boot_ns, row.place) == (KIND, 12 * NS, PLACES[0])
    assert (row.body["reason"], row.body["message"], row.body["count"]) == (
        *("Unhealthy", REFUSED, 3),
    )


def test_an_event_of_the_pod() -> None:
    (row,) = rows(said("Evicted", "low on memory", container=""))
    assert row.place is not None and row.place.pod == PLACES[0].pod
    assert row.place.identity.container_id is None


def test_a_pod_of_which_nothing_is_known_yet() -> None:
    (row,) = rows(said("FailedMount", "no such volume", container=""), places=())
    assert row.place is not None and row.place.pod is not None
    assert (row.place.pod.title, row.place.identity.pod_uid) == ("shop/web-0", UID)


def test_another_pod_of_the_same_name_is_another() -> None:
    (row,) = rows(said(object_uid="another"))
    assert row.place is not None and row.place.identity.pod_uid == "another"


def test_another_object_that_concerns_the_pod() -> None:
    deleted = said(
        *("SuccessfulDelete", "Deleted pod: web-0"),
        **{"kind": "ReplicaSet", "name": "web", "object_uid": "rs", "container": ""},
    )
    (row,) = rows(deleted)
    assert row.place is not None and row.place.identity.pod_uid == UID
    assert rows(deleted, places=()) == [], "nobody knows which pod that was"


def test_only_wanted_pods() -> None:
    other = str(PLACES[1].identity.pod_uid)
    facts = said(), said(pod="web-1", name="web-1", object_uid=other)
    (row,) = rows(*facts, wanted=Selection(pods=("web-1",)))
    assert row.place is PLACES[1]


def test_they_stand_beside_the_events() -> None:
    world = World()
    kill = signal(11.0, told=KILL)
    world.told(kill)
    world.model.told(rows(said()))
    shown = world.told()
    (row,) = shown.pods
    assert row.counts == {"signal": 1, KIND: 1}
    assert [event.kind for event in row.timeline()] == ["signal", KIND]
    assert (row.worst, row.alarms, row.last.kind) == (kill, 1, KIND)
    assert (shown.events, [event.kind for event in shown.stream]) == (1, ["signal", KIND])
    assert sum(row.rate) == 1, "it is no event of the kernel"
    assert [e.kind for e in shown.known_of(row)] == ["signal", KIND]


def test_what_comes_late_stands_where_it_happened() -> None:
    world = World()
    world.told(signal(20.0))
    world.model.told(rows(said()))
    (row,) = world.told().pods
    assert [event.kind for event in row.timeline()] == [KIND, "signal"]
    assert row.last.kind == "signal"


def test_a_filter() -> None:
    world = World()
    world.model.choose(Selection(pods=("web-1",)))
    world.told()
    other = str(PLACES[1].identity.pod_uid)
    world.model.told(rows(said(), said(pod="web-1", name="web-1", object_uid=other)))
    shown = world.told()
    assert [row.key for row in shown.pods] == [other]
    assert len(shown.stream) == 1
    world.model.choose(Selection(pods=("web-0",)))
    assert [row.key for row in world.told().pods] == [UID]


def test_a_storm_does_not_push_them_out() -> None:
    world = World()
    world.model.told(rows(said()))
    world.told(*(signal(20 + n / 100) for n in range(200)))
    (row,) = world.told().pods
    assert row.timeline()[0].kind == KIND


def test_they_are_bounded() -> None:
    world = World()
    for n in range(200):
        world.model.told(rows(said(message=f"no {n}")))
    (row,) = world.told().pods
    assert len(row.timeline()) == module.MAX_TOLD


def test_they_may_change_a_verdict_that_was_made_before() -> None:
    world = World()
    world.told(signal(9.0, told=KILL))
    world.model._opinions._next = 0.0
    assert not world.model._opinions.due
    world.model.told(rows(said()))
    assert world.model._opinions.due


# A recording of it


def recording(tmp_path: Path) -> Path:
    file = tmp_path / "incident.ktrace"
    at = BEGAN + OFFSET
    hostile = said("Evicted", "low on \x1b[31mmemory", container="", count=1)
    facts = [replace(one, object_uid=POD, first_ns=at, last_ns=at) for one in (said(), hostile)]
    record(with_facts(incident(), 5, facts), file)
    return file


def test_a_recording_plays_them(tmp_path: Path) -> None:
    with playing(path=recording(tmp_path)) as (player, shown):
        wait_for("the end", lambda: player.ended)
        snapshot: Snapshot = stands(player, shown)
        told = [event for event in snapshot.stream if event.kind == KIND]
        assert len(told) == 2
        (row,) = [one for one in snapshot.pods if one.counts.get(KIND)]
        assert row.counts[KIND] == 2
        assert row.verdict is not None and row.verdict.told is not None
        assert "Kubernetes says" in row.verdict.sentence
        player.seek(player.begin)
        assert all(e.kind != KIND for e in stands(player, shown, player.begin).stream)


def test_on_the_screen(tmp_path: Path) -> None:
    async def look() -> list[str]:
        pages = []
        async with running(live_app(recording=recording(tmp_path)), (200, 50)) as pilot:
            for keys in (("2",), ("1", "enter"), ("end", "enter")):
                await pilot.press(*keys)
                await pilot.pause()
                strips = pilot.app.screen._compositor.render_strips()
                pages.append("\n".join(strip.text for strip in strips))
        return pages

    stream, pod, _event = asyncio.run(look())
    for page in (stream, pod):
        assert f"Kubernetes says Unhealthy (3 times): {REFUSED}" in page
        assert "Kubernetes says Evicted: low on \\x1b[31mmemory" in page
        assert "»" in page
    assert "\x1b[31mmemory" not in stream
