# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes shows of an OOM kill that took only a child. The runtime remembers the kill until
the container ends, whatever ends it."""

from __future__ import annotations

from tracer.model.units import span
from tracer.why.common.memory import fatal_oom
from tracer.why.story import Story

LATER = "Kubernetes shows nothing of it until then, and mostly OOMKilled, whatever ends it"


def hints_of(story: Story) -> tuple[str, ...]:
    """For a container that ended otherwise: why it is still reported as OOMKilled."""
    kills = [entry for entry in story.of("oom") if story.end and entry.boot_ns <= story.end.boot_ns]
    if not kills or story.end is None or fatal_oom(story) is not None:
        return ()
    ago = span(story.end.boot_ns - kills[-1].last_ns)
    shows = "Kubernetes mostly shows" if story.place.identity.pod_uid else "the runtime mostly says"
    return (
        f"{shows} OOMKilled for this end, because a child was killed for memory {ago} before; or"
        " Error, if the runtime heard of that only after the end",
    )
