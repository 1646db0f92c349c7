# SPDX-License-Identifier: Apache-2.0
"""Dropped packets: picking them by reason, and how verdicts describe them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import TypeGuard

from tracer.identity.netns import owner_of
from tracer.probes.columns import pod_name
from tracer.probes.drops import NFTABLES, End, PacketBody, Tracking, is_drop, is_to_many
from tracer.probes.resets import is_reset
from tracer.why.common.phrases import shortened, written
from tracer.why.common.resets import here
from tracer.why.entry import Entry
from tracer.why.story import Story
from tracer.why.verdict import Certainty

RESTS_ON = frozenset(("drops",))
# The chains through which a packet of a direction goes.
_HOOKS = {"in": "PREROUTING or INPUT", "forward": "FORWARD", "out": "OUTPUT or POSTROUTING"}
NEARLY_FULL = 0.95

_INFERRED = {
    "icmp": "the kernel named no reason: it follows from the ICMP error that it sent",
    "martian": "the kernel named no reason: it follows from its complaint about the source",
    "counter": "only the namespace's counters were read: which packets they were is not known",
    "location": "the kernel named no reason: it follows from the function that dropped them",
}


def of_reason(story: Story, *reasons: str) -> list[Entry[PacketBody]]:
    """Drops for these reasons that hurt somebody: neither packets to many, which nobody waits for,
    nor those that a reset tells of already."""
    return [
        entry
        for entry in story.entries
        if _is_of_drops(entry)
        and entry.body["reason"] in reasons
        and not is_to_many(entry.body)
        and not _is_told(entry, story)
    ]


class By(str, Enum):
    """Who let netfilter drop a packet, as far as connection tracking's counters tell."""

    FULL = "its table was full"
    OVERTAKEN = "another packet's entry was first"
    INVALID = "it fits no connection"
    RULE = "a rule"


def of_netfilter(story: Story, by: By) -> list[Entry[PacketBody]]:
    return [entry for entry in of_reason(story, "netfilter_drop") if by_whom(entry) is by]


# Connection tracking looks for an entry when a packet comes or is made, and keeps a new one when
# the packet has passed all else.
_ENTERS, _LEAVES = ("prerouting", "output", None), ("input", "postrouting", None)


def by_whom(entry: Entry[PacketBody]) -> By:
    for body in (entry.event.body, entry.last.body):
        counted, hook = body["conntrack"], body["rule"]["hook"] if body["rule"] else None
        if counted is None:
            continue
        most = counted["maximum"] or 0
        full = counted["early_dropped"] or (most and counted["entries"] >= most * NEARLY_FULL)
        itself = not is_by_nftables(body)
        untracked = body["tracked"] is not True
        if itself and untracked and counted["dropped"] and full and hook in _ENTERS:
            return By.FULL
        if itself and body["tracked"] is not False and counted["insert_failed"] and hook in _LEAVES:
            return By.OVERTAKEN
        if body["tracked"] is False and counted["invalid"] and body["protocol"] == "tcp":
            return By.INVALID
    return By.RULE


def may_be_tracking(entry: Entry[PacketBody]) -> bool:
    """Whether connection tracking may have dropped them itself: its counters would tell, and were
    not known in time, as of a namespace in which nothing had been dropped before."""
    body = entry.event.body
    if body["reason"] != "netfilter_drop" or is_by_nftables(body):
        return False
    if any(one["conntrack"] for one in (body, entry.last.body)):
        return False
    hook = body["rule"]["hook"] if body["rule"] else None
    enters = body["tracked"] is not True and hook in _ENTERS
    return enters or (body["tracked"] is not False and hook in _LEAVES)


def by_rule(entry: Entry[PacketBody]) -> str:
    """The rule, as far as it is known that there is one."""
    rule = _rule(entry.event.body)
    return f"{rule}, or connection tracking itself" if may_be_tracking(entry) else rule


def _rule(body: PacketBody) -> str:
    """`a rule of nftables (INPUT: base chain in of table inet filter)`."""
    rule, hook = body["rule"], _HOOKS.get(body["direction"] or "", "")
    if rule is None:
        user = "nftables" if is_by_nftables(body) else "iptables"
        return f"a rule of {user}" + (f" ({hook})" if hook else "")
    hook, chains, where = rule["hook"].upper(), rule["chains"], ""
    if rule["by"] == "nftables":
        base = f": base chain {rule['chain']} of table {rule['family']} {rule['table']}"
        where = base if rule["chain"] else f": one of {chains} base chains"
    elif rule["by"] == "iptables":
        where = f" of table {rule['table']}" if rule["table"] else f" of one of {chains} tables"
    who = f"a rule of {rule['by']}" if rule["by"] else "netfilter"
    return f"{who} ({hook}{where})"


def is_by_nftables(body: PacketBody) -> bool:
    """For certain: it drops in a function of its own. Older kernels tell all drops of netfilter
    alike."""
    return body["function"] == NFTABLES


def tracking(found: Iterable[Entry[PacketBody]]) -> Tracking:
    """The counters of the last drop for which they are known."""
    known = [t for e in found for body in (e.event.body, e.last.body) if (t := body["conntrack"])]
    return known[-1]


def total(found: Iterable[Entry[PacketBody]]) -> int:
    return sum(entry.count for entry in found)


def packets(story: Story, found: Sequence[Entry[PacketBody]]) -> str:
    """`23 udp packets from web-0 to 10.2.0.2:53`."""
    count = total(found)
    protocols = {entry.body["protocol"] for entry in found}
    kind = f"{protocols.pop()} " if len(protocols) == 1 and None not in protocols else ""
    return f"{count} {kind}packet{'' if count == 1 else 's'} {between(story, found)}"


def between(story: Story, found: Sequence[Entry[PacketBody]]) -> str:
    """`from web-0 to 10.2.0.2:53`, `from 10.1.0.9 to web-0, port 53`; of packets that only pass the
    pod, both ends."""
    if all(entry.body["basis"] == "counter" for entry in found):
        return f"in the network of {here(story)}"
    sent = [entry for entry in found if _is_own(story, entry.body["source"])]
    came = [entry for entry in found if _is_own(story, entry.body["destination"])]
    if len(sent) == len(found):
        return f"from {here(story)} to {ends(found, 'destination')}"
    if len(came) == len(found):
        ports = shortened(dict.fromkeys(str(p) for entry in found if (p := port_of(entry))))
        return f"from {ends(found, 'source')} to {here(story)}{f', port {ports}' if ports else ''}"
    if sent or came:
        return f"from and to {here(story)}"
    return f"from {ends(found, 'source')} to {ends(found, 'destination')}"


def ends(found: Iterable[Entry[PacketBody]], side: str) -> str:
    """Up to three ends by pod and address. The ports of sources are clients', and say nothing."""
    names: dict[str, None] = {}
    for entry in found:
        end = entry.body["source"] if side == "source" else entry.body["destination"]
        address, port = end["address"], None if side == "source" else port_of(entry)
        at = (written(address, port) if port else address) if address else ""
        pod = pod_name(end["pod"])
        names[(f"{pod} ({at})" if at else pod) if pod else at or "several addresses"] = None
    return shortened(names)


def port_of(entry: Entry[PacketBody]) -> int | None:
    """The port that all packets of an entry went to, as far as its first and last show."""
    port = entry.body["destination"]["port"]
    return port if port == entry.last.body["destination"]["port"] else None


def devices(found: Iterable[Entry[PacketBody]]) -> str:
    """` at eth0`; empty if not known."""
    names = dict.fromkeys(name for entry in found if (name := entry.body["device"]))
    return f" at {shortened(names)}" if names else ""


def certainty(found: Iterable[Entry[PacketBody]]) -> tuple[Certainty, tuple[str, ...]]:
    """Certain if the kernel gave the reason of each."""
    bases = dict.fromkeys(entry.body["basis"] for entry in found)
    doubts = tuple(_INFERRED[basis] for basis in bases if basis in _INFERRED)
    return (Certainty.LIKELY if doubts else Certainty.CERTAIN), doubts


def _is_of_drops(entry: Entry) -> TypeGuard[Entry[PacketBody]]:
    return is_drop(entry.event)


def _is_told(entry: Entry[PacketBody], story: Story) -> bool:
    """Whether the packet was answered with a reset that the pod received: a rule that rejects."""
    source, destination = entry.body["source"], entry.body["destination"]
    return any(
        is_reset(other.event)
        and other.event.body["direction"] == "received"
        and other.event.body["remote"]["address"] == destination["address"]
        and other.event.body["remote"]["port"] == destination["port"]
        and other.event.body["local"]["address"] == source["address"]
        for other in story.entries
    )


def _is_own(story: Story, end: End) -> bool:
    """Whether it is the pod's, or the container's if that is in no pod."""
    return end["pod"] is not None and owner_of(end["pod"]) == owner_of(story.place)
