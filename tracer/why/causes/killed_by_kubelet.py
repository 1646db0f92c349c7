# SPDX-License-Identifier: Apache-2.0
"""The kubelet itself killed the container's processes, bypassing the runtime, as it does with
leftovers of a deleted pod."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.kubectl import describe
from tracer.why.common.phrases import who
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    blow = story.blow()
    if blow is None or blow.body["origin"] != "kubelet":
        return None
    assert story.end is not None
    return Verdict(
        "killed_by_kubelet",
        f"killed by the kubelet itself: {blow.body['signal']['name']} from {who(blow.event.by)}",
        Certainty.CERTAIN,
        (blow, story.end),
        "the kubelet clears away what is left of pods that were deleted while it did not run, and"
        f" of evicted ones: {describe(story.place)} says Evicted, or that the pod is gone; its log"
        " (journalctl -u kubelet) names orphaned pods",
    )


CAUSE = Cause(66, _judge, was_ordered=True)
