# SPDX-License-Identifier: Apache-2.0
"""The other side reset connections of the pod."""

from __future__ import annotations

from tracer.timeline import Story
from tracer.verdicts import Cause, Certainty, Verdict
from tracer.verdicts._phrases import address, times
from tracer.verdicts._resets import RESTS_ON, peers, total


def _judge(story: Story) -> Verdict | None:
    found = [
        entry
        for entry in story.of("tcp_reset")
        if entry.body["direction"] == "received" and entry.body["reason"] != "connection_refused"
    ]
    if not found:
        return None
    return Verdict(
        "reset_by_peer",
        f"{times(total(found), 'connection')} reset by the other side, {peers(found)}: the last one"
        f" from {address(found[-1].last.body['remote'])}",
        Certainty.CERTAIN,
        tuple(found),
        "the reason is on the other side: if that is a pod of this cluster, ktrace resets on its"
        " node; else a proxy or a firewall in between may have a shorter time-out",
    )


CAUSE = Cause(10, _judge, rests_on=RESTS_ON)
