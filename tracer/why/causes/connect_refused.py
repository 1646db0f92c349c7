# SPDX-License-Identifier: Apache-2.0
"""The pod's attempts to connect were refused without a reset: a firewall's rule did it. Those that
a reset refused are told by the resets, if they were traced."""

from __future__ import annotations

from tracer.probes.connects import ICMP
from tracer.why.cause import Cause
from tracer.why.common.connects import RESTS_ON, also_waiting, connects, dropped, of_theirs, to
from tracer.why.common.phrases import times
from tracer.why.common.resets import RESTS_ON as RESETS
from tracer.why.common.resets import total
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    refused = connects(story, "refused")
    rejected = [entry for entry in refused if entry.body["answer"] == ICMP]
    if rejected:
        waiting, more = also_waiting(story, rejected)
        drops = dropped(story, rejected)
        return Verdict(
            "connect_refused",
            f"{times(total(rejected), 'attempt')} to connect to {to(rejected)} refused by a message"
            f" of ICMP, not by that side's TCP: a firewall's rule did it"
            f"{of_theirs(story, drops)}{more}",
            Certainty.LIKELY,
            (*rejected, *drops),
            "if it is a Service's address, the Service has no endpoint that is ready (kubectl get"
            " endpointslices), and kube-proxy refuses in its name; else look for rules that reject,"
            " on the node and in the pod (iptables-save | grep REJECT; nft list ruleset | grep"
            " reject), and for network policies",
            ("that it was ICMP follows from this: the kernel saw no reset",),
            harm=total(rejected) + waiting,
        )
    if not refused or story.traced is None or story.traced & RESETS:
        return None
    return Verdict(
        "connect_refused",
        f"{times(total(refused), 'attempt')} to connect refused by {to(refused)}",
        Certainty.CERTAIN,
        tuple(refused),
        "nothing listens there: is that pod ready, and the port right?",
        harm=total(refused),
    )


CAUSE = Cause(9, _judge, rests_on=RESTS_ON)
