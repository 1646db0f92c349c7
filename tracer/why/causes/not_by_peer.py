# SPDX-License-Identifier: Apache-2.0
"""Connections were refused or reset in the name of a pod that sent nothing: a firewall rule, a
network policy or a tool did it."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.phrases import times
from tracer.why.common.resets import RESTS_ON, evidence, parts, peers, total
from tracer.why.sorts import Sort
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = [
        part
        for part in parts(story, Sort.REFUSED, Sort.BY_PEER, Sort.USED_AFTER_CLOSE)
        if part.from_elsewhere
    ]
    if not found:
        return None
    refused = [part for part in found if part.entry.sort is Sort.REFUSED]
    reset = [part for part in found if part.entry.sort is not Sort.REFUSED]
    done = []
    if refused:
        done.append(f"{times(total(refused), 'attempt')} to connect refused")
    if reset:
        done.append(f"{times(total(reset), 'connection')} reset")
    what = " and ".join(done)
    return Verdict(
        "not_by_peer",
        f"{what} in the name of {peers(found)}, whose TCP sent no reset: a firewall's rule, a"
        " network policy or a tool did",
        Certainty.LIKELY,
        evidence(found),
        "look for rules that reject with a reset, on the node and in both pods' network namespaces"
        " (iptables-save | grep tcp-reset; nft list ruleset | grep reset), for network policies of"
        " both pods, and for what injects resets (tcpkill, an intrusion detection)",
        (
            "that somebody else sent it follows from this: the other pod is on this node, and its"
            " TCP was not seen to send anything",
        ),
        harm=total(found),
    )


CAUSE = Cause(13, _judge, rests_on=RESTS_ON)
