# SPDX-License-Identifier: Apache-2.0
"""Plays a recording in real time or faster, with pauses, forwards and backwards.

What the view shows at a moment depends on everything before it. So going back starts a new session
from the beginning and runs it to that moment at full speed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tracer import probes
from tracer.live.model import Model, Snapshot
from tracer.live.pace import Pace
from tracer.model.event import Clock
from tracer.model.kubernetes import Facts
from tracer.model.schema import Schema
from tracer.model.selection import Selection
from tracer.model.turn import Turn
from tracer.probes import Probe
from tracer.recording.reader import Reader
from tracer.recording.view import Chosen, Window
from tracer.session.session import Session, Summary
from tracer.why.timelines import MAX_RECORDED, Timelines, sees_both_ends, sees_drops

NS = 1_000_000_000
SPEEDS = (1.0, 2.0, 5.0, 10.0, 60.0, 600.0)


class Player:
    """A source of turns, and the feed made from them. All times are in nanoseconds since boot.

    `speed` is one of `SPEEDS`, None is as fast as possible. `post` gets each snapshot. `read` is
    the reader that reached the end, and knows the state of the file.
    """

    def __init__(
        self,
        path: Path,
        selection: Selection,
        speed: float | None,
        post: Callable[[Snapshot], None],
    ) -> None:
        with Reader(path) as reader:
            told = reader.metadata
        self.node = told.node
        self.clock = Clock(told.clock_offset_ns)
        self.player: Player | None = self
        self.switch = None
        self.source = path.name
        self.probes = tuple(told.attached)
        self.begin = self.end = told.began
        self.speed = speed
        self.playing = True
        self.ended = False
        self.read: Reader | None = None
        self.schemas: Mapping[int, Schema] = told.schemas
        self.path = path
        self._selection = selection
        self._told = told
        self._known = [probes.get(name) for name in probes.names() if name in told.attached]
        by_kind: dict[str, Probe] = {k: probe for probe in self._known for k in probe.whose}
        self.model = Model(by_kind, lambda: self.position, self._timelines, post)
        self._chosen = self._sink()
        self._summary = Summary()
        self._changed = threading.Condition()
        self._turns: Iterator[Turn] = iter(())
        self._next: Turn | None = None
        self._now = told.began
        self._start = told.began
        self._goal: int | None = None
        self._anchor = time.monotonic(), told.began
        self._again = self._stopped = False

    @property
    def position(self) -> int:
        if not self.playing or self.ended or self.speed is None:
            return self._now
        return max(self._now, min(self._due(), self._next.now if self._next else self._now))

    @property
    def progress(self) -> float | None:
        """The progress towards the goal of a jump, 0 to 1; None if there is none."""
        goal, start = self._goal, self._start
        if goal is None:
            return None
        return 0.0 if self._again else min(1.0, (self._now - start) / max(1, goal - start))

    # Actions of the keys. Safe in any thread.

    def toggle(self) -> None:
        """Plays or pauses; at the end, plays again from the beginning. Without a chosen speed, it
        plays in real time."""
        with self._changed:
            self._now = self.position
            self.playing = self.ended or not self.playing
            if self.playing and self.speed is None:
                self.speed = SPEEDS[0]
            if self.ended:
                self._go(self.begin)
            self._settle()

    def seek(self, moment: int) -> None:
        """Jumps to a moment. At full speed it stays paused there, because the moment would be gone
        at once."""
        with self._changed:
            self.playing = self.playing and self.speed is not None
            self._go(max(self.begin, min(moment, self.end)))
            self._settle()

    def change_speed(self, step: int) -> None:
        """One step slower or faster; the last step is as fast as possible."""
        with self._changed:
            speeds = (*SPEEDS, None)
            at = speeds.index(self.speed) + step
            self._now = self.position
            self.speed = speeds[max(0, min(at, len(speeds) - 1))]
            self._settle()

    def stop(self) -> None:
        """Ends the playback for good."""
        self._stopped = True
        with self._changed:
            self._changed.notify()

    # The feed

    def run(self) -> None:
        with Reader(self.path) as reader:
            self.end = max([self.begin, *(block.last for block in reader.blocks())])
        while not self._stopped:
            self._play()
            with self._changed:
                self.model.post()
                while not (self._again or self._stopped):
                    self._changed.wait(max(0.01, self.model.patience()))
                    self.model.flush()

    def summary(self) -> Summary:
        self._summary.events = self._chosen.events
        return self._summary

    def _play(self) -> None:
        """One session from the beginning on."""
        with Reader(self.path) as reader:
            with self._changed:
                self._again = self.ended = False
                self._now = self.begin
                self._turns = reader.turns()
                self._next = next(self._turns, None)
                self.model.clear()
                self._chosen = self._sink()
            told = self._told
            arguments = (told.selection, self._chosen, self.clock, told.count)
            facts = self.model.timelines.facts = Facts(MAX_RECORDED)
            session = Session(_Turns(self), self._known, *arguments, facts)
            session.recorder = Pace(self.model, self.clock, self._selection)
            self._summary = session.run()
            if self.ended:
                self.read = reader

    def _timelines(self) -> Timelines:
        return Timelines(
            self.clock,
            self._told.began,
            frozenset(self._told.attached),
            sees_both_ends(self._told.selection, self._told.cannot_tell),
            sees_drops(self._told.selection, self._told.cannot_tell),
            most=MAX_RECORDED,
        )

    def _sink(self) -> Chosen:
        return Chosen(self.model, self._selection, Window(), None, lambda: None)

    def turn(self, patience: float) -> Turn:
        """The next turn when it is due; after `patience` seconds an empty one."""
        with self._changed:
            while not (self._again or self._stopped):
                wait = self._wait()
                if wait <= 0:
                    return self._take()
                if not self._changed.wait(min(wait, patience)):
                    return Turn(self._now, more=True)
        return Turn(self._now, last=True)

    def _take(self) -> Turn:
        """The next turn; a made-up last one where the recording was cut."""
        turn, self._next = self._next, next(self._turns, None)
        if turn is None:
            turn = Turn(self._now, last=True)
        self._now = turn.now
        if turn.last:
            self.ended, self._goal = True, None
        return turn

    def _wait(self) -> float:
        """Seconds until the next turn is due."""
        if self._goal is not None:
            if self._next is None or self._next.now <= self._goal:
                return 0.0
            self._now, self._goal = self._goal, None
            self._settle()
        if not self.playing:
            return 3600.0
        if self.speed is None or self._next is None:
            return 0.0
        return (self._next.now - self._due()) / NS / self.speed

    def _due(self) -> int:
        since, at = self._anchor
        return at + int((time.monotonic() - since) * NS * (self.speed or 1))

    def _go(self, moment: int) -> None:
        self._again = self.ended or moment < self._now
        self._start = self.begin if self._again else self._now
        self._goal = moment

    def _settle(self) -> None:
        """From here on, time passes at the chosen speed."""
        self._anchor = time.monotonic(), self._now
        self._changed.notify()


class _Turns:
    """The player as a session's source of turns."""

    def __init__(self, player: Player) -> None:
        self.schemas = player.schemas
        self._player = player

    def turn(self, waiting: bool, patience: float) -> Turn:
        return self._player.turn(patience)

    def ask(self, cgroup: int) -> None: ...

    def check(self, cgroups: Sequence[int]) -> bool:
        """What was found then stands in the recording."""
        return True

    def select(self, cgroup: int, verdict: int) -> None: ...

    def stop(self) -> None:
        """The recording itself contains the events after the session had stopped."""

    def close(self) -> None: ...
