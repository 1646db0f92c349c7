# SPDX-License-Identifier: Apache-2.0
"""The agent's sink: events go to the judge and become items for the publishers. It makes an item
only if a publisher wants it, and at most so many of events in a second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from tracer.agent.history.lives import Lives
from tracer.agent.item import Item, ItemKind, Life, Severity, life_of
from tracer.agent.judge import Judge
from tracer.agent.outlet import Outlet
from tracer.model.event import Clock, Event, LostBody, is_loss, to_json
from tracer.outputs.exporters.otlp import about_key
from tracer.probes import DAMAGE, Probe
from tracer.probes.exits import is_exit
from tracer.why.engine import Explanation
from tracer.why.life import ends_container
from tracer.why.render import subject, to_event

# Events that become items. Their JSON is what is expensive, and one takes 50 µs.
MAX_EVENTS_A_SECOND = 1000
NS = 1_000_000_000

Tell = Callable[[Explanation, Item], None]


class Feed:
    """A `tracer.session.session.Sink`. `tell` gets each verdict and `lives` each end, for the
    history. `probes` are by the kinds of their events; set `judge` before the first event."""

    judge: Judge

    def __init__(
        self,
        probes: Mapping[str, Probe],
        outlets: Sequence[Outlet],
        clock: Clock,
        node: str,
        lives: Lives,
        tell: Tell,
    ) -> None:
        self.lost: Counter[str] = Counter()
        self._probes = probes
        self._outlets = outlets
        self._clock = clock
        self._node = node
        self._lives = lives
        self._tell = tell
        self._observe = [o.sender.observe for o in outlets if o.sender.observes]
        least = [o.sender.least for o in outlets if "event" in o.sender.kinds]
        self._least = min(least, default=None)
        self._second = self._made = 0

    def event(self, event: Event) -> None:
        self.judge.event(event)
        for observe in self._observe:
            observe(event)
        if is_exit(event) and ends_container(event):
            self._lives.ended(event)
        if is_loss(event):
            self._lose(event)
        elif self._least is not None:
            alarm = self._probes[event.kind].alarm(event)
            severity = Severity.WARN if alarm else Severity.INFO
            if severity >= self._least:
                self._publish(event, severity)

    def flush(self) -> None:
        self.judge.look()

    def explained(self, explanation: Explanation) -> None:
        """A verdict of the judge."""
        event = to_event(explanation, self._clock)
        story = explanation.story
        sentence = f"{subject(story)}: {explanation.verdict.sentence}"
        if story.end is not None:
            life = self._lives.with_end(story.end.event)
        else:
            life = self._lives.life(story.place)
        item = self._item("verdict", event, Severity.WARN, sentence, life)
        self._tell(explanation, item)
        self.put(item)

    def put(self, item: Item) -> None:
        for outlet in self._outlets:
            if outlet.wants(item):
                outlet.accept(item)

    def _lose(self, event: Event[LostBody]) -> None:
        self.lost[event.body["probe"]] += event.body["count"]
        words = f"{event.body['count']} events of {event.body['probe']} were lost"
        self.put(self._item("lost", event, Severity.WARN, words))

    def _publish(self, event: Event, severity: Severity) -> None:
        second = event.boot_ns // NS
        if second != self._second:
            self._second, self._made = second, 0
        self._made += 1
        takers = [
            o for o in self._outlets if "event" in o.sender.kinds and severity >= o.sender.least
        ]
        if self._made > MAX_EVENTS_A_SECOND:
            for outlet in takers:
                outlet.drop(1)
            return
        try:
            words = self._probes[event.kind].summary(event)
            life = life_of(event.place, self._clock) if event.place else None
            item = self._item("event", event, severity, words, life)
        except DAMAGE:  # what is no text, for one
            for outlet in takers:
                outlet.drop(1)
            return
        for outlet in takers:
            outlet.accept(item)

    def _item(
        self, kind: ItemKind, event: Event, severity: Severity, words: str, life: Life | None = None
    ) -> Item:
        json = to_json(event, self._clock, self._node)
        time_ns = self._clock.utc_ns(event.boot_ns)
        return Item(kind, time_ns, severity, words, json, life, about_key(event))
