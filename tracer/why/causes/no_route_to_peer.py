# SPDX-License-Identifier: Apache-2.0
"""The pod's attempts to connect were answered by ICMP: the address cannot be reached."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.probes.connects import ConnectBody
from tracer.why.cause import Cause
from tracer.why.common.connects import RESTS_ON, also_waiting, connects, dropped, of_theirs, to
from tracer.why.common.phrases import times
from tracer.why.common.resets import total
from tracer.why.entry import Entry
from tracer.why.story import Story
from tracer.why.verdict import Certainty, Verdict

_PERHAPS_NO_HARM = (
    "a program that asks over IPv6 first may have connected over IPv4 then: that is not told here"
)


def _judge(story: Story) -> Verdict | None:
    found = connects(story, "unreachable")
    if not found:
        return None
    waiting, more = also_waiting(story, found)
    drops = dropped(story, found)
    doubts = (_PERHAPS_NO_HARM,) if all(_is_ipv6(entry) for entry in found) else ()
    return Verdict(
        "no_route_to_peer",
        f"{times(total(found), 'attempt')} to connect to {to(found)} ended by a message of ICMP:"
        f" {_errors(found)}{more}{of_theirs(story, drops)}",
        Certainty.LIKELY if doubts else Certainty.CERTAIN,
        (*found, *drops),
        "EHOSTUNREACH after some seconds: nobody with that address answered ARP or NDP, so the pod"
        " or node that had it is gone; at once: a router or firewall refuses (ICMP says which:"
        " tcpdump -n icmp or icmp6 in the pod's network namespace). ENETUNREACH: a router has no"
        " route there",
        doubts,
        harm=total(found) + waiting,
    )


def _is_ipv6(entry: Entry[ConnectBody]) -> bool:
    return ":" in (entry.body["remote"]["address"] or "")


def _errors(found: Sequence[Entry[ConnectBody]]) -> str:
    return ", ".join(dict.fromkeys(entry.body["errno"] or "unreachable" for entry in found))


CAUSE = Cause(14, _judge, rests_on=RESTS_ON)
