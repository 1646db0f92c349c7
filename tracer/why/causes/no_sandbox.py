# SPDX-License-Identifier: Apache-2.0
"""The pod has no sandbox, so nothing can run in it. Nothing dies, so there is no event."""

from __future__ import annotations

from tracer.model.units import span
from tracer.why.cause import Cause
from tracer.why.common.kubectl import kubectl
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    state = story.state
    if state is None or state.known:
        return None
    return Verdict(
        "no_sandbox",
        f"waiting, for {span(state.waited_ns)} at least: the kubelet has a cgroup for this pod, and"
        " the runtime no sandbox, so that nothing can run in it",
        Certainty.UNKNOWN,
        (),
        f"{kubectl('describe pod', story.place)} says why: FailedCreatePodSandBox is mostly the"
        " network plugin, FailedMount a volume that does not come; the runtime's own log has more",
        ("the kubelet alone knows whether making it failed or was not tried yet",),
    )


CAUSE = Cause(5, _judge, rests_on=frozenset())
