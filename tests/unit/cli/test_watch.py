# SPDX-License-Identifier: Apache-2.0
"""When live `ktrace why` has something to say, and whether it goes on then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.unit.why.world import APP, CRON, INIT, RUNC, UID, World, place_of, process
from tracer.cli._watch import MESSAGE_SECONDS, STOPPED_SECONDS, WORDS_SECONDS, Watch
from tracer.identity.states import ContainerState, PodState, States, StateService
from tracer.model.event import Event, Place, Process
from tracer.model.names import Names, Pod
from tracer.model.selection import Selection
from tracer.model.turn import IDLE_SECONDS
from tracer.why.engine import Explanation, explain_all
from tracer.why.story import Story

OTHER = "ffffffff-4e5f-6071-8293-a4b5c6d7e8f9"
PREPARING = process(7, "runc:[2:INIT]", exe="/usr/bin/runc", init=True)
PAUSE = process(2, "pause", place_of("b" * 64, None), init=True)


class Session:
    def __init__(self) -> None:
        self.ended = False
        self.recorder: object = None
        self.resolver = SimpleNamespace(places=lambda: self.places, names=Names(), changes=0)
        self.places: list[Place] = []

    def stop(self) -> None:
        self.ended = True


class Told(World):
    watch: Watch

    def add(self, event: Event) -> Event:
        self.watch.event(event)
        return event

    def exit_of(self, process: Process, code: int) -> Event:
        """An exit of which the session does not know yet whether it is wanted."""
        watch, self.watch = self.watch, cast(Any, SimpleNamespace(event=lambda event: None))
        event = self.exit(code, who=process)
        self.watch = watch
        return event


class Watched:
    """What happens in `world` is watched; `pass_by` lets seconds pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, follows: bool = False) -> None:
        self.now = 1000.0
        monkeypatch.setattr("tracer.cli._watch.time.monotonic", lambda: self.now)
        self.world = Told()
        self.session = Session()
        self.states = SimpleNamespace(latest=None, hurry=False, asks_somebody=True)
        self.said: list[str] = []
        self.told: list[Explanation] = []
        self.roots: list[set[str | None]] = []
        faults = SimpleNamespace(
            hold_roots=self.roots.append,
            place_of=lambda process: None,
            listen=lambda: False,
            refused=lambda identity: None,
        )
        self.watch = Watch(
            self.world.timelines,
            cast(Any, faults),
            self.said.append,
            self.told.append,
            follows,
        )
        self.watch.begin(
            cast(Any, self.session), Selection(pods=("web-0",)), cast(StateService, self.states)
        )
        self.world.watch = self.watch

    def pass_by(self, seconds: float) -> bool:
        """Whether it has ended by then."""
        end = self.now + seconds
        while self.now < end and not self.session.ended:
            self.now += 0.1
            self.world.now += 100_000_000
            self.watch.flush()
        return self.session.ended

    def verdicts(self) -> list[str]:
        return [one.verdict.id for one in self.explained()]

    def explained(self) -> list[Explanation]:
        """What was shown while watching, and what is shown at the end."""
        return [*self.told, *self.watch.untold()]

    def refuse(self) -> None:
        self.world.reset("sent", "no_socket", "closed port")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch, follows=True)


def test_an_end_is_told_within_a_second(watched: Watched) -> None:
    assert not watched.pass_by(5)
    watched.world.exit(3)
    assert watched.pass_by(1)
    assert watched.verdicts() == ["exited"]


def test_an_end_is_told_before_the_probes_are_detached(watched: Watched) -> None:
    watched.world.exit(3)
    assert watched.pass_by(1)
    assert [one.verdict.id for one in watched.told] == ["exited"]
    assert watched.watch.untold() == []


def test_an_end_that_is_seen_late_is_not_waited_for_any_longer(watched: Watched) -> None:
    """What precedes it has been read by then."""
    watched.world.exit(3)
    watched.world.now += 400_000_000
    assert watched.pass_by(0.25)


@pytest.mark.parametrize("asks", [True, False])
def test_a_busy_runtime_may_say_later_why_a_start_failed(watched: Watched, asks: bool) -> None:
    """But not for ever; and where nobody can be asked, nobody is waited for."""
    watched.states.asks_somebody = asks
    watched.world.exit(1, who=PREPARING)
    assert watched.pass_by(1) is not asks
    if asks:
        assert not watched.pass_by(2)
        ended = ContainerState(
            str(APP.identity.container_id), "app", "exited", message="failed to create"
        )
        pod = PodState(Pod(UID, "shop", "web-0"), 1, (ended,))
        watched.states.latest = States(watched.now, {UID: pod})
        assert watched.pass_by(0.3)
    (one,) = watched.explained()
    assert one.verdict.id == "start_failed"
    assert ("; it says: failed to create" in one.verdict.sentence) is asks


def test_a_runtime_that_never_says_why_a_start_failed(watched: Watched) -> None:
    watched.world.exit(1, who=PREPARING)
    assert watched.pass_by(WORDS_SECONDS + 1)
    assert watched.verdicts() == ["start_failed"]


def test_an_end_is_not_told_at_the_next_event_only(watched: Watched) -> None:
    """Nothing else may happen for a while."""
    assert watched.session.recorder is watched.watch
    assert watched.watch.patience(0) == IDLE_SECONDS
    watched.world.exit(3)
    watched.pass_by(0.1)
    assert watched.watch.patience(0) <= 0.1


def test_judging_takes_a_small_part_of_the_time(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much happens; and an end is told within a second all the same."""
    judged: list[float] = []

    def judge(stories: list[Story]) -> list[Explanation]:
        judged.append(watched.now)
        watched.now += 0.01
        return explain_all(stories)

    monkeypatch.setattr("tracer.cli._watch.explain_all", judge)
    child = process(8, "worker", parents=[(INIT.pid, "app")])
    for _ in range(50):
        watched.world.signal("SIGUSR1", "host", CRON, child, result="ignored")
        watched.pass_by(0.1)
    assert 15 < len(judged) < 30
    watched.world.exit(3)
    assert watched.pass_by(1)


def test_roots_are_held_when_something_has_changed(watched: Watched) -> None:
    living, ended = place_of("a" * 64), place_of("c" * 64)
    ended.ended = 1
    watched.session.places = [living, ended]
    watched.pass_by(0.85)
    assert watched.roots == [{"a" * 64}], "nothing has changed since"
    watched.session.resolver.changes += 1
    watched.pass_by(0.1)
    assert len(watched.roots) == 2
    watched.pass_by(3)
    assert 4 <= len(watched.roots) <= 6, "one that had no process yet may have one now"


def test_an_end_that_follows_what_hurt(watched: Watched) -> None:
    child = process(8, "worker", parents=[(INIT.pid, "app")])
    watched.world.signal("SIGKILL", "host", CRON, child)
    assert not watched.pass_by(1.9)
    watched.world.exit(3)
    assert watched.pass_by(1)
    assert watched.verdicts() == ["exited"]


def test_what_hurt_once(watched: Watched) -> None:
    child = process(8, "worker", parents=[(INIT.pid, "app")])
    watched.world.signal("SIGKILL", "host", CRON, child)
    assert watched.pass_by(2.5)
    assert watched.verdicts() == ["child_killed"]


def test_refusals_of_a_probe_are_waited_for(watched: Watched) -> None:
    for _ in range(3):
        watched.refuse()
        assert not watched.pass_by(1.9)
    assert watched.pass_by(1)
    (told,) = watched.watch.untold()
    assert "3 attempts to connect refused, every 1.9 s" in told.verdict.sentence


def test_one_refusal_is_not_waited_for_for_ever(watched: Watched) -> None:
    watched.refuse()
    assert not watched.pass_by(25)
    assert watched.pass_by(6)


def test_liveness_refused_is_told_with_the_end(watched: Watched) -> None:
    for _ in range(3):
        watched.refuse()
        watched.pass_by(1)
    watched.world.signal("SIGTERM", "runtime", RUNC)
    assert not watched.pass_by(20)  # as long as the stop takes
    watched.world.exit(by=15)
    assert watched.pass_by(1)
    assert "stopped_in_time" in watched.verdicts()


@pytest.mark.parametrize(
    ("name", "soon"), [("SIGHUP", True), ("SIGUSR1", True), ("SIGTERM", False), ("SIGINT", False)]
)
def test_a_message_of_the_runtime_is_no_stop(watched: Watched, name: str, soon: bool) -> None:
    """As `docker kill -s HUP` has a server read its configuration. It may be the image's own stop
    signal, so an end is waited for a while; after SIGTERM for any grace period."""
    watched.world.signal(name, "runtime", RUNC)
    for _ in range(3):
        watched.refuse()
    assert not watched.pass_by(MESSAGE_SECONDS - 2)
    assert watched.pass_by(5) is soon
    watched.pass_by(600)
    assert watched.session.ended is soon


def test_two_stops_at_once(watched: Watched) -> None:
    """The end of the one is not the end of the other."""
    sidecar = process(70, "side", place_of("c" * 64, "side"), init=True)
    watched.world.signal("SIGTERM", "runtime", RUNC)
    watched.world.signal("SIGTERM", "runtime", RUNC, sidecar)
    watched.world.exit(by=15)
    assert not watched.pass_by(5)
    watched.world.exit(by=15, who=sidecar)
    assert watched.pass_by(1)
    assert watched.verdicts() == ["stopped_in_time"] * 2


def replace_pod(followed: Watched) -> None:
    """As a rollout does."""
    followed.world.signal("SIGTERM", "runtime", RUNC)
    followed.world.exit(0)
    assert not followed.pass_by(1)
    assert [one.verdict.id for one in followed.told] == ["stopped_in_time"]
    followed.world.signal("SIGKILL", "runtime", RUNC, PAUSE)
    followed.world.exit(by=9, who=PAUSE)


def test_a_pod_that_is_replaced_is_followed_to_the_next(followed: Watched) -> None:
    replace_pod(followed)
    assert followed.states.hurry
    assert not followed.pass_by(60)
    assert not followed.states.hurry, "asking the runtimes often is for what has just ended"
    followed.refuse()  # what is told of the dead is not taken for news
    assert not followed.pass_by(40)
    new = process(77, place=place_of("d" * 64, "app", OTHER), init=True)
    followed.world.exit(3, who=new)
    assert not followed.pass_by(0.4)
    assert followed.pass_by(6)
    assert [one.verdict.id for one in followed.told] == ["stopped_in_time", "exited"]
    assert followed.watch.untold() == []


def test_a_pod_of_two_containers_is_followed_too(followed: Watched) -> None:
    """One container takes its time to end; the pod is gone soon after that."""
    sidecar = process(70, "side", place_of("c" * 64, "side"), init=True)
    followed.world.signal("SIGTERM", "runtime", RUNC)
    followed.world.signal("SIGTERM", "runtime", RUNC, sidecar)
    followed.world.exit(0)
    assert not followed.pass_by(20)
    assert [one.verdict.id for one in followed.told] == ["stopped_in_time"]
    followed.world.exit(0, who=sidecar)
    assert not followed.pass_by(2)
    followed.world.signal("SIGKILL", "runtime", RUNC, PAUSE)
    followed.world.exit(by=9, who=PAUSE)
    assert not followed.pass_by(60)
    assert [one.verdict.id for one in followed.told] == ["stopped_in_time"] * 2


def test_an_end_before_its_labels_are_known(followed: Watched) -> None:
    """The runtime may say them much later: it is busy, or it was not asked for a while."""
    late, others = (place_of(letter * 64, "app", f"{letter}-uid") for letter in "de")
    for place in (late, others):
        place.rename(Pod(str(place.identity.pod_uid)), place.container)
        event = followed.world.exit_of(process(77, place=place, init=True), 3)
        followed.watch.undecided(event)
    assert not followed.pass_by(60)
    assert followed.told == []
    assert followed.watch.decided() == (0, 0)
    late.rename(Pod("d-uid", "shop", "web-0"), late.container)
    others.rename(Pod("e-uid", "shop", "db-0"), others.container)
    followed.session.resolver.changes += 1
    assert not followed.pass_by(1)
    assert [one.verdict.id for one in followed.told] == ["exited"]
    assert followed.watch.decided() == (1, 1)


def test_a_container_that_is_restarted_is_no_replacement(followed: Watched) -> None:
    followed.world.exit(3)
    assert not followed.pass_by(1)
    assert [one.verdict.id for one in followed.told] == ["exited"]
    assert followed.pass_by(3)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_a_busy_node_takes_its_time_to_remove_a_pod(followed: Watched, name: str) -> None:
    followed.world.signal(name, "runtime", RUNC)
    followed.world.exit(*((0,) if name == "SIGTERM" else (None, 9)))
    assert not followed.pass_by(25)
    assert len(followed.told) == 1
    followed.world.signal("SIGKILL", "runtime", RUNC, PAUSE)
    followed.world.exit(by=9, who=PAUSE)
    assert not followed.pass_by(60)


def test_a_container_that_is_stopped_and_restarted_is_no_replacement(followed: Watched) -> None:
    """As after a liveness probe has failed."""
    followed.world.signal("SIGTERM", "runtime", RUNC)
    followed.world.exit(0)
    assert not followed.pass_by(2)
    followed.session.places.append(place_of("e" * 64, "app"))
    assert followed.pass_by(3)


def test_a_pod_that_stays_is_not_waited_for_for_ever(followed: Watched) -> None:
    followed.world.signal("SIGTERM", "runtime", RUNC)
    followed.world.exit(0)
    assert followed.pass_by(STOPPED_SECONDS + 2)


def test_the_runtime_says_that_the_pod_is_gone(followed: Watched) -> None:
    """Where its sandbox was not traced."""
    followed.world.exit(3)
    followed.pass_by(1)
    followed.states.latest = States(followed.now, {UID: PodState(Pod(UID))})
    assert not followed.pass_by(30)


def test_what_hurts_ends_the_following(followed: Watched) -> None:
    for _ in range(3):
        followed.refuse()
    assert followed.pass_by(3)
    assert followed.verdicts() == ["closed_port"]


def test_notes_are_said_once(watched: Watched) -> None:
    pod = Pod(UID, "shop", "web-0", {})
    watched.states.latest = States(watched.now, {UID: PodState(pod, 1)})
    watched.pass_by(3)
    (said,) = watched.said
    assert said.startswith("ktrace: shop/web-0 has a sandbox for ")
    watched.states.latest = States(watched.now + 11, {UID: PodState(pod, 1)})
    assert watched.pass_by(1)
    assert watched.verdicts() == ["no_container"]
