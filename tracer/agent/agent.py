# SPDX-License-Identifier: Apache-2.0
"""The agent from its first probe to its last verdict.

The session's thread traces, judges and hands over; whatever may be slow (publishers, the listener,
the disk) has threads of its own with bounded queues.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tracer.agent.feed import Feed
from tracer.agent.health import Health, cpu_seconds, memory_bytes
from tracer.agent.history.bounds import Bounds
from tracer.agent.history.entry import Told
from tracer.agent.history.lives import Lives
from tracer.agent.history.store import Store
from tracer.agent.item import Item, Life, Severity
from tracer.agent.judge import Judge
from tracer.agent.listener import Listener, Unwell
from tracer.agent.lock import Lock
from tracer.agent.outlet import Outlet
from tracer.agent.publishers import Means, Options, Page, get
from tracer.agent.roots import Closer, Roots
from tracer.agent.runtime import Runtime
from tracer.backends import Cost
from tracer.identity.resolver import Resolver
from tracer.kernel.limits import reason
from tracer.model.event import Clock, keep_json
from tracer.model.turn import Turn
from tracer.recording.recorder import Recorder, recorder_of
from tracer.session.run import Run, TraceRequest
from tracer.session.session import Summary
from tracer.why.crash import FaultFinder
from tracer.why.engine import Explanation
from tracer.why.render import to_text
from tracer.why.timelines import Timelines, sees_both_ends, sees_drops

HEALTH_SECONDS = 60.0
COST_SECONDS = 5.0
# Without events and with nothing due, it comes round this often; for what is still to be written,
# sooner.
QUIET_SECONDS, SOON_SECONDS = 5.0, 0.5
# How long the publishers together may take at the end.
FLUSH_SECONDS = 5.0
JSON = "application/json"
# Bytes: an end is judged half a second later, and the JSON of a process is seldom told again.
MAX_TIMELINES, MAX_JSON = 3 << 20, 256 << 10


@dataclass(frozen=True)
class Settings:
    """`listen` is empty if nothing shall. `publishers` are the options of those that are on."""

    directory: Path
    bounds: Bounds
    request: TraceRequest
    node: str
    listen: str
    publishers: Mapping[str, Options]


class Agent:
    """`run` works until `stop`. `say` informs the user, from any thread."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        self._clock = Clock()
        self._began = self._came = time.monotonic()
        self._next_health = self._began + HEALTH_SECONDS
        self._next_cost = self._began
        self._cost = Cost()
        means = Means(settings.node, self._clock, say, self.health)
        self._outlets = [
            Outlet(name, get(name).make(options, means), say)
            for name, options in settings.publishers.items()
        ]
        kinds = {kind: probe for probe in settings.request.probes for kind in probe.whose}
        self._store: Store | None = None
        self._lives = Lives(self._clock, self._lived)
        self._feed = Feed(
            *(kinds, self._outlets, self._clock, settings.node, self._lives, self._explained)
        )
        self._timelines = Timelines(self._clock, most=MAX_TIMELINES)
        self._closer = Closer()
        self._faults = FaultFinder(self._closer.close)
        self._roots = Roots(self._faults, self._closer)
        self._runtime: Runtime | None = None
        self._judge = self._feed.judge = Judge(self._timelines, self._faults, self._feed.explained)
        keep_json(MAX_JSON)
        request = replace(settings.request, frugal=True)
        self._run = Run(request, self._feed, self._clock, say, self._record)

    @property
    def stopping(self) -> bool:
        return self._run.stopping

    def stop(self) -> None:
        """Ends it in order. May be called from a signal handler."""
        self._run.stop()

    @property
    def unrecorded(self) -> int:
        """Events that are not in the history."""
        return self._store.state.unrecorded if self._store else 0

    def run(self, attached: Callable[[], None]) -> Summary:
        """Calls `attached` when it traces."""
        directory = self._settings.directory
        lock = Lock(directory)
        listener: Listener | None = None
        try:
            listener = self._listener()
            self._store = Store(directory, self._clock, self._settings.bounds, self._say)
            with self._run as run:
                self._lives.began_ns = self._clock.now()
                run.attach()
                self._timelines.began_ns = self._clock.now()
                self._timelines.facts = run.session.facts
                self._timelines.traced = frozenset(probe.name for probe in run.probes)
                self._timelines.both_ends = sees_both_ends(run.selection, run.cannot_tell)
                self._timelines.sees_drops = sees_drops(run.selection, run.cannot_tell)
                self._ask_runtimes(run)
                for outlet in self._outlets:
                    outlet.start()
                if listener:
                    listener.start()
                attached()
                summary = run.run()
                self._tell_health()
                return summary
        finally:
            self._end(listener)
            lock.release()

    def came_round(self, turn: Turn, resolver: Resolver) -> None:
        """Called after each turn."""
        self._lives.look(turn.now, resolver)
        self._roots.look(resolver)
        if turn.last:
            self._judge.look(at_the_end=True)
        now = self._came = time.monotonic()
        if now >= self._next_cost:
            self._next_cost = now + COST_SECONDS
            self._cost = self._run.backend.cost()
            # what asks runtimes and peers leaves reference cycles behind
            gc.collect(1)
        if now >= self._next_health:
            self._next_health = now + HEALTH_SECONDS
            self._tell_health()

    def patience(self) -> float:
        untold = self._lives.untold or (self._store is not None and self._store.waiting)
        usual = SOON_SECONDS if untold else QUIET_SECONDS
        return min(self._judge.patience(), self._roots.patience(), usual)

    def health(self) -> Health:
        """May be called from any thread."""
        run, summary, now = self._run, self._run.summary, time.monotonic()
        attached = {}
        if hasattr(run, "backend"):
            attached = {name: point.name for name, point in run.backend.attached.items()}
        wanted = [probe.name for probe in self._settings.request.probes]
        return Health(
            attached=attached,
            missing=tuple(name for name in wanted if attached and name not in attached),
            events=summary.events,
            lost=dict(self._feed.lost),
            undescribed=summary.undescribed,
            verdicts=self._judge.told,
            forgotten=self._timelines.forgotten,
            silent=dict(run.silent),
            publishers={outlet.name: outlet.counts for outlet in self._outlets},
            history=self._store.state if self._store else None,
            seconds=now - self._began,
            quiet_seconds=now - self._came,
            cpu_seconds=cpu_seconds(),
            memory_bytes=memory_bytes(),
            cost=self._cost,
        )

    def _ask_runtimes(self, run: Run) -> None:
        runtime = Runtime(run.state_sources, lambda: run.session.resolver.names.pods)
        self._runtime = self._judge.runtime = runtime
        runtime.start()

    def _tell_health(self) -> None:
        health = self.health()
        severity = Severity.INFO if health.good else Severity.WARN
        self._feed.put(Item("health", time.time_ns(), severity, health.sentence, health.json()))

    def _listener(self) -> Listener | None:
        if not self._settings.listen:
            return None
        pages: dict[str, Page] = {"/healthz": self._healthz}
        for outlet in self._outlets:
            pages |= outlet.sender.pages()
        return Listener(self._settings.listen, pages)

    def _healthz(self) -> tuple[str, bytes]:
        health = self.health()
        if not health.good:
            raise Unwell(JSON, health.json())
        return JSON, health.json()

    def _explained(self, explanation: Explanation, item: Item) -> None:
        """A verdict, before it goes to the publishers."""
        story, verdict = explanation.story, explanation.verdict
        assert self._store and item.life
        self._store.tell(
            Told(
                *(item.life, item.time_ns, verdict.id, verdict.certainty.value, verdict.sentence),
                *(story.end is not None, item.json, to_text(explanation, self._clock)),
            ),
            min((entry.boot_ns for entry in verdict.evidence), default=story.until_ns()),
        )

    def _lived(self, life: Life) -> None:
        if self._store:
            self._store.live(life)

    def _record(self, run: Run) -> Rounds:
        assert self._store
        return Rounds(self, recorder_of(run, self._store, self._settings.node, self._unrecorded))

    def _unrecorded(self, error: OSError) -> None:
        self._say(f"ktrace: the history ends here: {reason(error)}; tracing goes on")

    def _end(self, listener: Listener | None) -> None:
        if self._runtime:
            self._runtime.stop()
        self._faults.close()
        until = time.monotonic() + FLUSH_SECONDS
        if self._store:
            self._store.finish(FLUSH_SECONDS)
        for outlet in self._outlets:
            outlet.stop(max(0.1, until - time.monotonic()))
        if listener:
            listener.stop()


class Rounds:
    """Makes the session come back in time for the agent. Takes the place of its recorder."""

    def __init__(self, agent: Agent, recorder: Recorder) -> None:
        self._agent = agent
        self._recorder = recorder

    @property
    def unrecorded(self) -> int:
        return self._recorder.unrecorded

    @property
    def failure(self) -> OSError | None:
        return self._recorder.failure

    def add(self, turn: Turn, waited: bool, resolver: Resolver) -> None:
        self._agent.came_round(turn, resolver)
        self._recorder.add(turn, waited, resolver)

    def patience(self, now: int) -> float:
        patience = self._agent.patience()
        return min(patience, self._recorder.patience(now)) if self._recorder.waiting else patience

    def close(self) -> None:
        self._recorder.close()
