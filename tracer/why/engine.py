# SPDX-License-Identifier: Apache-2.0
"""Judges a story: tries all causes on it. The most specific one that holds wins; the others are
listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from tracer.model.origin import outside_of_packages
from tracer.probes.exits import ExitBody
from tracer.probes.signals import is_signal
from tracer.why.cause import ALL_OF_AN_END, RESTART_LOOP, Cause
from tracer.why.causes import causes
from tracer.why.common.kubectl import events
from tracer.why.common.plain import with_plain_words
from tracer.why.common.shown import hints_of
from tracer.why.entry import Entry
from tracer.why.reasons import reasons_of, stop_of
from tracer.why.statement import Statement
from tracer.why.story import ANY_PROBE, UNDESCRIBED, Story
from tracer.why.told import statement, with_told
from tracer.why.verdict import Certainty, Verdict
from tracer.why.words import with_words

_OF_THE_NODE = {"runtime": "container runtime", "kubelet": "kubelet"}


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """The verdict on a story, and the less specific ones that hold too. Those of unknown certainty
    are left out if the verdict is better. Compared by identity."""

    story: Story
    verdict: Verdict
    others: tuple[Verdict, ...]


def explain(story: Story) -> Explanation | None:
    """None if nothing happened that needs a verdict."""
    for cause in causes():
        verdict = cause.judge(story)
        if verdict is not None:
            verdict = with_words(verdict)
            said = statement(story, ordered=cause.was_ordered)
            if cause.was_ordered:
                verdict = _with_reasons(verdict, story, said)
            verdict = with_told(verdict, said, story)
            name = cause.headline or verdict.id.replace("_", " ").title().replace(" ", "")
            verdict = replace(with_plain_words(verdict, story.place), headline=name)
            story.found.append(_doubted(verdict, cause, story))
    if not story.found:
        return None
    story.found = _worst_last(story.found)
    *others, verdict = story.found
    worse = verdict.certainty is not Certainty.UNKNOWN
    others = [o for o in others if not (worse and o.certainty is Certainty.UNKNOWN)]
    verdict = replace(verdict, hints=(*verdict.hints, *hints_of(story)))
    return Explanation(story, verdict, tuple(reversed(others)))


def _worst_last(found: Sequence[Verdict]) -> list[Verdict]:
    """Sorts the verdicts with harm among themselves by their harm; all others keep their places."""
    harmful = iter(sorted((v for v in found if v.harm), key=lambda verdict: verdict.harm))
    return [next(harmful) if verdict.harm else verdict for verdict in found]


def _with_reasons(verdict: Verdict, story: Story, said: Statement | None) -> Verdict:
    """Puts the reasons before the verdict. A reason is inferred, so the certainty is at most
    likely, unless Kubernetes has `said` it. Without any, the remedy names the kubectl command that
    may know it."""
    stop = stop_of(story)
    every = reasons_of(stop) if stop else []
    known = [one for one in every if said and one.id in said.settles]
    found = [one for one in every if one not in known]
    evidence = dict.fromkeys(entry for reason in every for entry in reason.evidence)
    verdict = replace(
        verdict,
        evidence=tuple(dict.fromkeys((*evidence, *verdict.evidence))),
        reasons=tuple(reason.id for reason in every),
    )
    if not found:
        if story.place.identity.pod_uid is None or said is not None:
            return verdict
        who = f"who ordered it (a rollout, a failed probe, a drain): {events(story.place)}"
        return replace(verdict, remedy=f"{verdict.remedy}; {who}")
    words = [f"{reason.words} (likely)" for reason in found]
    doubts = [f"that {reason.what} is told by {reason.inferred_from}" for reason in found]
    remedies = dict.fromkeys(reason.remedy for reason in found)
    return replace(
        verdict,
        sentence="; ".join([*words, verdict.sentence]),
        certainty=Certainty.LIKELY,
        remedy="; ".join([*remedies, verdict.remedy]),
        doubts=(*verdict.doubts, *doubts),
    )


@dataclass(slots=True)
class _Lives:
    """One container's lives: the end of each with its verdict, and the explanations to show."""

    ends: list[tuple[Entry[ExitBody], Verdict]] = field(default_factory=list)
    told: list[Explanation] = field(default_factory=list)


def explain_all(stories: Iterable[Story]) -> list[Explanation]:
    """The explanations in order of time. A container that ends again and again is one story, the
    last."""
    explanations: dict[Explanation, None] = {}
    containers: dict[tuple[str | None, str | None], _Lives] = {}
    for story in stories:
        lives = containers.setdefault(_who(story), _Lives())
        story.earlier = lives.ends
        explanation = explain(story)
        if explanation is None:
            continue
        if explanation.verdict.id == RESTART_LOOP:
            for earlier in lives.told:
                del explanations[earlier]
            lives.told.clear()
        if story.end is not None:
            lives.ends.append((story.end, _innermost(explanation)))
            lives.told.append(explanation)
        explanations[explanation] = None
    return list(explanations)


def _innermost(explanation: Explanation) -> Verdict:
    """The verdict on the end itself, also if the explanation is a restart loop."""
    if explanation.verdict.id == RESTART_LOOP:
        return explanation.others[0]
    return explanation.verdict


def _who(story: Story) -> tuple[str | None, str | None]:
    """A key shared by all lives of a container. Unnamed containers have keys of their own."""
    container = story.place.container
    name = container.name if container else None
    return story.place.identity.pod_uid, name or story.place.identity.container_id


def _doubted(verdict: Verdict, cause: Cause, story: Story) -> Verdict:
    """Lowers the certainty for events that the tracing missed."""
    doubts = list(verdict.doubts)
    lost: Counter[str] = Counter()
    for loss in story.losses:
        if loss.probe in cause.rests_on or loss.probe == ANY_PROBE:
            lost[loss.probe] += loss.count
        elif loss.probe == UNDESCRIBED and cause.rests_on & ALL_OF_AN_END:
            lost[UNDESCRIBED] += loss.count
    if count := lost.pop(UNDESCRIBED, 0):
        doubts.append(
            f"{count} events in the minute before are of processes whose description was lost: any"
            " container's"
        )
    for probe, count in lost.items():
        doubts.append(f"{count} {probe} events were lost in the minute before")
    if story.traced is not None:
        for probe in sorted(cause.rests_on - story.traced):
            doubts.append(f"{probe} was not traced")
    if story.end is not None and story.end.body["container_exit"] is None:
        doubts.append(
            "the PID namespace is shared, so it may not have been the container's first process"
        )
    for entry in verdict.evidence:
        sender = entry.event.by
        origin = entry.event.body["origin"] if is_signal(entry.event) else None
        what = _OF_THE_NODE.get(origin or "")
        if what and sender and outside_of_packages(sender.exe):
            doubts.append(f"{sender.exe} lies where no package puts a {what}")
        doubts += entry.event.doubts
    doubts = list(dict.fromkeys(doubts))
    if tuple(doubts) == verdict.doubts:
        return verdict
    certainty = Certainty.LIKELY if verdict.certainty is Certainty.CERTAIN else verdict.certainty
    return replace(verdict, certainty=certainty, doubts=tuple(doubts))
