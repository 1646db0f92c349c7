# SPDX-License-Identifier: Apache-2.0
"""From a record of a dropped packet to an event, and how it is shown; the tables for the kernel
side; the counts that it keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from tests.unit.bounds import Bound
from tests.unit.records import Decoding
from tracer.identity.netns import How
from tracer.kernel import conntrack
from tracer.kernel.bpf_object import shipped
from tracer.kernel.btf import kernel_enum
from tracer.kernel.conntrack import Tracking
from tracer.model.address import MAPPED
from tracer.model.batch import cell
from tracer.model.event import Clock, Event, to_json
from tracer.model.names import Names, Pod
from tracer.probes import LAST_CALL
from tracer.probes.described import boot_ns
from tracer.probes.drops import MAX_COUNTED, PROBE, companion, counters, reasons
from tracer.probes.drops.companion import INTERVAL, MOST, TIDY_SECONDS, Conntrack, Held

SCHEMAS = {**shipped("network").schemas, **shipped("drops").schemas}
OBJECT = shipped("drops")
UID, PEER_UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9", "11111111-4e5f-6071-8293-a4b5c6d7e8f9"
CID = "7" * 64
CONTAINER_CGROUP, PEER_CGROUP = 101, 200
NETNS, NETWORK, PEER_NETWORK, HOST_NETWORK = 4026532000, 7001, 7002, 7000
HERE, PEER, FAR = "10.1.0.5", "10.1.0.6", "203.0.113.9"
BASIS = OBJECT.numbers("drop_basis")
WAY = OBJECT.numbers("drop_direction")
SEVERAL = OBJECT.numbers("drop_several")
BOUNDS = {
    "namespaces whose connection tracking `drops` reads": Bound(
        (
            "test_namespaces_whose_counters_are_read_are_bounded",
            "test_what_connection_tracking_counted_is_bounded",
        ),
        (companion.MAX_NAMESPACES,),
    ),
    "namespaces that `drops` has heard of, where it reads counters": Bound(
        ("test_namespaces_that_are_heard_of_are_bounded",), (counters.MAX_NETWORKS,)
    ),
}


def record(name: str, **values: Any) -> Any:
    packed = SCHEMAS[name].pack(**values)
    (only,) = SCHEMAS[name].cells(memoryview(cell(packed)))
    return only


def packed(address: str) -> bytes:
    parsed = ip_address(address)
    return MAPPED + parsed.packed if parsed.version == 4 else parsed.packed


@pytest.fixture
def resolver() -> Decoding:
    """Two pods; the namespace of the host is between them."""
    made = Decoding(PROBE)
    made.add_path(CONTAINER_CGROUP, f"/kubepods/pod{UID}/{CID}")
    made.add_path(PEER_CGROUP, f"/kubepods/pod{PEER_UID}")

    def tell(name: str, **values: Any) -> None:
        made.decode[name](record(name, **values))

    tell("network", network=HOST_NETWORK, netns=1, how=How.OF_HOST)
    tell("network", network=NETWORK, netns=NETNS, cgroup=CONTAINER_CGROUP, how=How.AT_HOME)
    tell("network", network=PEER_NETWORK, netns=2, cgroup=PEER_CGROUP, how=How.AT_HOME)
    tell("network_address", network=NETWORK, address=packed(HERE))
    tell("network_address", network=PEER_NETWORK, address=packed(PEER))
    for network in (NETWORK, PEER_NETWORK):
        tell("network_address", network=network)
    return made


def drop(resolver: Decoding, source: str = HERE, to: str = PEER, **values: Any) -> Event[Any]:
    given = {
        "time": 5,
        "count": 1,
        "network": HOST_NETWORK,
        "netns": 1,
        "family": 2,
        "protocol": 17,
        "source_address": packed(source),
        "source_port": 40000,
        "destination_address": packed(to),
        "destination_port": 53,
        "direction": WAY["KT_DROP_FORWARD"],
        "size": 60,
        "device": b"cali0",
        "reason": b"NETFILTER_DROP",
        "function": b"nft_do_chain [nf_tables]",
    }
    event = resolver.decode["packet_drop"](record("packet_drop", **(given | values)))
    assert event is not None
    return event


def test_between_two_pods_it_is_the_senders(resolver: Decoding) -> None:
    event = drop(resolver, tracked=OBJECT.numbers("drop_tracked")["KT_DROP_TRACKED"])
    pod = {"namespace": "shop", "name": "web-0", "uid": UID, "labels": None}
    peer = {"namespace": None, "name": None, "uid": PEER_UID, "labels": None}
    resolver.learn(Names({UID: Pod(UID, "shop", "web-0")}, {}))  # names may come later
    shown = json.loads(to_json(event, Clock(0), "node"))
    assert shown == {
        "kind": "packet_drop",
        "time": shown["time"],
        "boot_ns": 5,
        "node": "node",
        "pod": pod,
        "container": None,
        "reason": "netfilter_drop",
        "reason_inferred": False,
        "basis": "reason",
        "meaning": "netfilter: a rule, or conntrack",
        "function": "nft_do_chain",
        "count": 1,
        "protocol": "udp",
        "source": {"address": HERE, "port": 40000, "pod": pod},
        "destination": {"address": PEER, "port": 53, "pod": peer},
        "netns": 1,
        "device": "cali0",
        "direction": "forward",
        "size": 60,
        "mtu": None,
        "buffer": None,
        "tracked": True,
        "conntrack": None,
        "rule": None,
        "answered": None,
    }
    assert event.by_place is not None and event.by_place.identity.pod_uid == PEER_UID
    assert PROBE.alarm(event)
    assert PROBE.summary(event) == (
        "1 udp packet from 10.1.0.5:40000 to 10.1.0.6:53 dropped: netfilter: a rule, or conntrack"
    )


def test_from_far_away_it_is_the_receivers(resolver: Decoding) -> None:
    event = drop(resolver, FAR, PEER)
    assert event.place is not None and event.place.identity.pod_uid == PEER_UID
    assert event.by_place is None
    assert event.body["source"]["pod"] is None


@pytest.mark.parametrize(("way", "end"), [("IN", "destination"), ("OUT", "source")])
def test_in_a_pods_own_namespace(resolver: Decoding, way: str, end: str) -> None:
    """Whatever addresses it has there."""
    event = drop(resolver, FAR, FAR, network=NETWORK, direction=WAY[f"KT_DROP_{way}"])
    assert event.place is not None and event.place.identity.pod_uid == UID
    assert event.body[end]["pod"] is event.place


def test_in_a_namespace_that_is_not_known_yet(resolver: Decoding) -> None:
    """It may be a third pod's, or the receiver's own: the sender's address decides nothing."""
    event = drop(resolver, network=7777, netns=9)
    assert event.again is not None
    assert event.place is None
    resolver.decode["network"](
        record("network", network=7777, netns=9, cgroup=PEER_CGROUP, how=How.AT_HOME)
    )
    resolver.decode["network_address"](record("network_address", network=7777))
    later = event.again()
    assert later is not None and later.place is not None
    assert later.place.identity.pod_uid == PEER_UID


def test_what_connection_tracking_counted(resolver: Decoding) -> None:
    """It comes before the drops that it explains, and explains no later ones nor other reasons."""
    counted = {"entries": 9, "maximum": 10, "dropped": 3, "early_dropped": 0}
    counted |= {"insert_failed": 0, "clash_resolved": 2, "invalid": 1}
    resolver.decode["drop_conntrack"](
        record("drop_conntrack", time=6, network=HOST_NETWORK, **counted)
    )
    assert drop(resolver).body["conntrack"] == counted
    assert drop(resolver, time=2_000_000_000).body["conntrack"] is None
    assert drop(resolver, network=NETWORK).body["conntrack"] is None
    assert drop(resolver, reason=b"IP_RPFILTER").body["conntrack"] is None


def test_that_connection_tracking_counted_nothing_holds_for_earlier_drops(
    resolver: Decoding,
) -> None:
    resolver.decode["drop_conntrack"](record("drop_conntrack", time=6, network=HOST_NETWORK))
    known = drop(resolver, time=6).body["conntrack"]
    assert known is not None and known["dropped"] == 0
    assert drop(resolver, time=7).body["conntrack"] is None


def test_what_connection_tracking_counted_is_bounded(resolver: Decoding) -> None:
    assert MAX_COUNTED == companion.MAX_NAMESPACES
    for network in range(1, MAX_COUNTED + 2):
        counted = record("drop_conntrack", time=6, network=network, dropped=network)
        resolver.decode["drop_conntrack"](counted)
    assert drop(resolver, network=1).body["conntrack"] is None
    assert drop(resolver, network=2).body["conntrack"]["dropped"] == 2


HOOK = OBJECT.numbers("drop_hook")


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"nft_chains": 1}, ("nftables", "inet", "filter", "in", 1)),
        ({"nft_chains": 1, "xt_tables": 3}, ("nftables", "inet", "filter", "in", 1)),
        ({"nft_chains": 2}, ("nftables", None, None, None, 2)),
        (
            {"function": b"nf_hook_slow", "xt_tables": 1, "chain": b"", "family_of_table": 0},
            ("iptables", None, "filter", None, 1),
        ),
        ({"function": b"nf_hook_slow", "xt_tables": 2}, ("iptables", None, None, None, 2)),
        ({"function": b"nf_hook_slow", "nft_chains": 1}, ("nftables", "inet", "filter", "in", 1)),
        (
            {"function": b"nf_hook_slow", "nft_chains": 1, "xt_tables": 1},
            (None, None, None, None, 2),
        ),
        ({"function": b"nf_hook_slow", "table": b"", "chain": b""}, (None, None, None, None, 0)),
    ],
)
def test_where_netfilter_dropped_it(
    resolver: Decoding, values: dict[str, Any], rule: tuple[Any, ...]
) -> None:
    """A chain is named only if no other can have done it."""
    given = {"table": b"filter", "chain": b"in", "family_of_table": 1, **values}
    event = drop(resolver, hook=HOOK["KT_HOOK_INPUT"], **given)
    keys = "by", "family", "table", "chain", "chains"
    assert event.body["rule"] == {"hook": "input", **dict(zip(keys, rule, strict=True))}
    assert drop(resolver, **given).body["rule"] is None
    column = next(column for column in PROBE.columns if column.title == "RULE")
    shown = " ".join(word for word in rule[1:4] if word)
    assert column.value(event) == (f"input: {shown}" if shown else "input")


def test_in_nobodys_namespace(resolver: Decoding) -> None:
    event = drop(resolver, FAR, FAR)
    assert (event.place, event.by_place) == (None, None)
    assert not PROBE.alarm(event)


def test_a_storms_rest_names_what_is_common(resolver: Decoding) -> None:
    several = SEVERAL["KT_DROP_DESTINATIONS"] | SEVERAL["KT_DROP_PORTS"]
    event = drop(resolver, count=900, several=several, function=b"")
    body = event.body
    assert (body["source"]["address"], body["source"]["port"]) == (HERE, None)
    assert body["destination"] == {"address": None, "port": None, "pod": None}
    assert (body["device"], body["function"], body["protocol"]) == (None, None, "udp")
    assert event.place is not None and event.place.identity.pod_uid == UID
    assert PROBE.summary(event).startswith("900 udp packets from 10.1.0.5 dropped: netfilter")
    every = sum(SEVERAL.values())
    event = drop(resolver, count=900, several=every)
    assert event.place is None
    assert PROBE.summary(event) == "900 packets dropped: netfilter: a rule, or conntrack"


def test_no_ip_packet(resolver: Decoding) -> None:
    body = drop(resolver, family=0, protocol=0, reason=b"UNHANDLED_PROTO").body
    assert (body["protocol"], body["source"]["address"], body["device"]) == (None, None, "cali0")
    assert body["meaning"] == "unhandled proto"


@pytest.mark.parametrize(
    ("values", "reason", "basis"),
    [
        ({"basis": "ICMP", "answered": 1, "icmp_code": 0}, "ip_innoroutes", "icmp"),
        ({"basis": "ICMP", "answered": 1, "icmp_code": 1}, "ip_innoroutes", "icmp"),
        ({"basis": "ICMP", "answered": 1, "icmp_code": 4}, "pkt_too_big", "icmp"),
        ({"basis": "ICMP", "answered": 1, "icmp_code": 13}, "netfilter_drop", "icmp"),
        ({"basis": "ICMP", "answered": 1, "icmp_code": 15}, None, "icmp"),
        ({"basis": "MARTIAN", "own_source": 1}, "ip_local_source", "martian"),
        ({"basis": "MARTIAN"}, "ip_rpfilter", "martian"),
        ({"basis": "LOCATION", "function": b"nf_hook_slow"}, "netfilter_drop", "location"),
        ({"basis": "LOCATION", "function": b"ip_error"}, "ip_innoroutes", "location"),
        ({"basis": "LOCATION", "function": b"ip_forward", "mtu": 50}, "pkt_too_big", "location"),
        ({"basis": "LOCATION", "function": b"ip_forward", "mtu": 1500}, None, "location"),
        ({"basis": "LOCATION", "function": b"nobodys"}, None, "location"),
    ],
)
def test_where_the_kernel_gives_no_reason(
    resolver: Decoding, values: dict[str, Any], reason: str | None, basis: str
) -> None:
    for name in (b"", b"NOT_SPECIFIED"):
        given = values | {"basis": BASIS[f"KT_DROP_{values['basis']}"], "reason": name}
        body = drop(resolver, **given).body
        assert (body["reason"], body["basis"]) == (reason, basis)
        assert body["reason_inferred"] is (reason is not None)
        assert (body["answered"] is not None) is (basis == "icmp")
        assert body["mtu"] == (values.get("mtu") if reason == "pkt_too_big" else None)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("127.0.0.9", "ip_localnet"),
        *(
            (address, "ip_invalid_source")
            for address in ("224.0.0.1", "0.0.0.1", "255.255.255.255")
        ),
    ],
)
def test_an_impossible_source_is_no_local_one(resolver: Decoding, source: str, reason: str) -> None:
    given: dict[str, Any] = {"basis": BASIS["KT_DROP_MARTIAN"], "own_source": 1, "reason": b""}
    assert drop(resolver, source, **given).body["reason"] == reason


def test_the_kernels_own_reason_is_never_overruled(resolver: Decoding) -> None:
    body = drop(resolver, answered=1, icmp_code=3).body
    assert (body["reason"], body["reason_inferred"]) == ("netfilter_drop", False)
    assert body["answered"] == "port unreachable"


# The tables


def test_what_is_no_loss_is_left_out() -> None:
    names = {"SKB_NOT_DROPPED_YET": 0, "SKB_CONSUMED": 1, "SKB_DROP_REASON_NOT_SPECIFIED": 2}
    names |= {"SKB_DROP_REASON_NO_SOCKET": 3, "SKB_DROP_REASON_NETFILTER_DROP": 12}
    names |= {"SKB_DROP_REASON_MAX": 13, "SKB_DROP_REASON_SUBSYS_MASK": 0xFFFF0000}
    done = OBJECT.numbers("drop_wanted")
    words_of_done = ("LEAVE_OUT", "TELL", "ASK", "TELL_HOOK")
    leave, tell, ask, hook = (done[f"KT_DROP_{word}"] for word in words_of_done)
    wanted, words = reasons.tables(names, every=False)
    assert [wanted[number] for number in (0, 1, 2, 3, 12, 13)] == [
        *(leave, leave, ask, leave, hook, leave)
    ]
    room = SCHEMAS["packet_drop"].room("reason")
    assert words[12 * room :].startswith(b"NETFILTER_DROP\0")
    wanted, _ = reasons.tables(names, every=True)
    assert [wanted[number] for number in (0, 1, 2, 3, 12)] == [leave, leave, tell, tell, hook]


def test_every_name_has_room() -> None:
    """A name that is too long would not be told, nor its drops."""
    names = kernel_enum("skb_drop_reason")
    room = SCHEMAS["packet_drop"].room("reason")
    assert all(len(name.removeprefix("SKB_DROP_REASON_")) < room for name in names)


def test_places_of_functions() -> None:
    kallsyms = b"""\
ffffffff81000000 T ip_errors
ffffffff81000100 t ip_error
ffffffff81000200 T ip_forward.cold
ffffffff81000210 t nf_hook_slow.isra.0
ffffffff81000300 D nf_hook_slow
ffffffffc0000000 t other\t[nf_tables]
"""
    place = OBJECT.layout("kt_drop_place")
    rows = [place.make(row) for row in place.struct.iter_unpack(reasons.place_table(kallsyms))]
    assert [(row.begin & 0xFFFF, row.end & 0xFFFF, row.name.rstrip(b"\0")) for row in rows] == [
        (0x100, 0x200, b"ip_error"),
        (0x200, 0x210, b"ip_forward"),
        (0x210, 0x300, b"nf_hook_slow"),
    ]


def test_hidden_symbols_are_no_places() -> None:
    assert reasons.place_table(b"0000000000000000 T ip_error\n0000000000000000 T x\n") == b""


def test_more_places_than_there_is_room_for() -> None:
    rows = b"".join(b"ffffffff810000%02x t ip_error.part.%d\n" % (n, n) for n in range(99))
    assert len(reasons.place_table(rows)) == OBJECT.settings["kt_drop_places"][1]


# What the kernel side only counted


class Counts:
    """A map of the kernel side's."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Any] = {}

    def add(self, key: int, count: int, **values: Any) -> None:
        raw = key.to_bytes(8, "little")
        before = self.entries[raw].count if raw in self.entries else 0
        self.entries[raw] = record("packet_drop", count=before + count, **values)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        for key, drop in self.entries.items():
            yield key, SCHEMAS["packet_drop"].struct.pack(*drop)

    def delete(self, key: bytes) -> None:
        del self.entries[key]


class Sum:
    """The kernel side's one number."""

    def __init__(self) -> None:
        self.number = 0

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        yield bytes(4), self.number.to_bytes(8, "little")

    def delete(self, key: bytes) -> None:
        raise AssertionError(key)


def told(held: Held, fresh: frozenset[str] = LAST_CALL) -> list[Any]:
    schema = SCHEMAS["packet_drop"]
    return [schema.make(schema.struct.unpack(raw)) for raw in held.records(fresh)]


def test_counts_are_told_by_their_increase() -> None:
    flows, rest = Counts(), Counts()
    held = Held(SCHEMAS, flows, rest, Sum())
    flows.add(1, 22, network=NETWORK)
    flows.add(2, 0, network=NETWORK)
    rest.add(3, 1000, network=NETWORK, number=12)
    assert [drop.count for drop in told(held)] == [22, 1000]
    assert told(held) == []
    flows.add(1, 5, network=NETWORK)
    assert [drop.count for drop in told(held)] == [5]


def test_it_looks_at_the_entries_when_something_was_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And now and then, as flows with a single drop need room, too."""
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    flows, counted, looks = Counts(), Sum(), 0
    held = Held(SCHEMAS, flows, Counts(), counted)

    def items(found: Callable[[], Iterator[tuple[bytes, bytes]]] = flows.items) -> Any:
        nonlocal looks
        looks += 1
        return found()

    monkeypatch.setattr(flows, "items", items)
    told(held, frozenset())
    looks = 0
    for _ in range(20):
        now += INTERVAL
        assert told(held, frozenset()) == []
    assert looks == 0
    flows.add(1, 23)
    counted.number = 23
    now += INTERVAL
    assert [drop.count for drop in told(held, frozenset())] == [23]
    assert looks == 1
    now += TIDY_SECONDS
    told(held, frozenset())
    assert looks == 2
    told(held)
    assert looks == 3


def test_it_looks_once_a_second() -> None:
    flows = Counts()
    held = Held(SCHEMAS, flows, Counts(), Sum())
    assert told(held, frozenset()) == []
    flows.add(1, 22)
    assert told(held, frozenset(("packet_drop",))) == []
    assert len(told(held)) == 1


def test_many_flows_of_one_reason_are_few_records() -> None:
    """Those with most packets have their own; every packet is counted."""
    flows, rest = Counts(), Counts()
    held = Held(SCHEMAS, flows, rest, Sum())
    for key in range(100):
        flows.add(key, key + 1, network=1, source_address=packed(HERE), destination_port=key)
    flows.add(200, 3, network=2)
    drops = told(held)
    assert [drop.count for drop in drops if drop.network == 2] == [3]
    one = [drop for drop in drops if drop.network == 1]
    assert len(one) == MOST
    assert sum(drop.count for drop in one) == sum(range(1, 101))
    assert [drop.several for drop in one] == [0] * (MOST - 1) + [SEVERAL["KT_DROP_PORTS"]]


def test_idle_flows_are_forgotten_when_room_is_short() -> None:
    most = OBJECT.maps["kt_drop_flows"].entries
    flows = Counts()
    held = Held(SCHEMAS, flows, Counts(), Sum())
    for key in range(most * 3 // 4):
        flows.add(key, 1)
    told(held)
    assert told(held) == []
    assert len(flows.entries) == most * 3 // 4
    flows.add(most, 1)
    told(held)
    assert len(flows.entries) == 1


# Connection tracking


def readings(monkeypatch: pytest.MonkeyPatch, *values: Tracking | None) -> Conntrack:
    """Of namespace 1, which is the node's."""
    left = list(values)
    monkeypatch.setattr(companion, "netns_of", lambda pid: 1)
    monkeypatch.setattr(conntrack, "read", lambda *_: left.pop(0) if left else None)
    monkeypatch.setattr(conntrack, "maximum", lambda: 10)
    return Conntrack(SCHEMAS["drop_conntrack"])


def test_what_has_grown_since_the_last_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = readings(monkeypatch, Tracking(5, 3), Tracking(9, 26), *2 * [Tracking(8, 26)], None)
    by_rule, by_routing = (
        record("packet_drop", network=7, netns=1, reason=word)
        for word in (b"NETFILTER_DROP", b"IP_RPFILTER")
    )
    counts.hear([by_routing])
    assert counts.records() == []
    counts.hear([by_rule, by_rule])
    (raw,) = counts.records()
    schema = SCHEMAS["drop_conntrack"]
    told = schema.make(schema.struct.unpack(raw))
    assert (told.network, told.entries, told.maximum, told.dropped) == (7, 9, 10, 23)
    counts.hear([by_rule])  # nothing has grown, since an earlier moment than that of the drop
    assert counts.records() == []
    counts.hear([by_rule], since=boot_ns())
    (raw,) = counts.records()
    told = schema.make(schema.struct.unpack(raw))
    assert (told.network, told.entries, told.dropped) == (7, 8, 0)
    counts.hear([by_rule])  # the process has gone
    assert counts.records() == []


def test_what_never_counted_has_dropped_nothing_before_the_first_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first drops in a pod's network come before its counters are read."""
    for first, whole in ((Tracking(5), True), (Tracking(5, dropped=3), False)):
        counts = readings(monkeypatch, None, first, first)
        counts.hear([record("packet_drop", network=7, netns=1, time=9, reason=b"NETFILTER_DROP")])
        assert len(counts.records()) == whole


def test_the_moment_since_when_drops_were_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the look before; before the first it is not known."""
    counted = Tracking(5, dropped=3)
    values = iter([counted] * 9)
    monkeypatch.setattr(companion, "netns_of", lambda pid: 1)
    monkeypatch.setattr(conntrack, "read", lambda *_: next(values))
    monkeypatch.setattr(conntrack, "maximum", lambda: 10)
    flows = Counts()
    held = Held(SCHEMAS, flows, Counts(), Sum())
    sizes = []
    for _ in range(3):
        flows.add(1, 22, network=7, netns=1, reason=b"NETFILTER_DROP")
        sizes.append([len(raw) for raw in held.records(LAST_CALL)])
    told, both = (SCHEMAS[name].struct.size for name in ("packet_drop", "drop_conntrack"))
    assert sizes == [[told], [both, told], [both, told]]


def test_namespaces_whose_counters_are_read_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = readings(monkeypatch, Tracking())
    drops = [
        record("packet_drop", network=number, netns=number, reason=b"NETFILTER_DROP")
        for number in range(1, companion.MAX_NAMESPACES + 10)
    ]
    counts.hear(drops)
    assert len(counts._asked) == companion.MAX_NAMESPACES


# Counters, where nothing can be attached

NETSTAT = b"""TcpExt: SyncookiesSent IPReversePathFilter
TcpExt: 7 %d
IpExt: InNoRoutes InOctets
IpExt: %d 99
"""


def netstat(filtered: int, unrouted: int, **tracked: int) -> tuple[dict[bytes, int], Tracking]:
    return counters.parse(NETSTAT % (filtered, unrouted)), Tracking(**tracked)


def polled(monkeypatch: pytest.MonkeyPatch, readings: dict[int, Any]) -> counters.Polled:
    """`readings` by namespace, whose process has the same number."""
    monkeypatch.setattr(counters, "namespaces", lambda: {n: [n] for n in readings})
    monkeypatch.setattr(counters, "mounted_namespaces", lambda: {4})
    monkeypatch.setattr(counters, "_read", lambda pids, netns: readings[netns])
    monkeypatch.setattr(conntrack, "maximum", lambda: 10)
    return counters.Polled(SCHEMAS)


def of_counters(polled: counters.Polled) -> list[tuple[Any, ...]]:
    found = []
    for raw in polled.records():
        schema = SCHEMAS["packet_drop"]
        if len(raw) != schema.struct.size:
            schema = SCHEMAS["drop_conntrack"]
            told = schema.make(schema.struct.unpack(raw))
            found.append((told.network, told.entries, told.maximum, told.dropped))
            continue
        told = schema.make(schema.struct.unpack(raw))
        assert told.basis == BASIS["KT_DROP_COUNTER"]
        found.append((told.netns, told.network, told.reason.rstrip(b"\0"), told.count))
    return found


def test_counters_are_told_by_what_they_grew(monkeypatch: pytest.MonkeyPatch) -> None:
    readings: dict[int, Any] = {1: netstat(100, 5, entries=3, dropped=7)}
    reader = polled(monkeypatch, readings)
    assert of_counters(reader) == []
    reader.networks[1] = NETWORK
    readings[1] = netstat(123, 5, entries=9, dropped=30, insert_failed=4)
    assert of_counters(reader) == [
        (NETWORK, 9, 10, 23),
        (1, NETWORK, b"IP_RPFILTER", 23),
        (1, NETWORK, b"NETFILTER_DROP", 23),
    ]
    assert of_counters(reader) == []
    readings[1] = None  # its processes have gone
    assert of_counters(reader) == []


def test_a_later_namespace_counts_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it was there, without a process."""
    readings: dict[int, Any] = {1: netstat(0, 0)}
    reader = polled(monkeypatch, readings)
    readings |= {2: netstat(0, 23), 4: netstat(0, 99)}
    reader._next_search = 0
    assert of_counters(reader) == [(2, 0, b"IP_INNOROUTES", 23)]
    del readings[2]
    reader._next_search = 0
    assert of_counters(reader) == []
    assert reader._known.keys() == {1, 4}


def test_namespaces_that_are_heard_of_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    polled(monkeypatch, {})
    counted = counters.Counted(SCHEMAS)
    uses = (
        record("network", network=number, netns=number, how=How.AT_HOME)
        for number in range(counters.MAX_NETWORKS + 5)
    )
    counted.hear(uses)
    counted.close()
    assert len(counted._polled.networks) == counters.MAX_NETWORKS


def test_what_counters_tell(resolver: Decoding) -> None:
    values: dict[str, Any] = {
        "basis": BASIS["KT_DROP_COUNTER"],
        "reason": b"IP_RPFILTER",
        "network": NETWORK,
    }
    nothing: dict[str, Any] = {
        "family": 0,
        "direction": 0,
        "device": b"",
        "function": b"",
        "size": 0,
    }
    event = drop(resolver, count=23, protocol=0, **values, **nothing)
    assert event.place is not None and event.place.identity.pod_uid == UID
    assert PROBE.summary(event) == "23 packets dropped: reverse path filter"
    assert PROBE.alarm(event)


def test_columns_fit_60_cells() -> None:
    from tracer.outputs.table import GAP, SIGN, TIME

    needed = [c for c in PROBE.columns if not c.wide and c.rank < 3]
    widths = [column.narrow for column in (TIME, SIGN, *needed)]
    assert [c.title for c in needed] == ["REASON", "COUNT", "DESTINATION", "POD"]
    assert sum(widths) + len(GAP) * (len(widths) - 1) <= 60
