# SPDX-License-Identifier: Apache-2.0
"""The memory limit is too low for the container to start at all. With cgroup v2 the OOM killer hits
the runtime's first process in the container; v1 refuses such a limit."""

from __future__ import annotations

from tracer.model.units import size
from tracer.probes.oom.decoder import KillBody
from tracer.why.cause import Cause
from tracer.why.common.starting import is_preparing
from tracer.why.entry import Entry
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

# runc itself needs more to start a container; Docker refuses less than 6 MiB.
TINY = 1 << 20

_MISTAKEN_UNIT = (
    "a mistaken unit: in a manifest m means thousandths, and a number alone is bytes; write"
    " memory: 1024Mi, not 1024m or 1024"
)
_RAISE = "raise resources.limits.memory: the runtime alone needs a few MiB to start a container"


def _judge(story: Story) -> Verdict | None:
    """Also judges a container without a first process."""
    found = [entry for entry in story.of("oom") if _is_tiny(entry)]
    if not found:
        return None
    last = found[-1]
    limit = last.body["limit_bytes"]
    small = "less than a page" if limit == 0 else size(limit)
    return Verdict(
        "oom_tiny_limit",
        f"out of memory at a limit of {small}: too little for any program to start",
        Certainty.CERTAIN,
        (last, *([story.end] if story.end else [])),
        _MISTAKEN_UNIT if limit is not None and limit < TINY else _RAISE,
    )


def _is_tiny(entry: Entry[KillBody]) -> bool:
    """A larger limit is also too small if nothing but the runtime's first process ran below it. It
    must be the container's own limit, and not a command executed later."""
    body = entry.body
    limit, limit_of = body["limit_bytes"], body["limit_of"]
    if limit is None or limit_of not in ("container", "pod"):
        return False
    first = bool(body["victim"].facts["is_container_init"])
    alone = limit_of == "container" and first and is_preparing(entry.event.about)
    return limit < TINY or alone


CAUSE = Cause(93, _judge, rests_on=frozenset(("oom",)), headline="OutOfMemory")
