# SPDX-License-Identifier: Apache-2.0
"""The pod's sandbox is ready, but no container was made or started in it: an image or a ConfigMap
is missing. Nothing dies, so there is no event."""

from __future__ import annotations

from tracer.model.units import span
from tracer.why.cause import Cause
from tracer.why.common.kubectl import kubectl
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    state = story.state
    if state is None or state.ready_ns is None or state.running:
        return None
    created = [one.name for one in state.newest() if one.state == "created"]
    if state.containers and not created:
        return None
    waited = span(state.waited_ns)
    what = (
        f"the runtime made {', '.join(created)} {waited} ago, and it was not started"
        if created
        else f"its sandbox is ready for {waited}, and the runtime was not asked for a container"
    )
    return Verdict(
        "not_started" if created else "no_container",
        f"waiting: {what}",
        Certainty.UNKNOWN,
        (),
        f"{kubectl('describe pod', story.place)} says what the kubelet waits for: often an image"
        " (ErrImagePull, ErrImageNeverPull), or a ConfigMap or Secret that is not there"
        " (CreateContainerConfigError)",
        ("the kubelet and the API server alone know why",),
    )


CAUSE = Cause(6, _judge, rests_on=frozenset())
