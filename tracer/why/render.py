# SPDX-License-Identifier: Apache-2.0
"""An explanation as text for people, and as an event."""

from __future__ import annotations

from functools import cache

import click

from tracer import probes
from tracer.model.event import Clock, Event
from tracer.model.units import span
from tracer.model.verdict import CauseBody, Moment, Reference, VerdictBody
from tracer.outputs.escape import escape
from tracer.outputs.terminal import wrapped
from tracer.probes import Probe
from tracer.probes.columns import container_name, pod_name
from tracer.why.attributed import told_json, told_lines
from tracer.why.engine import Explanation
from tracer.why.entry import Entry
from tracer.why.life import is_ordinary
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

# How many of the last entries before the explained moment the timeline shows besides the evidence.
MAX_LINES = 20
# The column at which the words of the timeline begin.
TEXT_AT = 13

_CERTAINTIES = {
    Certainty.CERTAIN: "certain: the kernel said so",
    Certainty.LIKELY: "likely",
    Certainty.UNKNOWN: "unknown",
}
# The words say the same.
_COLOURS = {Certainty.CERTAIN: "green", Certainty.LIKELY: "yellow", Certainty.UNKNOWN: "red"}


def subject(story: Story) -> str:
    """`shop/web-0 nginx`, as far as known."""
    parts = pod_name(story.place), container_name(story.place)
    return " ".join(part for part in parts if part) or "a container that is not known"


def to_text(
    explanation: Explanation, clock: Clock, *, colour: bool = False, width: int | None = None
) -> str:
    """The sentence, then its certainty, the timeline, hints, the remedy and the other causes that
    hold. Lines longer than `width` are wrapped."""
    story, verdict = explanation.story, explanation.verdict

    def line(text: str, indent: int) -> str:
        return wrapped(escape(text), indent, width)

    sentence = line(f"{subject(story)}: {verdict.sentence}", 4)
    certainty = line(f"  {_certainty(verdict)}", 4).lstrip()
    if colour:
        sentence = click.style(sentence, bold=True)
        certainty = click.style(certainty, fg=_COLOURS[verdict.certainty])
    timeline = [line(text, TEXT_AT) for text in _timeline_lines(explanation, clock)]
    if timeline:  # empty for a pod in which nothing happened
        timeline.insert(0, "")
    if verdict.told:
        told = told_lines(verdict.told, story, until_ns=story.until_ns())
        timeline += ["", *(line(text, TEXT_AT) for text in told)]
    hints = [line(f"  hint: {hint}", 8) for hint in verdict.hints]
    remedy = line(f"  do: {verdict.remedy}", 6)
    others = [line(f"  also: {o.sentence} ({o.certainty})", 8) for o in explanation.others]
    return "\n".join([sentence, f"  {certainty}", *timeline, "", *hints, remedy, *others]) + "\n"


def to_event(explanation: Explanation, clock: Clock) -> Event[VerdictBody]:
    """An event of kind `verdict` for sinks. It refers to its evidence by kind and `boot_ns`."""
    story, verdict = explanation.story, explanation.verdict
    until = story.until_ns()
    body: VerdictBody = {
        "verdict": verdict.id,
        "sentence": verdict.sentence,
        "certainty": verdict.certainty.value,
        "doubts": list(verdict.doubts),
        "reasons": list(verdict.reasons),
        "hints": list(verdict.hints),
        "headline": verdict.headline,
        "evidence": [_reference(entry, clock) for entry in verdict.evidence],
        "remedy": verdict.remedy,
        "timeline": [_moment(entry, clock, until) for entry in shown(explanation)],
        "others": [_verdict_json(other) for other in explanation.others],
    }
    if verdict.told:
        body["kubernetes"] = told_json(verdict.told)
    because = tuple(entry.event for entry in verdict.evidence)
    return Event("verdict", until, None, None, body, story.place, because=because)


def shown(explanation: Explanation) -> list[Entry]:
    """The evidence, and the last entries besides it."""
    evidence = explanation.verdict.evidence
    rest = _besides(explanation)[-MAX_LINES:]
    return sorted([*evidence, *rest], key=lambda entry: entry.boot_ns)


def not_shown(explanation: Explanation) -> int:
    """How many earlier events worth showing are not shown."""
    older = _besides(explanation)[:-MAX_LINES]
    return explanation.story.left_out + sum(entry.count for entry in older)


def _besides(explanation: Explanation) -> list[Entry]:
    evidence = explanation.verdict.evidence
    until = explanation.story.until_ns()
    return [
        entry
        for entry in explanation.story.entries
        if entry not in evidence and entry.boot_ns <= until and not is_ordinary(entry.event)
    ]


def summary(entry: Entry) -> str:
    """The summary by the event's own probe, and how often it came."""
    again = ""
    if entry.last is not entry.event:
        over = span(entry.last_ns - entry.event.boot_ns)
        again = f", {entry.count} times within {over}"
    return _probe_of(entry.event.kind).summary(entry.event) + again


def _certainty(verdict: Verdict) -> str:
    words = _CERTAINTIES[verdict.certainty]
    return f"{words}: {'; '.join(verdict.doubts)}" if verdict.doubts else words


def _timeline_lines(explanation: Explanation, clock: Clock) -> list[str]:
    """The timeline with offsets to the explained moment. Evidence is marked."""
    if not explanation.story.entries:
        return []
    until = explanation.story.until_ns()
    lines = [f"  {clock.iso(until)[:19].replace('T', ' ')} UTC is 0"]
    for entry in shown(explanation):
        offset = entry.boot_ns - until
        sign = "-" if offset < 0 else "+" if offset > 0 else " "
        mark = "*" if entry in explanation.verdict.evidence else " "
        lines.append(f"  {sign + (span(offset) if offset else '0'):>8} {mark} {summary(entry)}")
    if older := not_shown(explanation):
        lines.append(f"           {older} older ones are not shown")
    return lines


def _verdict_json(verdict: Verdict) -> CauseBody:
    return {
        "verdict": verdict.id,
        "sentence": verdict.sentence,
        "certainty": verdict.certainty.value,
        "doubts": list(verdict.doubts),
        "reasons": list(verdict.reasons),
        "hints": list(verdict.hints),
    }


def _reference(entry: Entry, clock: Clock) -> Reference:
    event = entry.event
    return {"kind": event.kind, "time": clock.iso(event.boot_ns), "boot_ns": event.boot_ns}


def _moment(entry: Entry, clock: Clock, until: int) -> Moment:
    offset = entry.boot_ns - until
    words = summary(entry)
    return {**_reference(entry, clock), "offset_ns": offset, "text": words, "count": entry.count}


@cache
def _probe_of(kind: str) -> Probe:
    every = (probes.get(name) for name in probes.names())
    return next(probe for probe in every if kind in probe.whose)
