# SPDX-License-Identifier: Apache-2.0
"""The OOM killer took a child while the container's first process lived on. Kubernetes shows
nothing until the container ends, and then mostly OOMKilled, whatever the cause."""

from __future__ import annotations

from tracer.model.units import span
from tracer.why.cause import Cause
from tracer.why.common.children import called
from tracer.why.common.memory import fatal_oom, hints_of, remedy_of_child, unknown_limit
from tracer.why.common.phrases import times, whose_limit
from tracer.why.common.shown import LATER
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    ooms = story.of("oom")
    if not ooms or fatal_oom(story) is not None:
        return None
    last = ooms[-1]
    if last.body["victim"].facts["is_container_init"]:
        return None
    doubts = unknown_limit(last.last.body)
    if last.body["victim"].facts["is_container_init"] is None:
        doubts = (*doubts, "the container shares its PID namespace: its first process is not known")
    victim, descent = called(story, last.last.about)
    doubts = (*doubts, *descent)
    after = f"the container goes on; {LATER}"
    if story.end is not None:
        after = f"the container went on for {span(story.end.boot_ns - last.last_ns)}"
    count = sum(entry.count for entry in ooms)
    others = f" ({times(count, 'kill')} in all)" if count > 1 else ""
    return Verdict(
        "oom_of_child",
        f"out of memory: {victim} was killed because {whose_limit(last.last.body)} was used"
        f" up{others}; {after}",
        Certainty.LIKELY if doubts else Certainty.CERTAIN,
        tuple(ooms),
        remedy_of_child(last.last.body),
        doubts,
        hints=hints_of(last.last.body),
    )


CAUSE = Cause(25, _judge, rests_on=frozenset(("oom",)), headline="OutOfMemory")
