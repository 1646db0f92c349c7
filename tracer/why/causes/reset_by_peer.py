# SPDX-License-Identifier: Apache-2.0
"""The other side reset the pod's connections; says why if the other end was seen."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.why.cause import Cause
from tracer.why.causes.used_after_close import is_of_a_closed_one
from tracer.why.common.phrases import times, who
from tracer.why.common.resets import RESTS_ON, Part, evidence, idle, parts, peers, seen, total
from tracer.why.sorts import Sort, at_service
from tracer.why.story import Story
from tracer.why.verdict import Verdict

_UNSEEN = (
    "the reason is on the other side: if that is a pod of this cluster, ktrace resets on its"
    " node; else a proxy or a firewall in between may have a shorter time-out"
)

_SEEN = (
    "the reason is on the other side, and said there, too: if that is a pod, ktrace why of it; else"
    " ktrace resets --all"
)


def _judge(story: Story) -> Verdict | None:
    found = [
        part
        for part in parts(story, Sort.BY_PEER, Sort.USED_AFTER_CLOSE)
        if not (part.from_elsewhere or is_of_a_closed_one(part) or _is_of_a_leaver(part))
    ]
    if not found:
        return None
    sure, doubts = seen(found)
    return Verdict(
        "reset_by_peer",
        f"{times(total(found), 'connection')} reset by {peers(found)}{_reasons(found)}"
        f"{idle(found)}",
        sure,
        evidence(found),
        _UNSEEN if doubts else _SEEN,
        doubts,
        harm=total(found),
    )


def _is_of_a_leaver(part: Part) -> bool:
    """Whether the other end shows a client that left."""
    served = at_service(part.event.body)
    return served and part.other is not None and part.other.sort is Sort.HARMLESS


def _reasons(found: Sequence[Part]) -> str:
    """The reasons at the other ends, and the processes that caused the resets."""
    said: dict[str, None] = {}
    for part in found:
        if part.other is None:
            continue
        meaning = part.other.event.body["meaning"] or "for a reason that its kernel does not name"
        closer = part.other.event.about
        said[f"{meaning} by {who(closer)}" if closer else meaning] = None
    return f" ({'; '.join(list(said)[:3])})" if said else ""


CAUSE = Cause(10, _judge, rests_on=RESTS_ON)
