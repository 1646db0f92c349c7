# SPDX-License-Identifier: Apache-2.0
"""Killed by a process: of the same container, the same pod, another pod or the host."""

from __future__ import annotations

from tracer.model.origin import suspicious
from tracer.why.cause import Cause
from tracer.why.common.killed import blow_of_a_process, judged, sentence
from tracer.why.story import Story
from tracer.why.verdict import Verdict

_REMEDIES = {
    "same-container": "it was killed from inside: look for kill, timeout or a supervisor in the"
    " image's scripts, and for commands run with kubectl exec",
    "same-pod": "the pod shares its PID namespace (shareProcessNamespace): look at what the other"
    " container signals, or give up sharing",
    "other-pod": "the other pod has hostPID: true; stop it, or take hostPID away",
    "host": "look on the node at the sender and at who started it: cron jobs, agents and people",
}


def _judge(story: Story) -> Verdict | None:
    blow = blow_of_a_process(story)
    if blow is None or (blow.event.by is not None and suspicious(blow.event.by)):
        return None
    origin = blow.body["origin"]
    assert origin is not None
    verdict_id = f"killed_from_{origin.replace('-', '_')}"
    return judged(story, blow, verdict_id, sentence(blow), _REMEDIES[origin])


CAUSE = Cause(80, _judge, headline="KilledByProcess")
