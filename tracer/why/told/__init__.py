# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes says of a story. Each module here knows one thing that it may say and describes
itself with `LISTENER`; no other list of them exists.

The kernel's facts stand for themselves. Kubernetes' are told as its own, in front of the verdict,
and take the place of what was inferred from the order of events.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace
from functools import cache

from tracer.why.common.kubectl import ask_kubernetes
from tracer.why.reasons import reasons_of, stop_of
from tracer.why.statement import Hearing, Listener, Statement
from tracer.why.story import Story
from tracer.why.verdict import Verdict

ABOVE = "what Kubernetes says above"


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


@cache
def _listeners() -> tuple[Listener, ...]:
    every = [importlib.import_module(f"{__name__}.{name}").LISTENER for name in names()]
    return tuple(sorted(every, key=lambda listener: listener.order))


def statement(story: Story, *, ordered: bool) -> Statement | None:
    """`ordered` says that the container was stopped."""
    if story.told is None:
        return None
    stop = stop_of(story) if ordered else None
    hearing = Hearing(story, story.told, stop, tuple(reasons_of(stop)) if stop else ())
    return next((s for one in _listeners() if (s := one.hear(hearing)) is not None), None)


def with_told(verdict: Verdict, said: Statement | None, story: Story) -> Verdict:
    """Puts the statement in front, and the answer where the remedy names the question."""
    if story.told is None:
        return verdict
    remedy = verdict.remedy
    for question in ask_kubernetes(story.place):
        remedy = remedy.replace(question, ABOVE)
    sentence = verdict.sentence
    if said is not None:
        clauses = [f"Kubernetes says {said.words}", *([said.seen] if said.seen else []), sentence]
        sentence = "; ".join(clauses)
        remedy = f"{said.remedy}; {remedy}" if said.remedy else remedy
    return replace(verdict, sentence=sentence, remedy=remedy, told=story.told)
