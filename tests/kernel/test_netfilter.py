# SPDX-License-Identifier: Apache-2.0
"""Packets that netfilter really drops: rules of nftables and iptables, and connection tracking
itself. Each is told with the hook, and with the only chain or table that can have done it.

What `why` makes of an event is asked here, too, as its counters are real ones.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.checks import TIMES
from tests.kernel.test_drops import Event, drops, knows, mine, told
from tests.support.ktrace import BACKEND, IN_GUEST
from tests.support.losses import BESIDE, OWN, PORT, Losses
from tests.support.wait import wait_for
from tracer.kernel.btf import kernel_enum
from tracer.model import event as model
from tracer.why.common.drops import By, by_whom
from tracer.why.entry import Entry

pytestmark = [
    pytest.mark.skipif(
        BACKEND == "bcc" or not knows("netfilter_drop"), reason="cannot: the kernel gives no reason"
    ),
    pytest.mark.skipif(
        not (shutil.which("nft") and shutil.which("iptables-legacy")),
        reason="cannot: no nft and iptables here",
    ),
]
# Without it the kernel cannot compare names in a program, and the hook is not known (5.17).
TELLS_HOOKS = "BPF_FUNC_strncmp" in kernel_enum("bpf_func_id")
MAXIMUM = Path("/proc/sys/net/netfilter/nf_conntrack_max")
# As many as no other namespace of this machine has.
ENTRIES = 200 if IN_GUEST else 1000
ICMP, UDP = 1, 17
DROP, TRACK = f"udp dport {PORT} drop", "ct state new counter"


@pytest.fixture
def losses() -> Iterator[Losses]:
    with Losses() as running:
        yield running


def rule(hook: str, by: str | None, chains: int = 1, **names: str) -> dict[str, Any] | None:
    empty = {"family": None, "table": None, "chain": None}
    return {"hook": hook, "by": by, **empty, **names, "chains": chains} if TELLS_HOOKS else None


def chain(hook: str, *rules: str, policy: str = "accept", table: str = "inet ktrace") -> str:
    lines = [f"type filter hook {hook} priority 0", f"policy {policy}", *rules]
    return f"table {table} {{\n chain mine {{\n{chr(10).join(f'{line};' for line in lines)}\n}}\n}}"


MINE: dict[str, Any] = {"family": "inet", "table": "ktrace", "chain": "mine"}


def whom(event: Event) -> By:
    """Who dropped it, as `why` sees it."""
    like: model.Event[Any] = model.Event("packet_drop", 0, None, None, event)
    return by_whom(Entry(like, 0, like, 0, event["count"]))


@pytest.mark.parametrize(
    ("hook", "policy", "rules"),
    [
        *((hook, "accept", [DROP]) for hook in ("prerouting", "input", "output", "postrouting")),
        ("output", "drop", []),
    ],
)
def test_a_rule_of_nftables(losses: Losses, hook: str, policy: str, rules: list[str]) -> None:
    losses.do("rules", chain(hook, *rules, policy=policy))
    with drops(None) as ktrace:
        losses.do("send", TIMES)
        events = told(ktrace, losses, TIMES)
    for event in events:
        assert event["reason"] == "netfilter_drop"
        assert event["destination"] == {"address": OWN, "port": PORT, "pod": None}
        assert event["rule"] == rule(hook, "nftables", **MINE)
        assert whom(event) is By.RULE


def test_a_rule_on_the_way_through(losses: Losses) -> None:
    losses.do("rules", chain("forward", policy="drop"))
    losses.do("run", "ip", "route", "add", "203.0.113.0/24", "via", BESIDE, "dev", "lo")
    losses.do("sysctl", "ipv4/conf/all/accept_local", 1)
    with drops(None) as ktrace:
        losses.do("no_route", TIMES)
        events = told(ktrace, losses, TIMES)
    assert {event["direction"] for event in events} == {"forward"}
    for event in events:
        assert event["rule"] == rule("forward", "nftables", **MINE)


def test_a_chain_of_several_is_not_named(losses: Losses) -> None:
    """Any of them may have dropped it."""
    losses.do("rules", chain("input", DROP))
    losses.do("rules", chain("input", table="ip other"))
    with drops(None) as ktrace:
        losses.do("send", TIMES)
        events = told(ktrace, losses, TIMES)
    for event in events:
        assert event["rule"] == rule("input", "nftables", 2)


def test_a_rule_of_iptables(losses: Losses) -> None:
    words = ("-p", "udp", "--dport", str(PORT), "-j", "DROP")
    losses.do("run", "iptables-legacy", "-A", "INPUT", *words)
    with drops(None) as ktrace:
        losses.do("send", TIMES)
        events = told(ktrace, losses, TIMES)
    for event in events:
        assert event["function"] == "nf_hook_slow"
        # older kernels have a function for each table, which says nothing
        assert event["rule"] in (rule("input", "iptables", table="filter"), rule("input", None, 0))
        assert whom(event) is By.RULE


# Connection tracking


@contextmanager
def watched(losses: Losses) -> Iterator[Any]:
    """A ktrace that has read this namespace's counters: that begins with its first drop."""
    losses.do("rules", chain("output", "udp dport 9 drop", table="ip before"))
    with drops(None) as ktrace:
        losses.do("send", 1, 9)
        wait_for("the first drop", lambda: mine(ktrace.events, losses))
        losses.do("run", "nft", "delete", "table", "ip", "before")
        yield ktrace


def counted(ktrace: Any, losses: Losses) -> list[Event]:
    """Drops with what connection tracking had counted."""
    return [event for event in mine(ktrace.events, losses) if event["conntrack"]]


@contextmanager
def room_for(entries: int) -> Iterator[None]:
    before = MAXIMUM.read_text()
    MAXIMUM.write_text(str(entries))
    try:
        yield
    finally:
        MAXIMUM.write_text(before)


def again_until(what: str, losses: Losses, do: tuple[Any, ...], found: Any) -> Any:
    """Repeats what drops packets: the first reading of the counters takes a moment."""

    def one() -> Any:
        losses.do(*do)
        return found()

    return wait_for(what, one)


def test_a_full_table(losses: Losses) -> None:
    losses.do("rules", chain("output", TRACK))
    with watched(losses) as ktrace, room_for(ENTRIES):
        losses.do("connected", ENTRIES)
        assert losses.do("send", TIMES) == TIMES
        events = again_until(
            "the counters",
            losses,
            ("send", TIMES),
            lambda: [e for e in counted(ktrace, losses) if whom(e) is By.FULL],
        )
    event = events[-1]
    assert event["function"] == "nf_hook_slow"
    assert event["tracked"] is False
    assert event["conntrack"]["maximum"] == ENTRIES
    assert event["conntrack"]["entries"] >= ENTRIES
    assert event["conntrack"]["dropped"] >= TIMES
    if TELLS_HOOKS:
        assert event["rule"]["hook"] == "output"


@pytest.mark.parametrize("by", ["nftables", "iptables"])
def test_packets_of_no_connection(losses: Losses, by: str) -> None:
    if by == "nftables":
        losses.do("rules", chain("input", "ct state invalid drop"))
    else:
        match = ("-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
        losses.do("run", "iptables-legacy", "-A", "INPUT", *match)
    with watched(losses) as ktrace:
        events = again_until(
            "the counters",
            losses,
            ("strangers", TIMES),
            lambda: [e for e in counted(ktrace, losses) if e["conntrack"]["invalid"]],
        )
    for event in events:
        assert (event["protocol"], event["tracked"]) == ("tcp", False)
        assert whom(event) is By.INVALID


def test_a_policy_while_connections_clash(losses: Losses) -> None:
    """The look-alike of the next one: clashes that were resolved dropped nothing."""
    losses.do("rules", chain("output", TRACK, f"udp dport {PORT + 1} drop"))
    with watched(losses) as ktrace:
        failed, resolved = losses.do("clash", UDP, 1)
        if failed or not resolved:
            pytest.skip("cannot: this machine made no clash that was resolved")
        events = again_until(
            "the drops",
            losses,
            ("send", TIMES, PORT + 1),
            lambda: [
                e for e in mine(ktrace.events, losses) if e["destination"]["port"] == PORT + 1
            ],
        )
    assert {whom(event) for event in events} == {By.RULE}


def test_a_connection_that_another_packet_began(losses: Losses) -> None:
    """ICMP's clashes are not resolved."""
    losses.do("rules", chain("output", TRACK))
    with watched(losses) as ktrace:
        failed, _ = losses.do("clash", ICMP, 1)
        if not failed:
            pytest.skip("cannot: this machine made no clash")
        events = again_until(
            "the counters",
            losses,
            ("clash", ICMP, 1),
            lambda: [e for e in counted(ktrace, losses) if whom(e) is By.OVERTAKEN],
        )
    assert events[-1]["function"] == "nf_hook_slow"
    assert events[-1]["conntrack"]["insert_failed"] >= 1
