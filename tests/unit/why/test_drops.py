# SPDX-License-Identifier: Apache-2.0
"""What `why` says of dropped packets."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.why.drops import (
    FULL,
    HARMLESS,
    HERE,
    NODE,
    PEER,
    THERE,
    Tell,
    came,
    drop,
    dropped,
    tracking,
)
from tests.unit.why.world import NETWORK, World
from tracer.why.verdict import Certainty, Verdict


def verdict_of(tell: Tell) -> Verdict:
    world = World()
    tell(world)
    return world.only().verdict


@pytest.mark.parametrize("tell", HARMLESS.values(), ids=HARMLESS.keys())
def test_no_verdict(tell: Tell) -> None:
    world = World()
    tell(world)
    mine = [e for e in world.explained() if e.story.place is not PEER]
    assert mine == []


def test_who_sent_them_and_where_to() -> None:
    assert verdict_of(dropped("ip_innoroutes", 23)).sentence == (
        f"23 udp packets from web-0 to {THERE}:53 dropped: no route leads there"
    )
    assert verdict_of(came("neigh_failed")).sentence == (
        f"1 udp packet from {THERE} to web-0, port 53 dropped at eth0: the next host on the way"
        " does not answer"
    )


def test_what_only_counters_tell() -> None:
    nothing: dict[str, Any] = {"source": None, "to": None, "protocol": None, "port": None}
    verdict = verdict_of(came("ip_innoroutes", 23, basis="counter", device=None, **nothing))
    assert verdict.sentence == "23 packets in the network of web-0 dropped: no route leads there"
    assert verdict.certainty is Certainty.LIKELY


def test_packets_that_pass_a_pod() -> None:
    tell = dropped("ip_innoroutes", 23, source=THERE, to="203.0.113.9", sender=PEER)
    assert verdict_of(tell).sentence == (
        f"23 udp packets from shop/web-0 ({THERE}) to 203.0.113.9:53 dropped: no route leads there"
    )


def test_both_ways() -> None:
    def tell(w: World) -> None:
        drop(w, "netfilter_drop", 20)
        drop(w, "netfilter_drop", 3, source=THERE, to=HERE, sender=None, receiver=NETWORK)

    sentence = verdict_of(tell).sentence
    assert sentence.startswith("23 udp packets from and to web-0 dropped by a rule of iptables")


def test_the_size_and_the_mtu() -> None:
    verdict = verdict_of(dropped("pkt_too_big", 23, size=1480, mtu=1450))
    assert "(up to 1480 bytes) dropped" in verdict.sentence
    assert verdict.sentence.endswith("larger than the MTU of 1450")


@pytest.mark.parametrize(
    ("direction", "hook"),
    [("in", "PREROUTING or INPUT"), ("forward", "FORWARD"), ("out", "OUTPUT or POSTROUTING")],
)
def test_the_chains_that_a_packet_went_through(direction: str, hook: str) -> None:
    verdict = verdict_of(dropped("netfilter_drop", direction=direction, function="nft_do_chain"))
    assert f"dropped by a rule of nftables ({hook})" in verdict.sentence


def rule(hook: str, by: str | None, chains: int = 1, **names: str) -> dict[str, Any]:
    empty = {"family": None, "table": None, "chain": None}
    return {"rule": {"hook": hook, "by": by, **empty, "chains": chains, **names}}


OF_NFT = rule("input", "nftables", family="inet", table="filter", chain="in")


@pytest.mark.parametrize(
    ("values", "said", "doubt", "command"),
    [
        (
            {**OF_NFT, "function": "nft_do_chain"},
            "a rule of nftables (INPUT: base chain in of table inet filter)",
            None,
            "rise: nft list table inet filter.",
        ),
        (
            OF_NFT,
            "a rule of nftables (INPUT: base chain in of table inet filter)",
            "only nftables has any there",
            "rise: nft list table inet filter.",
        ),
        (
            {**rule("output", "nftables", 2), "function": "nft_do_chain"},
            "a rule of nftables (OUTPUT: one of 2 base chains)",
            None,
            "rise: nft list ruleset, iptables-save -c.",
        ),
        (
            rule("forward", "iptables", table="filter"),
            "a rule of iptables (FORWARD of table filter)",
            "only iptables has any there",
            "rise: iptables -t filter -vnL.",
        ),
        (
            rule("input", "iptables", 3),
            "a rule of iptables (INPUT of one of 3 tables)",
            "only iptables has any there",
            "iptables-save -c.",
        ),
        (
            rule("input", None, 2),
            "netfilter (INPUT)",
            "nftables and iptables have any there",
            "iptables-save -c.",
        ),
        (
            rule("input", None, 0),
            "netfilter (INPUT)",
            "neither nftables nor iptables has any there",
            "iptables-save -c.",
        ),
        (
            {**OF_NFT, "rule": {**OF_NFT["rule"], "table": "a;reboot"}, "function": "nft_do_chain"},
            "a rule of nftables (INPUT: base chain in of table inet a;reboot)",
            None,
            "rise: nft list table inet 'a;reboot'.",
        ),
    ],
)
def test_whose_rule_it_was(
    values: dict[str, Any], said: str, doubt: str | None, command: str
) -> None:
    """By a rule, as connection tracking's counters had not grown."""
    verdict = verdict_of(dropped("netfilter_drop", **{**tracking(), **values}))
    assert verdict.sentence.endswith(f" dropped by {said}")
    assert verdict.certainty is (Certainty.LIKELY if doubt else Certainty.CERTAIN)
    assert [words.endswith(doubt or "") for words in verdict.doubts] == [True] * bool(doubt)
    assert command in verdict.remedy


@pytest.mark.parametrize(
    ("hook", "tracked", "clear"),
    [
        ("prerouting", None, False),
        ("output", False, False),
        ("output", True, True),
        ("input", None, False),
        ("postrouting", True, False),
        ("postrouting", False, True),
        ("forward", None, True),
    ],
)
def test_connection_tracking_whose_counters_are_not_known(
    hook: str, tracked: bool | None, clear: bool
) -> None:
    """The first drops in a namespace come before its counters have been read. Only where connection
    tracking drops nothing itself it must have been a rule."""
    values: dict[str, Any] = {**rule(hook, "iptables", table="raw"), "tracked": tracked}
    words = f" dropped by a rule of iptables ({hook.upper()} of table raw)"
    for known in (False, True):
        counted = tracking() if known else {"function": "nf_hook_slow"}
        verdict = verdict_of(dropped("netfilter_drop", **counted, **values))
        more = "" if clear or known else ", or connection tracking itself"
        assert verdict.sentence.endswith(words + more)
        assert (verdict.certainty, len(verdict.doubts)) == (Certainty.LIKELY, 1 + bool(more))


def test_counters_that_become_known() -> None:
    """The later drops of a flow show what dropped the first."""

    def tell(world: World) -> None:
        for counted in ({"function": "nf_hook_slow"}, tracking()):
            drop(world, "netfilter_drop", **counted, **rule("input", "iptables"))
            world.at(1000)

    assert "connection tracking" not in verdict_of(tell).sentence


@pytest.mark.parametrize(
    ("hook", "counted", "verdict"),
    [
        ("prerouting", FULL, "conntrack_full"),
        ("input", FULL, "policy_drop"),
        ("input", tracking(insert_failed=1), "conntrack_insert_failed"),
        ("postrouting", tracking(insert_failed=1), "conntrack_insert_failed"),
        ("forward", tracking(insert_failed=1), "policy_drop"),
    ],
)
def test_connection_tracking_drops_at_its_own_hooks(
    hook: str, counted: dict[str, Any], verdict: str
) -> None:
    values = {**counted, **rule(hook, "iptables"), "tracked": None}
    assert verdict_of(dropped("netfilter_drop", **values)).id == verdict


def test_how_full_connection_tracking_was() -> None:
    verdict = verdict_of(dropped("netfilter_drop", 23, tracked=False, **FULL))
    assert verdict.sentence.endswith("was full (262144 of 262144 entries)")


def test_the_five_seconds_of_a_query() -> None:
    """Clashes that were resolved are not blamed."""
    clash = tracking(insert_failed=1, clash_resolved=4)
    verdict = verdict_of(dropped("netfilter_drop", tracked=True, **clash))
    assert "while 4 other clashes were resolved" in verdict.sentence
    assert verdict.sentence.endswith("asked again after 5 s")
    assert "single-request-reopen" in verdict.remedy
    other = verdict_of(dropped("netfilter_drop", tracked=True, port=8125, **clash))
    assert "5 s" not in other.sentence and "single-request" not in other.remedy


def test_a_rule_that_rejects_is_told_once() -> None:
    """The reset that the pod received is the same packet's."""

    def tell(w: World) -> None:
        w.reset("received", "connection_refused", port=40000, remote=80, ends=(HERE, THERE))
        drop(w, "netfilter_drop", 3, to=THERE, port=80, protocol="tcp")

    world = World()
    tell(world)
    explanation = world.only()
    assert explanation.verdict.id == "refused_by_peer"
    assert explanation.others == ()
    drop(world, "netfilter_drop", 3, to=NODE, port=80, protocol="tcp")
    assert [other.id for other in world.only().others] == ["refused_by_peer"]


def test_storms_of_many_flows_stay_counted() -> None:
    def tell(w: World) -> None:
        for port in range(440):
            drop(w, "netfilter_drop", port=1 + port)

    assert verdict_of(tell).sentence.startswith("440 udp packets")


def test_lost_events_make_it_likely() -> None:
    def tell(w: World) -> None:
        w.lost("drops")
        drop(w, "ip_rpfilter")

    assert verdict_of(tell).certainty is Certainty.LIKELY


def test_hostile_names_are_no_trouble() -> None:
    values: dict[str, Any] = {"device": "e\x1b[2Jth0", "function": "\n"}
    verdict_of(dropped("neigh_failed", **values))
