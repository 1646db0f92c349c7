# SPDX-License-Identifier: Apache-2.0
"""A service's replies reached the pod from the backend's address instead of the service's. The pod
knows no such connection and resets it."""

from __future__ import annotations

from tracer.why.cause import Cause
from tracer.why.common.phrases import written
from tracer.why.common.resets import RESTS_ON, Part, evidence, here, parts, peers, total
from tracer.why.sorts import End, Sort
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict


def _judge(story: Story) -> Verdict | None:
    found = [part for part in parts(story, Sort.REPLY) if is_untranslated(part)]
    if not found:
        return None
    count = total(found)
    asked = next((part.entry.asked for part in found if part.entry.asked), None)
    return Verdict(
        "reply_not_translated",
        f"{count} repl{'y' if count == 1 else 'ies'} of {peers(found)} came to"
        f" {here(story)} under its own address{_instead_of(asked)}: it was not translated"
        " back, and the connection was reset",
        Certainty.LIKELY,
        evidence(found),
        "conntrack called the reply INVALID (outside of the window it expects) or had lost the"
        " entry: drop such packets (iptables -I FORWARD -m conntrack --ctstate INVALID -j DROP) or"
        " have them taken (net.netfilter.nf_conntrack_tcp_be_liberal=1), and see that nobody"
        " deletes entries of live connections (conntrack -D); kubernetes/kubernetes#74839",
        (
            "that it was a reply is told by its port"
            + (", from which another address was asked" if asked else " and by SYN and ACK in it"),
        ),
        harm=count,
    )


def is_untranslated(part: Part) -> bool:
    """Whether something shows that it is not a connection that had ended here."""
    answered = part.event.body.get("answered") or ()
    opens = "SYN" in answered and "ACK" in answered
    return part.entry.sort is Sort.REPLY and (part.entry.asked is not None or opens)


def _instead_of(asked: End | None) -> str:
    if asked is None:
        return ""
    return f" instead of {written(*asked)}"


CAUSE = Cause(17, _judge, rests_on=RESTS_ON)
