# SPDX-License-Identifier: Apache-2.0
"""The other side refused the pod's connections: who sent the resets, if that was seen."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.identity.netns import owner_of
from tracer.probes.connects import RESET
from tracer.why.cause import Cause
from tracer.why.common.connects import connects
from tracer.why.common.phrases import times
from tracer.why.common.resets import RESTS_ON, Part, evidence, parts, peers, seen, total
from tracer.why.entry import Entry
from tracer.why.sorts import Sort
from tracer.why.story import Story
from tracer.why.verdict import Verdict


def _judge(story: Story) -> Verdict | None:
    found = [part for part in parts(story, Sort.REFUSED) if not part.from_elsewhere]
    if not found:
        return None
    sure, doubts = seen(found)
    remedy = "the other side has nothing listening there: is that pod ready, and the port right?"
    if doubts:
        remedy += " If something listens, look for a firewall's rule (REJECT) or a network policy"
    return Verdict(
        "refused_by_peer",
        f"{times(total(found), 'attempt')} of its own to connect refused by {peers(found)}"
        f"{_senders(found)}",
        sure,
        (*evidence(found), *_connects(story, found)),
        remedy,
        doubts,
        harm=total(found),
    )


def _senders(found: Sequence[Part]) -> str:
    """`; that side's TCP sent the resets, as nothing listens there`; empty where none was seen."""
    others = [part.other for part in found if part.other]
    if len(others) < len(found):
        return ""
    places = [other.event.place for other in others]
    owners = {owner_of(place) if place else None for place in places}
    who = "that side's TCP" if len(owners) == 1 else "each side's TCP"
    if owners == {None} and all(places):
        who = "the node's own TCP"
    closed = all(other.sort is Sort.CLOSED_PORT for other in others)
    return f"; {who} sent the resets" + (", as nothing listens there" if closed else "")


def _connects(story: Story, found: Sequence[Part]) -> list[Entry]:
    """The attempts that these resets ended."""
    ends = [part.event.body["remote"] for part in found]
    remotes = {(end["address"], end["port"]) for end in ends}
    return [
        entry
        for entry in connects(story, "refused")
        if entry.body["answer"] == RESET
        and (entry.body["remote"]["address"], entry.body["remote"]["port"]) in remotes
    ]


CAUSE = Cause(12, _judge, rests_on=RESTS_ON)
