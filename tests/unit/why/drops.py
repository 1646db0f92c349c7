# SPDX-License-Identifier: Apache-2.0
"""Stories of dropped packets, their look-alikes, and drops that need no verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.unit.why.world import HOST, NETWORK, World, place_of
from tracer.model.event import Event, Place
from tracer.probes.drops.reasons import meaning

Tell = Callable[[World], object]

HERE, THERE, NODE = "198.18.0.2", "198.18.0.9", "198.18.0.1"
PEER = place_of(None, uid="11111111-7c78-4389-a89c-9c971211370b")


def drop(
    world: World,
    reason: str | None,
    count: int = 1,
    *,
    source: str | None = HERE,
    to: str | None = THERE,
    port: int | None = 53,
    place: Place | None = NETWORK,
    sender: Place | None = NETWORK,
    receiver: Place | None = None,
    protocol: str | None = "udp",
    basis: str = "reason",
    direction: str = "forward",
    **others: Any,
) -> Event:
    body = {
        "reason": reason,
        "reason_inferred": basis != "reason",
        "basis": basis,
        "meaning": meaning(reason),
        "function": "a_function",
        "count": count,
        "protocol": protocol,
        "source": {"address": source, "port": 40000 if count == 1 else None, "pod": sender},
        "destination": {"address": to, "port": port, "pod": receiver},
        "netns": 1,
        "device": "eth0",
        "direction": direction,
        "size": 60,
        "mtu": None,
        "buffer": None,
        "tracked": None,
        "conntrack": None,
        "rule": None,
        "answered": None,
        **others,
    }
    return world.add(Event("packet_drop", world.now, None, None, body, place))


def tracking(**counted: int) -> dict[str, Any]:
    """Drops of netfilter, and what connection tracking had counted."""
    names = ("dropped", "early_dropped", "insert_failed", "clash_resolved", "invalid")
    nothing = {"entries": 1000, "maximum": 262_144, **dict.fromkeys(names, 0)}
    return {"conntrack": {**nothing, **counted}, "function": "nf_hook_slow"}


FULL = tracking(entries=262_144, dropped=23)


def dropped(*arguments: Any, **values: Any) -> Tell:
    return lambda w: drop(w, *arguments, **values)


def came(*arguments: Any, **values: Any) -> Tell:
    """To the pod."""
    given = {"source": THERE, "to": HERE, "sender": None, "receiver": NETWORK, **values}
    return dropped(*arguments, **{"direction": "in", **given})


STORIES: dict[str, tuple[Tell, str, str]] = {
    "local source": (came("ip_local_source", source=HERE), "local_source", "certain"),
    "local source, by a complaint": (
        came("ip_local_source", source=HERE, basis="martian"),
        *("local_source", "likely"),
    ),
    "reverse path": (came("ip_rpfilter"), "rp_filter", "certain"),
    "reverse path, by a counter": (
        came("ip_rpfilter", basis="counter", source=None, to=None, protocol=None, port=None),
        *("rp_filter", "likely"),
    ),
    "no route": (dropped("ip_innoroutes"), "no_route", "certain"),
    "no route, by ICMP": (
        dropped("ip_innoroutes", basis="icmp", answered="network unreachable"),
        *("no_route", "likely"),
    ),
    "no neighbour": (dropped("neigh_failed"), "no_neighbour", "certain"),
    "no room for neighbours": (dropped("neigh_createfail"), "no_neighbour", "certain"),
    "too large": (dropped("pkt_too_big", size=1500, mtu=1450), "mtu", "certain"),
    "nftables": (
        dropped("netfilter_drop", function="nft_do_chain"),
        *("policy_drop", "certain"),
    ),
    "iptables": (
        dropped("netfilter_drop", function="nf_hook_slow"),
        *("policy_drop", "likely"),
    ),
    "connection tracking is full": (
        dropped("netfilter_drop", tracked=False, **FULL),
        *("conntrack_full", "certain"),
    ),
    "a policy while connection tracking is full": (
        dropped("netfilter_drop", tracked=True, **FULL),
        *("policy_drop", "likely"),
    ),
    "drops of connection tracking that has room": (
        dropped("netfilter_drop", tracked=False, **tracking(dropped=23)),
        *("policy_drop", "likely"),
    ),
    "nftables while connection tracking is full": (
        dropped("netfilter_drop", tracked=False, **FULL | {"function": "nft_do_chain"}),
        *("policy_drop", "certain"),
    ),
    "a DNS query that another one overtook": (
        dropped("netfilter_drop", tracked=True, **tracking(insert_failed=1)),
        *("conntrack_insert_failed", "likely"),
    ),
    "a policy while clashes are resolved": (
        dropped("netfilter_drop", tracked=True, **tracking(clash_resolved=865)),
        *("policy_drop", "likely"),
    ),
    "invalid": (
        dropped("netfilter_drop", tracked=False, protocol="tcp", **tracking(invalid=3)),
        *("conntrack_invalid", "likely"),
    ),
    "invalid, for nftables": (
        dropped(
            "netfilter_drop",
            tracked=False,
            protocol="tcp",
            **tracking(invalid=3) | {"function": "nft_do_chain"},
        ),
        *("conntrack_invalid", "likely"),
    ),
    "a policy while others are invalid": (
        dropped("netfilter_drop", tracked=True, protocol="tcp", **tracking(invalid=3)),
        *("policy_drop", "likely"),
    ),
    "a program at tc": (dropped("tc_ingress"), "policy_drop", "certain"),
    "receive buffer": (
        came("socket_rcvbuff", 23, buffer={"used": 4608, "limit": 2304}),
        *("receive_buffer", "certain"),
    ),
}

# What is told in the stream and hurts nobody.
HARMLESS: dict[str, Tell] = {
    "to a group": dropped("netfilter_drop", to="224.0.0.251"),
    "to all": dropped("netfilter_drop", to="198.18.255.255"),
    "no IP packet": dropped("ip_innoroutes", to=None, protocol=None, port=None),
    "another pod's": dropped("netfilter_drop", place=PEER, sender=PEER),
    "nobody's": dropped("ip_rpfilter", place=HOST, sender=None),
    "of no place": dropped("ip_rpfilter", place=None, sender=None),
    "what a reset or a queue tells of": dropped("tcp_listen_overflow"),
    "a socket that is closed, if all reasons are asked for": dropped("socket_close"),
    "nothing specified": dropped(None),
}
