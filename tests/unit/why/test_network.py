# SPDX-License-Identifier: Apache-2.0
"""Resets and queues: who is told, how many there were, which of several comes first, and what is no
harm at all."""

from __future__ import annotations

import pytest

from tests.unit.why.connecting import connect
from tests.unit.why.network import (
    HARMLESS,
    HERE,
    PEER,
    THERE,
    VIP,
    Tell,
    both,
    by_peer,
    carried,
    idle,
    keepalive_race,
    refused,
    untranslated,
    young,
)
from tests.unit.why.world import HOST, INIT, NETWORK, SECOND, World, place_of, process
from tracer.model.event import Place
from tracer.model.selection import Selection
from tracer.probes.resets import WITHOUT_SOCKET
from tracer.why.connections import MAX_CONNECTIONS
from tracer.why.engine import Explanation, explain
from tracer.why.entry import MAX_ALIKE
from tracer.why.timelines import sees_both_ends
from tracer.why.verdict import Certainty

COUNT = 23


def explained(tell: Tell) -> Explanation:
    world = World()
    tell(world)
    return world.only()


def sentence(tell: Tell) -> str:
    return explained(tell).verdict.sentence


@pytest.mark.parametrize("tell", HARMLESS.values(), ids=HARMLESS.keys())
def test_no_verdict(tell: Tell) -> None:
    world = World()
    tell(world)
    assert world.explained() == []


# How many


@pytest.mark.parametrize("count", [COUNT, 440])
@pytest.mark.parametrize(
    ("direction", "reason", "asks"),
    [
        ("sent", "tcp_abort_on_close", False),
        ("received", None, False),
        ("received", "connection_refused", True),
        ("sent", "so_linger_zero", True),
    ],
)
def test_each_client_has_a_port_of_its_own(
    count: int, direction: str, reason: str | None, asks: bool
) -> None:
    def tell(w: World) -> None:
        for client in range(40000, 40000 + count):
            port, remote = (client, 80) if asks else (80, client)
            w.reset(direction, reason, port=port, remote=remote, bytes=carried())

    explanation = explained(tell)
    (entry,) = explanation.story.of("tcp_reset")
    assert entry.count == count
    assert f"{count} " in explanation.verdict.sentence


def test_more_services_than_have_entries_are_counted_in_one() -> None:
    services = 3 * MAX_ALIKE

    def tell(w: World) -> None:
        for number in range(services):
            for _ in range(COUNT):
                w.reset("received", "connection_refused", port=40000, remote=1000 + number)

    explanation = explained(tell)
    assert len(explanation.story.of("tcp_reset")) == MAX_ALIKE
    assert explanation.story.left_out == 0
    said = explanation.verdict.sentence
    assert said.startswith(f"{services * COUNT} attempts of its own to connect refused by ")
    assert said.endswith(f"{THERE}:1000, {THERE}:1001, {THERE}:1002 and others (48 in all)")


def test_closed_ports_that_are_too_many_are_counted() -> None:
    def tell(w: World) -> None:
        for port in range(1000, 1000 + 3 * MAX_ALIKE):
            w.reset("sent", "no_socket", "closed port", port=port)

    assert "ports 1000, 1001, 1002 and others (48 in all)" in explained(tell).verdict.sentence


def test_what_came_before_an_end_leaves_room_for_what_comes_after() -> None:
    world = World()
    for number in range(2):
        for port in range(1000, 1000 + 2 * MAX_ALIKE):
            world.reset("sent", "no_socket", "closed port", port=port)
        world.exit(3, who=process(7 + number, start=world.now, init=True))
    counts = [sum(e.count for e in one.story.of("tcp_reset")) for one in world.explained()]
    assert counts[-1] == 2 * MAX_ALIKE


def test_the_worst_comes_first() -> None:
    def tell(w: World) -> None:
        for _ in range(COUNT):
            w.reset("received", "connection_refused", port=40000, remote=80)
        w.drop("accept", 10)
        for _ in range(COUNT - 1):
            w.reset("sent", "tcp_abort_on_close")

    explanation = explained(tell)
    assert [explanation.verdict.id, *(other.id for other in explanation.others)] == [
        *("refused_by_peer", "reset_unread", "accept_queue_full")
    ]

    def and_end(w: World) -> None:
        tell(w)
        w.exit(3)

    # an end still comes before all that hurt
    assert explained(and_end).verdict.id == "exited"


def test_of_as_many_the_more_specific() -> None:
    def tell(w: World) -> None:
        w.reset("received", "connection_refused", port=40000, remote=80)
        w.reset("sent", "no_socket", "closed port")

    assert explained(tell).verdict.id == "closed_port"


# Both ends


def test_a_pool_that_keeps_connections_for_too_long() -> None:
    """The commonest 502."""
    verdict = explained(keepalive_race).verdict
    assert verdict.sentence == (
        f"shop/back-0 ({THERE}:80) had closed this idle connection 1 s before, after 2 s without"
        " data; web-0 used it once more"
    )
    assert verdict.remedy.startswith("give web-0's pool a shorter idle time-out than shop/back-0")
    assert "keep-alive of about 2 s" in verdict.remedy


def test_the_same_through_a_services_address() -> None:
    """The other end knows another address of the service, and the same of the client."""

    def tell(w: World) -> None:
        w.timelines.mine = lambda event: event.place is NETWORK
        for client in range(40000, 40000 + COUNT):
            w.reset(
                *("sent", "tcp_timewait_socket"),
                port=8080,
                remote=client,
                place=PEER,
                peer=NETWORK,
                ends=(THERE, HERE),
            )
            w.reset(
                *("received", None),
                port=client,
                remote=80,
                ends=(HERE, VIP),
                state="CLOSE_WAIT",
                idle=idle(),
            )

    verdict = explained(tell).verdict
    assert (verdict.id, verdict.certainty) == ("used_after_close", Certainty.CERTAIN)
    assert verdict.sentence.startswith(
        f"shop/back-0 ({VIP}:80) had closed {COUNT} idle connections, the last one 1 s before"
    )


def test_the_servers_own_story() -> None:
    world = World()
    keepalive_race(world)
    world.timelines.mine = lambda event: True
    world = World()
    both(world, "tcp_timewait_socket", state="CLOSE_WAIT", idle=idle(), bytes=carried())
    verdicts = {one.story.place.pod.name: one.verdict for one in world.explained()}  # type: ignore[union-attr]
    assert {name: verdict.id for name, verdict in verdicts.items()} == {
        "web-0": "used_after_close",
        "back-0": "closed_before_use",
    }
    assert verdicts["back-0"].sentence == (
        "back-0 had closed 1 connection that had been idle for 2 s, the last one 1 s before"
        " shop/web-0 sent more"
    )


def test_the_server_alone_tells_for_how_long_it_was_idle() -> None:
    """Its socket was still there."""
    verdict = explained(
        lambda w: w.reset(
            *("sent", "tcp_abort_on_data"),
            state="CLOSE",
            answered=["PSH", "ACK"],
            idle=idle(5 * SECOND, 5 * SECOND, 0),
        )
    ).verdict
    assert verdict.sentence == (
        f"web-0 had closed 1 connection before {THERE} sent more, after 5 s without data"
    )
    assert "in use" not in verdict.remedy


def test_another_connection_is_not_the_other_end() -> None:
    def tell(w: World) -> None:
        w.timelines.mine = lambda event: event.place is NETWORK
        w.reset("sent", "no_socket", "closed port", remote=40001, place=PEER, ends=(THERE, HERE))
        w.reset("received", "connection_refused", port=40000, remote=80, peer=PEER)

    assert explained(tell).verdict.id == "not_by_peer"


def test_what_came_long_before_is_not_the_other_end() -> None:
    def tell(w: World) -> None:
        w.timelines.mine = lambda event: event.place is NETWORK
        w.reset("sent", "no_socket", "closed port", remote=40000, place=PEER, ends=(THERE, HERE))
        w.at(5000).reset("received", "connection_refused", port=40000, remote=80, peer=PEER)

    assert explained(tell).verdict.id == "not_by_peer"


def test_where_some_resets_are_not_seen_nobody_else_is_suspected() -> None:
    """Those for a closed port are sent without a socket, and not every attach point sees them."""
    blind = {"resets": (WITHOUT_SOCKET,)}
    assert sees_both_ends(Selection(), {})
    assert not sees_both_ends(Selection(), blind)
    world = World()
    world.timelines.both_ends = sees_both_ends(Selection(), blind)
    world.timelines.mine = lambda event: event.place is NETWORK
    world.reset("received", "connection_refused", port=40000, remote=80, peer=PEER)
    (story,) = world.timelines.stories()
    explanation = explain(story)
    assert explanation is not None
    assert explanation.verdict.id == "refused_by_peer"


def test_a_loopback_address_is_another_one_in_each_pod() -> None:
    def tell(w: World) -> None:
        w.timelines.mine = lambda event: event.place is NETWORK
        ends = ("127.0.0.1", "127.0.0.1")
        w.reset("sent", "no_socket", "closed port", remote=40000, place=PEER, ends=ends)
        w.reset("received", "connection_refused", port=40000, remote=80, ends=ends)

    assert explained(tell).verdict.certainty is Certainty.LIKELY


def test_the_other_ends_are_counted_and_not_kept() -> None:
    """Half of them were seen at both ends."""

    def tell(w: World) -> None:
        w.timelines.mine = lambda event: event.place is NETWORK
        for client in range(40000, 40000 + COUNT):
            both(w, "no_socket", "closed port", client=client)
            w.reset("received", "connection_refused", port=client + 1000, remote=80, peer=PEER)

    explanation = explained(tell)
    counts = [(v.id, v.harm) for v in (explanation.verdict, *explanation.others)]
    assert counts == [("not_by_peer", COUNT), ("refused_by_peer", COUNT)]
    world = World()
    for client in range(2 * MAX_CONNECTIONS):
        world.reset("sent", "tcp_abort_on_close", remote=33000 + client)
    assert len(world.timelines._connections._by_ends) == MAX_CONNECTIONS
    assert len(world.timelines._connections._by_client) == MAX_CONNECTIONS


def test_why_the_other_side_reset() -> None:
    killer = process(70, "proxy", PEER)
    said = sentence(lambda w: by_peer(w, meaning="closed with SO_LINGER 0", sent={"who": killer}))
    assert said == (
        f"1 connection reset by shop/back-0 ({THERE}:80) (closed with SO_LINGER 0 by proxy[70]"
        " (/bin/proxy))"
    )


def test_idle_time_before_a_reset_is_told() -> None:
    """As of a load balancer's time-out."""

    def tell(w: World) -> None:
        w.reset(
            *("received", None),
            port=40000,
            remote=80,
            state="ESTABLISHED",
            idle=idle(350 * SECOND, 351 * SECOND, 350 * SECOND),
        )

    assert sentence(tell) == (
        f"1 connection reset by {THERE}:80, the last one after 5.8 min without data"
    )


def test_whose_time_out_it_was() -> None:
    def tell(w: World) -> None:
        w.reset(
            *("received", None),
            state="CLOSE_WAIT",
            idle=idle(0, 7 * SECOND, 2 * SECOND),
            bytes=carried(),
        )

    assert sentence(tell) == (
        f"{THERE} had closed 1 connection 2 s before web-0 answered: it had waited 5 s for the"
        " answer, which took 7 s"
    )


def test_what_is_refused_is_addressed_once() -> None:
    unknown = sentence(lambda w: w.reset("received", "connection_refused", port=40000, remote=80))
    assert unknown == f"1 attempt of its own to connect refused by {THERE}:80"
    assert sentence(refused) == (
        f"1 attempt of its own to connect refused by shop/back-0 ({THERE}:80); that side's TCP sent"
        " the resets, as nothing listens there"
    )


def test_who_sent_the_resets_that_refuse() -> None:
    """The node, another pod, or both; not told if some were not seen being sent."""

    def by(*places: Place | None) -> Tell:
        def tell(w: World) -> None:
            w.timelines.mine = lambda event: event.place is NETWORK
            for number, place in enumerate(places):
                client = 40000 + number
                w.reset("received", "connection_refused", inferred=True, port=client, remote=80)
                if place is not None:
                    w.reset(
                        *("sent", "no_socket", "closed port"),
                        port=80,
                        remote=client,
                        place=place,
                        ends=(THERE, HERE),
                    )

        return tell

    assert sentence(by(HOST)).endswith(
        "; the node's own TCP sent the resets, as nothing listens there"
    )
    assert "; that side's TCP sent the resets" in sentence(by(PEER, PEER))
    assert "; each side's TCP sent the resets" in sentence(by(PEER, HOST))
    assert "sent the resets" not in sentence(by(HOST, None))


def test_connects_that_a_reset_refused_are_its_evidence() -> None:
    """Those to the same end that it answered."""
    world = World()
    refused(world)
    own = connect(world, "refused", answer="reset")
    connect(world, "refused", answer="reset", port=81)
    connect(world, "late", syns=4)
    (found,) = (e for e in world.only().verdict.evidence if e.event.kind == "connect_failure")
    assert found.event is own


def test_what_follows_from_a_reset_is_not_told_again() -> None:
    """An upload that the server cuts off: the rest of it is answered with resets, too."""

    def tell(w: World) -> None:
        w.reset("sent", "tcp_abort_on_close", "closed with unread data", who=INIT)
        for _ in range(COUNT):
            w.reset("sent", "no_socket", "no such connection", answered=["ACK"])

    explanation = explained(tell)
    assert explanation.verdict.id == "reset_unread"
    assert explanation.others == ()


def test_a_reset_is_told_after_what_follows_from_it() -> None:
    """A client that leaves a download: data that comes during its close() is answered first."""
    world = World()
    for client in range(40000, 40000 + COUNT):
        world.reset("sent", "no_socket", port=client, remote=80, answered=["ACK"])
        world.reset("sent", "tcp_abort_on_close", port=client, remote=80, answered=None)
    assert world.explained() == []
    world = World()
    world.reset("sent", "no_socket", port=40000, remote=80, answered=["ACK"])
    world.at(1000).reset("sent", "tcp_abort_on_close", port=40000, remote=80, answered=None)
    assert world.only().verdict.id == "no_such_connection"


def test_a_connection_of_an_earlier_life() -> None:
    world = World()
    world.exit(3, who=process(7, start=world.now, init=True))
    world.at(5000).reset("sent", "no_socket", "no such connection", answered=["ACK"])
    life = process(8, place=place_of("b" * 64), start=world.now, init=True)
    world.at(6000).exit(3, who=life)
    _, second = world.explained()
    (verdict,) = second.others
    assert verdict.id == "connection_of_earlier_life"
    assert "the container had ended 5 s before" in verdict.sentence


def test_a_connection_of_a_former_pod() -> None:
    assert "the pod was 7 s old, and its address had been another's" in sentence(young)


def test_an_init_container_is_no_earlier_life() -> None:
    world = World()
    init = process(7, place=place_of("c" * 64, "init"), start=world.now, init=True)
    world.exit(0, who=init)
    world.at(5000).reset("sent", "no_socket", "no such connection", answered=["ACK"])
    world.exit(3, who=process(8, place=place_of("b" * 64), start=world.now, init=True))
    ids = [v.id for one in world.explained() for v in (one.verdict, *one.others)]
    assert "no_such_connection" in ids


def test_whom_the_client_had_asked() -> None:
    said = sentence(untranslated)
    assert said == (
        f"1 reply of {THERE}:8080 came to web-0 under its own address instead of {VIP}:80: it was"
        " not translated back, and the connection was reset"
    )


# Queues


def test_both_queues_are_told() -> None:
    def tell(w: World) -> None:
        w.drop("syn", 100)
        w.drop("accept", COUNT, port=None)

    explanation = explained(tell)
    assert explanation.verdict.sentence.startswith(
        "100 attempts to connect turned away at port 80: the SYN queue was full"
    )
    (accept,) = explanation.others
    assert accept.sentence.startswith(
        f"{COUNT} attempts to connect turned away: the accept queue was full"
    )


def test_the_drops_of_all_ports_are_added_up() -> None:
    def tell(w: World) -> None:
        w.drop("accept", 10)
        w.drop("accept", 11, port=81)
        w.drop("accept", 2, port=None)

    assert sentence(tell).startswith(
        f"{COUNT} attempts to connect turned away at ports 80, 81 and one that cannot be named: the"
    )


def test_the_remedy_of_a_full_syn_queue_begins_with_the_backlog() -> None:
    remedy = explained(lambda w: w.drop("syn")).verdict.remedy
    knobs = ["listen()", "net.core.somaxconn", "tcp_syncookies", "tcp_max_syn_backlog"]
    places = [remedy.index(knob) for knob in knobs]
    assert places == sorted(places)


def test_an_overflow_that_is_answered_with_resets() -> None:
    def tell(w: World) -> None:
        w.drop("accept", COUNT)
        for client in range(40000, 40000 + COUNT):
            w.reset("sent", "invalid_syn", state="LISTEN", remote=client, answered=["ACK"])

    verdict = explained(tell).verdict
    assert verdict.sentence.startswith(
        f"{COUNT} attempts to connect turned away at port 80; {COUNT} of them with a reset: the"
    )
    assert "tcp_abort_on_overflow" in verdict.remedy
    assert verdict.certainty is Certainty.CERTAIN


def test_the_hosts_end_is_no_pods_but_it_is_seen() -> None:
    def tell(w: World) -> None:
        w.reset("received", None, port=40000, remote=80, bytes=carried())
        w.reset(
            *("sent", "so_linger_zero"),
            port=80,
            remote=40000,
            place=HOST,
            ends=(THERE, HERE),
        )

    assert explained(tell).verdict.certainty is Certainty.CERTAIN
