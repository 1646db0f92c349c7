# SPDX-License-Identifier: Apache-2.0
"""Show packets that the kernel dropped, and why.

Packets that the kernel dropped, with its reason, and whose they were.

The first drop of a flow is one record; after that, one record a second has the count
(probes/drops.bpf.c). A packet that was forwarded belongs to the pod that sent it, if that is on
this node, else to the one that was to get it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Any, TypedDict, TypeGuard

from tracer.identity.netns import NOBODY, OBJECT, STATE, Holder, PodNetworks
from tracer.kernel.bpf_object import shipped
from tracer.model.address import address_text, with_port
from tracer.model.bounded import keep
from tracer.model.event import Event, Place, text
from tracer.model.schema import Schema
from tracer.model.selection import Selection
from tracer.model.summary import summary
from tracer.probes import (
    Alike,
    AttachPoint,
    Companion,
    Decode,
    Metric,
    Options,
    Probe,
    Stream,
    Table,
    option,
)
from tracer.probes.columns import CONTAINER, Column, pod_name
from tracer.probes.drops import reasons

# Words for the enumerators of probes/drops.bpf.c.
DIRECTIONS = {
    "KT_DROP_UNKNOWN": None,
    "KT_DROP_IN": "in",
    "KT_DROP_FORWARD": "forward",
    "KT_DROP_OUT": "out",
}
BASES = {
    f"KT_DROP_{name.upper()}": name for name in ("reason", "icmp", "martian", "location", "counter")
}
HOOKS = {
    f"KT_HOOK_{name.upper()}": None if name == "unknown" else name
    for name in (
        *("unknown", "prerouting", "input", "forward", "output", "postrouting"),
        *("ingress", "egress"),
    )
}
TRACKED = {
    "KT_DROP_TRACKED_UNKNOWN": None,
    "KT_DROP_UNTRACKED": False,
    "KT_DROP_TRACKED": True,
}
# The usual ones of IANA's protocol numbers.
PROTOCOLS = {1: "icmp", 2: "igmp", 4: "ipip", 6: "tcp", 17: "udp", 33: "dccp", 41: "ipv6"} | {
    47: "gre",
    50: "esp",
    58: "icmpv6",
    132: "sctp",
    136: "udplite",
}
# NFPROTO_*, as nft writes them (include/uapi/linux/netfilter.h).
FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
# The function in which nftables itself drops; iptables' and conntrack's drops are netfilter's.
NFTABLES = "nft_do_chain"
# Counters that were read longer before or after a drop do not explain it.
SAME_MOMENT_NS = 1_500_000_000
MAX_COUNTED = 256  # namespaces
# Reasons of a socket whose receive buffer is full.
OF_BUFFERS = ("socket_rcvbuff", "proto_mem")


class End(TypedDict):
    """Where a packet came from or went; `pod` is its place if it is in a pod of this node."""

    address: str | None
    port: int | None
    pod: Place | None


class Buffer(TypedDict):
    used: int
    limit: int


class Tracking(TypedDict):
    """What connection tracking of the namespace had counted within a second or so. All 0 says that
    it dropped nothing itself."""

    entries: int
    maximum: int | None
    dropped: int
    early_dropped: int
    insert_failed: int
    clash_resolved: int
    invalid: int


class Rule(TypedDict):
    """Where netfilter dropped a packet. `table` and `chain` are those of the only chain there that
    can have done it."""

    hook: str
    by: str | None
    family: str | None
    table: str | None
    chain: str | None
    chains: int


class PacketBody(TypedDict):
    reason: str | None
    reason_inferred: bool
    basis: str
    meaning: str | None
    function: str | None
    count: int
    protocol: str | None
    source: End
    destination: End
    netns: int | None
    device: str | None
    direction: str | None
    size: int | None
    mtu: int | None
    buffer: Buffer | None
    tracked: bool | None
    conntrack: Tracking | None
    rule: Rule | None
    answered: str | None


def is_drop(event: Event) -> TypeGuard[Event[PacketBody]]:
    return event.kind == "packet_drop"


class Decoder:
    def __init__(self, stream: Stream) -> None:
        self._resolver = stream.resolver
        self._networks = stream.shared(PodNetworks)
        self._counted: dict[int, Any] = {}  # by network
        described = shipped("drops")
        self._directions = described.words("drop_direction", DIRECTIONS)
        self._bases = described.words("drop_basis", BASES)
        self._tracked = described.words("drop_tracked", TRACKED)
        self._hooks = described.words("drop_hook", HOOKS)
        several = described.numbers("drop_several")
        self._sources = several["KT_DROP_SOURCES"]
        self._destinations = several["KT_DROP_DESTINATIONS"]
        self._ports = several["KT_DROP_PORTS"]
        self._protocols = several["KT_DROP_PROTOCOLS"]

    def drop(self, record: Any) -> Event[PacketBody]:
        known, several = bool(record.family), record.several
        from_one = known and not several & self._sources
        to_one = known and not several & self._destinations
        source = record.source_address if from_one else None
        destination = record.destination_address if to_one else None
        own = self._resolver.place(record.cgroup)
        sides = self._networks.sides(record, None, own)
        sender, sure = self._holder(record, source)
        receiver, sure_too = self._holder(record, destination)
        here = sides.place if _is_pods(sides.place) else None
        direction = self._directions[record.direction]
        if here is not None and direction == "out":
            sender = Holder(here)
        elif here is not None and direction == "in":
            receiver = Holder(here)
        # as long as the namespace may be another pod's, the addresses do not decide
        places = [here, *((sender.place, receiver.place) if sides.settled else ())]
        place = next((one for one in places if one is not None), sides.place)
        others = (one for one in places[1:] if one is not None and one is not place)
        doubts = [*sides.doubts, *(h.doubt for h in (sender, receiver) if h.doubt)]
        function = text(record.function).partition(" ")[0] or None
        reason, inferred = self._reason(record, function)
        port = not several & self._ports
        body: PacketBody = {
            "reason": reason,
            "reason_inferred": inferred,
            "basis": self._bases[record.basis],
            "meaning": reasons.meaning(reason),
            "function": function,
            "count": record.count,
            "protocol": None if several & self._protocols else _protocol(record),
            "source": _end(source, record.source_port if record.count == 1 else 0, sender),
            "destination": _end(destination, record.destination_port if port else 0, receiver),
            "netns": record.netns or None,
            "device": (text(record.device) or None) if from_one == to_one == known else None,
            "direction": direction,
            "size": record.size or None,
            "mtu": record.mtu or None if reason == "pkt_too_big" else None,
            "buffer": _buffer(record) if reason in OF_BUFFERS else None,
            "tracked": self._tracked[record.tracked],
            "conntrack": self._tracking(record) if reason == "netfilter_drop" else None,
            "rule": self._rule(record, function),
            "answered": _answered(record),
        }
        settled = sides.settled and sure and sure_too
        return Event(
            *("packet_drop", record.time, None, None, body, place, next(others, None)),
            doubts=tuple(dict.fromkeys(doubts)),
            again=None if settled else partial(self.drop, record),
        )

    def count(self, record: Any) -> None:
        """A `struct drop_conntrack_event`, which comes before the drops that it explains."""
        keep(self._counted, record.network, record, MAX_COUNTED)

    def _tracking(self, record: Any) -> Tracking | None:
        counted = self._counted.get(record.network)
        if counted is None or abs(counted.time - record.time) > SAME_MOMENT_NS:
            return None
        if counted.time < record.time and not _has_grown(counted):
            return None  # meanwhile it may have
        return {
            "entries": counted.entries,
            "maximum": counted.maximum or None,
            "dropped": counted.dropped,
            "early_dropped": counted.early_dropped,
            "insert_failed": counted.insert_failed,
            "clash_resolved": counted.clash_resolved,
            "invalid": counted.invalid,
        }

    def _rule(self, record: Any, function: str | None) -> Rule | None:
        hook = self._hooks[record.hook]
        if hook is None:
            return None
        nft, xt = record.nft_chains, record.xt_tables
        if function == NFTABLES:
            xt = 0
        by = {(True, False): "nftables", (False, True): "iptables"}.get((nft > 0, xt > 0))
        only = nft + xt == 1
        return {
            "hook": hook,
            "by": by,
            "family": FAMILIES.get(record.family_of_table) if only and nft else None,
            "table": (text(record.table) or None) if only else None,
            "chain": (text(record.chain) or None) if only and nft else None,
            "chains": nft + xt,
        }

    def _holder(self, record: Any, address: bytes | None) -> tuple[Holder, bool]:
        if address is None:
            return NOBODY, True
        return self._networks.of_peer(address, record.network, record.netns)

    def _reason(self, record: Any, function: str | None) -> tuple[str | None, bool]:
        """The kernel's reason, or the inferred one, and whether it is inferred."""
        told = reasons.word(record.reason)
        basis = self._bases[record.basis]
        inferred = None
        if basis == "icmp":
            inferred = reasons.UNREACHABLE.get(record.icmp_code, (None, None))[1]
        elif basis == "martian":
            inferred = reasons.of_martian(
                address_text(record.source_address), bool(record.own_source)
            )
        elif basis == "location" and function:
            inferred = reasons.of_place(function, record.size, record.mtu)
        return told or inferred, told is None and inferred is not None


def _has_grown(counted: Any) -> bool:
    """Whether connection tracking has counted something besides its entries."""
    names = ("dropped", "early_dropped", "insert_failed", "clash_resolved", "invalid")
    return any(getattr(counted, name) for name in names)


def _decoder(stream: Stream) -> dict[str, Decode]:
    decoder = Decoder(stream)
    own: dict[str, Decode] = {"packet_drop": decoder.drop, "drop_conntrack": decoder.count}
    return own | stream.shared(PodNetworks).decoders


def _is_pods(place: Place | None) -> bool:
    identity = place.identity if place else None
    return identity is not None and bool(identity.pod_uid or identity.container_id)


def _protocol(record: Any) -> str | None:
    if not record.family:
        return None
    return PROTOCOLS.get(record.protocol) or str(record.protocol)


def _end(address: bytes | None, port: int, holder: Holder) -> End:
    if address is None:
        return {"address": None, "port": None, "pod": holder.place}
    return {"address": address_text(address), "port": port or None, "pod": holder.place}


def _buffer(record: Any) -> Buffer | None:
    return {"used": record.held, "limit": record.room} if record.room else None


def _answered(record: Any) -> str | None:
    if not record.answered:
        return None
    known = reasons.UNREACHABLE.get(record.icmp_code)
    return known[0] if known else f"unreachable, code {record.icmp_code}"


def _held(schemas: Mapping[str, Schema], map_of: Callable[[str], Table]) -> Companion:
    from tracer.probes.drops.companion import Held

    names = ("kt_drop_flows", "kt_drop_rest", "kt_drop_counted")
    return Held(schemas, *map(map_of, names))


def _counted(schemas: Mapping[str, Schema], map_of: Callable[[str], Table]) -> Companion:
    from tracer.probes.drops.counters import Counted

    return Counted(schemas)


@dataclass(frozen=True)
class DropOptions(Options):
    every_reason: bool = option(
        False, "Also drops that are no loss, and those for which the kernel has no reason."
    )

    def settings(self, selection: Selection) -> dict[str, int]:
        return reasons.settings(self.every_reason)


def _text(end: End) -> str | None:
    if end["address"] is None:
        return None
    return with_port(end["address"], end["port"]) if end["port"] else end["address"]


def _word(event: Event[PacketBody]) -> str | None:
    meaning = event.body["meaning"]
    return f"{meaning}?" if meaning and event.body["reason_inferred"] else meaning


def _summary(event: Event[PacketBody]) -> str:
    body = event.body
    count = body["count"]
    kind = f"{body['protocol']} packet" if body["protocol"] else "packet"
    what = f"{count} {kind}{'' if count == 1 else 's'}"
    ends = [
        f" {word} {named}"
        for word, end in (("from", body["source"]), ("to", body["destination"]))
        if (named := _text(end) or pod_name(end["pod"]))
    ]
    return f"{what}{''.join(ends)} dropped: {body['meaning'] or 'reason unknown'}"


def _grouping(event: Event[PacketBody]) -> Alike:
    """Drops between two addresses are alike, whatever their ports."""
    body = event.body
    ends = body["source"]["address"], body["destination"]["address"]
    return Alike(
        ("packet_drop", body["reason"]), (body["protocol"], body["tracked"], *ends), body["count"]
    )


def is_to_many(body: PacketBody) -> bool:
    """Whether nobody waits for these packets: they are for a group, or no IP packets."""
    address = body["destination"]["address"]
    if address is None:
        return body["protocol"] is None and body["basis"] != "counter"
    return ip_address(address).is_multicast or address.endswith(".255")


def _alarm(event: Event[PacketBody]) -> bool:
    in_pod = event.place is not None and event.place.pod is not None
    return in_pod and not is_to_many(event.body)


_BY_REASON, _BY_LOCATION = "tp_btf/kfree_skb with reason", "tp_btf/kfree_skb"
_PROGRAMS = {
    _BY_REASON: "on_drop_with_reason",
    _BY_LOCATION: "on_drop",
    "fentry/ip_handle_martian_source": "fentry_martian_source",
    "kprobe/ip_handle_martian_source": "kprobe_martian_source",
    "tp_btf/icmp_send": "on_icmp_send",
}
_FENTRY, _KPROBE, _ICMP = list(_PROGRAMS)[2:]
_NO_SOURCE = "packets with an address of this node as source"
_NO_ICMP = "the ICMP error that a packet was answered with"
OWN_REASONS = "the kernel's own reasons"
_NO_REASONS = (
    OWN_REASONS,
    "drops elsewhere than in netfilter, routing, neighbours and UDP's receive buffers",
)


def _point(drops: str, *besides: str) -> AttachPoint:
    """`besides` is what tells the reason of drops that have none."""
    lacks = [*(_NO_REASONS if drops == _BY_LOCATION else ())]
    if not {_FENTRY, _KPROBE} & {*besides}:
        lacks.append(_NO_SOURCE)
    if _ICMP not in besides:
        lacks.append(_NO_ICMP)
    program = _PROGRAMS[drops]
    return AttachPoint(
        ", ".join((drops, *besides)),
        (program, *(_PROGRAMS[one] for one in besides)),
        tuple(lacks),
        _held,
        nested={program: "packets dropped in interrupts"},
    )


PROBE: Probe[PacketBody] = Probe(
    name="drops",
    object="drops",
    help=summary(__doc__),
    examples=(
        "ktrace drops                     packets of pods that were dropped on this node",
        "ktrace drops -p shop/web-0       those that one pod sent or was to get",
        "ktrace drops --all -o wide       the whole node's, with the function that dropped them",
        "ktrace drops -o json | jq 'select(.reason == \"netfilter_drop\") | .destination'",
    ),
    attach_points=(
        AttachPoint(
            f"{_BY_REASON} and socket, {_ICMP}",
            ("on_drop_with_every_reason", "on_icmp_send"),
            companion=_held,
            nested={"on_drop_with_every_reason": "packets dropped in interrupts"},
        ),
        *(
            _point(drops, *besides)
            for drops in (_BY_REASON, _BY_LOCATION)
            for besides in (
                *((_FENTRY, _ICMP), (_KPROBE, _ICMP), (_FENTRY,), (_KPROBE,)),
                *((_ICMP,), ()),
            )
        ),
        AttachPoint(
            "counters of each network namespace, every second",
            (),
            cannot_tell=(
                OWN_REASONS,
                "drops elsewhere than by the reverse path filter, for want of a route or by"
                " connection tracking",
                "which packets they were",
            ),
            companion=_counted,
        ),
    ),
    decoder=_decoder,
    bodies={"packet_drop": PacketBody},
    whose={"packet_drop": "cgroup"},
    state=STATE,
    besides=(OBJECT,),
    columns=(
        Column("REASON", _word, 11, 42),
        Column("COUNT", lambda e: str(e.body["count"]), 5, 8, 2),
        Column("PROTO", lambda e: e.body["protocol"], 5, 7, 5),
        Column("SOURCE", lambda e: _text(e.body["source"]), 11, 47, 3),
        Column("DESTINATION", lambda e: _text(e.body["destination"]), 11, 47),
        Column("POD", lambda e: pod_name(e.place), 10, 40, 1),
        Column("PEER", lambda e: pod_name(e.by_place), 10, 40, 4),
        CONTAINER,
        Column("WAY", lambda e: e.body["direction"], 7, 7, 6, wide=True),
        Column("DEVICE", lambda e: e.body["device"], 6, 15, 6, wide=True),
        Column("SIZE", lambda e: _size(e), 5, 11, 6, wide=True),
        Column("FUNCTION", lambda e: e.body["function"], 12, 32, 6, wide=True),
        Column("RULE", lambda e: _rule_words(e.body["rule"]), 12, 40, 6, wide=True),
        Column("NETNS", lambda e: _number(e.body["netns"]), 10, 10, 6, wide=True),
    ),
    summary=_summary,
    alarm=_alarm,
    grouping=_grouping,
    options=DropOptions,
    metric=Metric(
        "packet_drops",
        "Packets that the kernel dropped.",
        {"reason": lambda e: e.body["reason"], "direction": lambda e: e.body["direction"]},
        lambda e: e.body["count"],
    ),
)


def _size(event: Event[PacketBody]) -> str | None:
    size, mtu = event.body["size"], event.body["mtu"]
    return f"{size}/{mtu}" if size and mtu else _number(size)


def _rule_words(rule: Rule | None) -> str | None:
    """`input: inet filter in`."""
    if rule is None:
        return None
    names = [name for name in (rule["family"], rule["table"], rule["chain"]) if name]
    return f"{rule['hook']}: {' '.join(names)}" if names else rule["hook"]


def _number(value: int | None) -> str | None:
    return None if value is None else str(value)
