# SPDX-License-Identifier: Apache-2.0
"""Connects that fail: how many are told, of whom, and what is told by others or is no harm."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.why.connecting import Tell, connect, told, unanswered, until_its_end
from tests.unit.why.drops import drop, tracking
from tests.unit.why.network import HERE, PEER, THERE
from tests.unit.why.world import ALL, INIT, NETWORK, World
from tracer.probes.drops.reasons import meaning
from tracer.why.causes import connect_timeout
from tracer.why.dropped import MAX_DROPPED
from tracer.why.engine import Explanation
from tracer.why.entry import MAX_ALIKE, MAX_FOLDED

COUNT = 23

# What is told in the stream and hurts nobody.
HARMLESS: dict[str, Tell] = {
    "answered late": until_its_end("late", syns=3, seconds=3),
    "failed before the first SYN": told("not_sent", syns=0),
    "aborted by the node's user": told("aborted", errno="ECONNABORTED"),
}


def explained(tell: Tell, traced: frozenset[str] = ALL) -> Explanation:
    world = World(traced)
    tell(world)
    return world.only()


@pytest.mark.parametrize("tell", HARMLESS.values(), ids=HARMLESS.keys())
def test_no_verdict(tell: Tell) -> None:
    world = World()
    tell(world)
    assert world.explained() == []


@pytest.mark.parametrize("answer", [None, "icmp"])
def test_more_destinations_than_have_entries_are_counted(answer: str | None) -> None:
    """And no attempt is lost, whether it is told once or twice."""
    destinations = 5 * MAX_ALIKE

    def tell(w: World) -> None:
        for number in range(destinations):
            unanswered(w, port=1000 + number)
        # the other way round, so that others of them are folded
        for number in reversed(range(destinations)):
            connect(w, "refused" if answer else "timeout", answer=answer, port=1000 + number)

    explanation = explained(tell)
    assert explanation.story.left_out == 0
    assert explanation.verdict.harm == destinations
    assert f"{destinations} attempts to connect to " in explanation.verdict.sentence
    assert f" and others ({destinations} in all) " in explanation.verdict.sentence
    assert "still wait" not in explanation.verdict.sentence


def test_destinations_beyond_what_is_told_apart() -> None:
    def tell(w: World) -> None:
        for number in range(MAX_FOLDED + 2 * MAX_ALIKE):
            connect(w, "timeout", port=1000 + number)

    assert " and others (more than " in explained(tell).verdict.sentence


def test_each_attempt_is_counted_once() -> None:
    """Whether its end is told or not, and however many others there are."""

    def tell(w: World) -> None:
        for client in range(40000, 40000 + 2 * COUNT):
            unanswered(w, client=client)
        for client in range(40000, 40000 + COUNT):
            connect(w, "timeout", client=client, errno="ETIMEDOUT")
        for client in range(40000, 40000 + 5):
            connect(w, "late", client=client, syns=4)
        connect(w, "given_up", syns=5, seconds=10)

    verdict = explained(tell).verdict
    assert verdict.harm == 2 * COUNT - 5
    assert verdict.sentence == (
        f"41 attempts to connect to {THERE}:80 not answered (the last one: 5 SYNs in 10 s);"
        " the program gave 1 of them up; 17 of them still wait"
    )


def test_whom_it_asked() -> None:
    def tell(w: World) -> None:
        connect(w, "timeout", port=53)
        connect(w, "timeout", port=80, peer=PEER)

    said = explained(tell).verdict.sentence
    assert said == (
        f"2 attempts to connect to {THERE}:53, {THERE}:80 (shop/back-0) not answered (the last one:"
        " 7 SYNs in 2.1 min)"
    )


def test_the_drop_that_was_seen() -> None:
    """To whom it asked, and by TCP."""
    world = World()
    connect(world, "timeout")
    drop(world, "netfilter_drop", count=7, protocol="tcp", to=THERE, **tracking())
    drop(world, "netfilter_drop", protocol="udp", to=THERE)
    drop(world, "netfilter_drop", protocol="tcp", to="198.18.0.77")
    verdict = connect_timeout.CAUSE.judge(world.only().story)
    assert verdict is not None
    words = "a rule of iptables (FORWARD), likely"
    assert verdict.sentence.endswith(f"; this node dropped 7 packets of theirs ({words})")
    assert len(verdict.evidence) == 2


INPUT = {"by": "iptables", "hook": "input", "table": "filter", "chains": 1}
INPUT |= {"family": None, "chain": None}


def dropped_there(world: World, to: str = THERE, **values: Any) -> None:
    """In the other pod's network, as policies do."""
    given = {"protocol": "tcp", "source": HERE, "to": to, "port": 80, "place": PEER, **values}
    drop(world, "netfilter_drop", **{"rule": INPUT, **tracking(), **given})


def test_the_rule_that_refused_by_icmp() -> None:
    """It dropped the SYNs that it answered, in the other pod's network."""
    world = World()
    dropped_there(world, "198.18.0.77", source="198.18.0.78")
    dropped_there(world, count=COUNT, answered="port unreachable")
    # a millisecond later, of which the kernel's rounding shows nothing
    connect(world, "refused", errno="ECONNREFUSED", answer="icmp", syns=1, seconds=0)
    verdict = next(e for e in world.explained() if e.story.place is not PEER).verdict
    assert (verdict.id, verdict.certainty.value) == ("connect_refused", "likely")
    assert verdict.sentence.endswith(
        f"a firewall's rule did it; this node dropped {COUNT} packets of theirs (a rule of iptables"
        " (INPUT of table filter), likely, in the network of shop/back-0)"
    )
    assert {entry.event.kind for entry in verdict.evidence} == {"connect_failure", "packet_drop"}


def test_the_drop_that_was_seen_in_the_other_pod() -> None:
    """Also if the address was translated on the way, as a Service's is."""
    for remote in (THERE, "10.96.0.10"):
        world = World()
        dropped_there(world)
        dropped_there(world, count=COUNT - 1)
        dropped_there(world, "198.18.0.77", source="198.18.0.78")
        connect(world, "timeout", remote=remote)
        explanation = next(e for e in world.explained() if e.story.place is not PEER)
        assert explanation.verdict.sentence.endswith(
            f"; this node dropped {COUNT} packets of theirs (a rule of iptables (INPUT of table"
            " filter), likely, in the network of shop/back-0)"
        )
        assert [entry.count for entry in explanation.verdict.evidence] == [1, COUNT]


def test_the_full_queue_that_was_seen_in_the_other_pod() -> None:
    def tell(w: World) -> None:
        w.timelines.mine = lambda event: event.place is NETWORK
        w.at(200_000).drop("accept", COUNT, PEER)
        w.drop("accept", COUNT, PEER, port=81)
        connect(w, "timeout", peer=PEER)

    said = explained(tell).verdict.sentence
    assert said.endswith("; the accept queue of shop/back-0 was full")


NONE = "no drop of theirs seen on this node"


def blind(w: World) -> None:
    w.timelines.sees_drops = False


def rest_of_a_storm(w: World) -> None:
    drop(w, "netfilter_drop", count=9, protocol=None, to=None, place=PEER, port=None)


def more_than_are_kept(w: World) -> None:
    for number in range(MAX_DROPPED + 1):
        dropped_there(w, f"198.18.1.{number}", source="198.18.0.78")


@pytest.mark.parametrize(
    ("before", "traced", "said"),
    [
        (lambda w: None, ALL, True),
        (lambda w: dropped_there(w, source="198.18.0.78"), ALL, True),
        (lambda w: w.lost("signals"), ALL, True),
        (lambda w: w.lost("drops"), ALL, False),
        (lambda w: None, ALL - {"drops"}, False),
        (lambda w: w.at(100_000), ALL, False),  # it began before the tracing did
        (blind, ALL, False),
        (rest_of_a_storm, ALL, False),
        (more_than_are_kept, ALL, False),
    ],
)
def test_that_no_drop_was_seen_is_said_where_it_would_have_been(
    before: Tell, traced: frozenset[str], said: bool
) -> None:
    world = World(traced)
    world.timelines.mine = lambda event: event.place is NETWORK
    before(world.at(200_000))
    connect(world, "timeout")
    verdict = world.only().verdict
    assert (NONE in verdict.sentence) == said


def test_the_latest_drops_are_kept() -> None:
    world = World()
    more_than_are_kept(world)
    for port in range(2 * MAX_DROPPED):
        world.drop("accept", port=1 + port)
        dropped_there(world, port=1 + port)
    kept = world.timelines._dropped
    assert {len(t) for t in (kept._packets, kept._queues, kept._clients)} == {MAX_DROPPED}


def test_drops_before_the_first_syn_are_others() -> None:
    world = World()
    world.timelines.mine = lambda event: event.place is NETWORK
    dropped_there(world)
    world.at(200_000)
    connect(world, "timeout")
    assert NONE in world.only().verdict.sentence


def test_a_neighbour_that_is_gone_is_told_once() -> None:
    """By the connects that failed for it; drops of others have a verdict of their own."""

    def tell(*others: str) -> Tell:
        def happens(w: World) -> None:
            connect(w, "unreachable", errno="EHOSTUNREACH", answer="icmp", syns=3, seconds=3)
            for address in (THERE, *others):
                drop(w, "neigh_failed", count=COUNT, protocol="tcp", to=address)

        return happens

    explanation = explained(tell())
    assert (explanation.verdict.id, explanation.others) == ("no_route_to_peer", ())
    words = meaning("neigh_failed")
    assert (
        f"; this node dropped {COUNT} packets of theirs ({words})" in explanation.verdict.sentence
    )
    explanation = explained(tell("198.18.0.77"))
    assert explanation.verdict.id == "no_neighbour"
    assert explanation.verdict.sentence.startswith(f"{COUNT} tcp packets")
    assert [other.id for other in explanation.others] == ["no_route_to_peer"]


def test_who_had_no_port() -> None:
    def tell(w: World) -> None:
        for _ in range(COUNT):
            connect(w, "no_local_port", syns=0, client=None, who=INIT)

    said = explained(tell).verdict.sentence
    assert said == (
        f"23 attempts by app[7] (/bin/app) to connect to {THERE}:80 failed before a packet was"
        " sent: no local port was free"
    )


def refused(w: World, answer: str = "reset") -> None:
    for client in range(40000, 40000 + COUNT):
        if answer == "reset":
            w.reset(*("received", "connection_refused"), port=client, remote=80, ends=(HERE, THERE))
        connect(w, "refused", client=client, syns=1, seconds=0, answer=answer)


def test_what_a_reset_refused_is_told_once() -> None:
    explanation = explained(refused)
    assert explanation.verdict.id == "refused_by_peer"
    assert explanation.others == ()


def test_what_icmp_refused_is_told_beside_what_a_reset_refused() -> None:
    def tell(w: World) -> None:
        refused(w)
        refused(w, "icmp")
        refused(w, "icmp")

    explanation = explained(tell)
    assert (explanation.verdict.id, explanation.verdict.harm) == ("connect_refused", 2 * COUNT)
    assert [other.id for other in explanation.others] == ["refused_by_peer"]


@pytest.mark.parametrize(
    ("error", "verdict"), [("refused", "connect_refused"), ("unreachable", "no_route_to_peer")]
)
def test_what_icmp_has_not_answered_yet_is_no_time_out(error: str, verdict: str) -> None:
    """A kernel sends one such message a second."""

    def tell(w: World) -> None:
        for client in range(40000, 40000 + COUNT):
            unanswered(w, client=client)
        for client in range(40000, 40003):
            connect(w, error, client=client, syns=3, seconds=3, answer="icmp")
        connect(w, "timeout", port=81, syns=2)

    explanation = explained(tell)
    assert (explanation.verdict.id, explanation.verdict.harm) == (verdict, COUNT)
    assert "; 20 more still wait" in explanation.verdict.sentence
    (other,) = explanation.others
    assert (other.id, other.harm) == ("connect_timeout", 1)


def test_a_refusal_without_the_resets() -> None:
    explanation = explained(
        lambda w: [connect(w, "refused", syns=1, answer="reset") for _ in range(COUNT)],
        ALL - {"resets"},
    )
    assert explanation.verdict.id == "connect_refused"
    assert explanation.verdict.sentence == f"23 attempts to connect refused by {THERE}:80"
