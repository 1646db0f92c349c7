# SPDX-License-Identifier: Apache-2.0
"""Playing a recording: whenever it stands still, the view shows what had happened by then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.wait import wait_for
from tests.unit.live.world import RECORDING
from tracer import probes
from tracer.live.model import Snapshot
from tracer.live.player import SPEEDS, Player
from tracer.model.event import Clock, Event
from tracer.model.selection import Selection
from tracer.model.turn import Turn
from tracer.recording.reader import Reader
from tracer.recording.replay import ReplaySource
from tracer.session.session import Session

TIMES = [orjson.loads(line)["boot_ns"] for line in RECORDING.with_suffix(".jsonl").open()]


@contextmanager
def playing(
    speed: float | None = None, path: Path = RECORDING
) -> Iterator[tuple[Player, Callable[[], Snapshot]]]:
    posted: list[Snapshot] = [Snapshot()]
    player = Player(path, Selection(everything=True), speed, posted.append)
    thread = threading.Thread(target=player.run)
    thread.start()
    try:
        yield player, lambda: posted[-1]
    finally:
        player.stop()
        thread.join(10)
        assert not thread.is_alive()


def stands(player: Player, shown: Callable[[], Snapshot], moment: int | None = None) -> Snapshot:
    if moment is not None:
        wait_for("that moment", lambda: player.position == moment)
    wait_for("the picture of that moment", lambda: shown().now == player.position)
    return shown()


def ids(snapshot: Snapshot) -> list[int]:
    return [event.boot_ns for event in snapshot.stream]


def told_by(moment: int) -> list[int]:
    """What a plain replay has shown when it stops after that moment's turns."""
    told: list[int] = []
    with Reader(RECORDING) as reader:
        known = [probes.get(name) for name in probes.names()]
        source = ReplaySource(reader)
        session = Session(source, known, Selection(everything=True), Sink(told), Clock(0))
        turn = source.turn(session.waiting, 1.0)
        while turn.now <= moment:
            session.take(turn)
            if turn.last:
                break
            turn = source.turn(session.waiting, 1.0)
    return told


class Sink:
    def __init__(self, told: list[int]) -> None:
        self._told = told

    def event(self, event: Event) -> None:
        self._told.append(event.boot_ns)

    def flush(self) -> None: ...


def test_as_fast_as_possible() -> None:
    with playing() as (player, shown):
        wait_for("the end", lambda: player.ended)
        assert ids(stands(player, shown)) == TIMES
        assert player.position >= max(TIMES)
        assert player.read and player.read.ended
        assert player.summary().events == 29
        assert player.summary().lost == 19_137


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_seeking(parts: list[float]) -> None:
    with playing() as (player, shown):
        wait_for("the end", lambda: player.ended)
        for part in parts:
            moment = player.begin + int((player.end - player.begin) * part)
            player.seek(moment)
            seen = ids(stands(player, shown, moment))
            assert seen == told_by(moment)


def test_a_long_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """How far it has come is told, until it is there."""
    go_on = threading.Event()
    take = Player._take

    def slowly(player: Player) -> Turn:
        turn = take(player)
        if player.progress and player.progress > 0.5:
            assert go_on.wait(60)
        return turn

    with playing() as (player, shown):
        wait_for("the end", lambda: player.ended)
        monkeypatch.setattr(Player, "_take", slowly)
        assert player.progress is None
        player.seek(player.end - 1)
        assert player.progress == 0
        wait_for("half of the way", lambda: player.progress and player.progress > 0.5)
        go_on.set()
        stands(player, shown, player.end - 1)
        assert player.progress is None


def test_pausing_and_speed() -> None:
    with playing(1.0) as (player, _):
        wait_for("the beginning", lambda: player.end > player.begin)
        player.toggle()
        at = player.position
        assert at < player.end
        player.change_speed(1)
        assert (player.speed, player.playing, player.position) == (2, False, at)
        for _ in range(20):
            player.change_speed(1)
        assert player.speed is None
        for _ in range(20):
            player.change_speed(-1)
        assert player.speed == SPEEDS[0]
        for _ in range(len(SPEEDS)):
            player.change_speed(1)
        player.toggle()
        player.change_speed(len(SPEEDS))
        wait_for("the end", lambda: player.ended)
        player.toggle()
        wait_for("the beginning", lambda: not player.ended)
        assert (player.playing, player.speed) == (True, SPEEDS[0])


@pytest.mark.parametrize("missing", [1, 100, 2000])
def test_a_cut_recording(tmp_path: Path, missing: int) -> None:
    """It ends where it is cut, and can be played again."""
    file = tmp_path / "cut.ktrace"
    file.write_bytes(RECORDING.read_bytes()[:-missing])
    with playing(path=file) as (player, shown):
        for _ in range(2):
            wait_for("the end", lambda: player.ended)
            seen = ids(stands(player, shown))
            assert seen == TIMES[: len(seen)]
            assert player.read and player.read.cut
            player.seek(player.begin)
            wait_for("the beginning", lambda: player.position == player.begin)
            player.seek(player.end)
