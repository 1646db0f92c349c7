# SPDX-License-Identifier: Apache-2.0
"""Which pod a network namespace and an address belong to, by what has been told."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.growth import growth
from tracer.identity import netns as module
from tracer.identity import resolver
from tracer.identity.netns import (
    FORMER,
    FOUND_LATER,
    MAKING_NS,
    MAX_USES,
    NO_ADDRESS,
    NUMBER,
    SEVERAL,
    VISITOR,
    Holder,
    How,
    PodNetworks,
    is_loopback,
    made_up,
)
from tracer.identity.resolver import Resolver
from tracer.model.address import MAPPED
from tracer.probes import Stream

INODE = 4026532000
EARLIER = 1_000


def uid(number: int) -> str:
    return f"{number:08x}-4e5f-6071-8293-a4b5c6d7e8f9"


def packed(address: str) -> bytes:
    parsed = ip_address(address)
    return MAPPED + parsed.packed if parsed.version == 4 else parsed.packed


@dataclass
class Told:
    """What a session is told, and what it then says."""

    resolver: Resolver = field(default_factory=lambda: Resolver(lambda place: None))
    times: Iterator[int] = field(default_factory=lambda: count(EARLIER))

    def __post_init__(self) -> None:
        self.networks = PodNetworks(self.resolver)

    def container(self, cgroup: int, pod: int | None) -> None:
        below = f"/kubepods/pod{uid(pod)}" if pod is not None else "/docker"
        self.resolver.add_path(cgroup, f"{below}/{cgroup:064x}")

    def end(self, cgroup: int) -> None:
        self.resolver.end_cgroup(SimpleNamespace(cgroup=cgroup, time=next(self.times)))

    def use(self, network: int, cgroup: int, how: How = How.AT_HOME, netns: int = INODE) -> int:
        """When it was told."""
        time = next(self.times)
        self.tell("network", network=network, netns=netns, cgroup=cgroup, how=how, time=time)
        return time

    def answer(self, network: int, use: int) -> None:
        """No more addresses were found because of that use."""
        self.tell("network_address", network=network, address=NO_ADDRESS, because=use)

    def address(self, network: int, address: str) -> None:
        self.tell("network_address", network=network, address=packed(address))

    def tell(self, name: str, **values: Any) -> None:
        self.networks.decoders[name](SimpleNamespace(**values))

    def of(self, network: int, netns: int = INODE) -> Holder:
        return self.networks.of_network(network, netns)[0]

    def of_address(self, address: str) -> str | None:
        return pod_of(self.networks.of_address(packed(address)))


def happens(network: int, netns: int = INODE, time: int = EARLIER) -> Any:
    """An event in a namespace."""
    return SimpleNamespace(network=network, netns=netns, time=time)


def pod_of(holder: Holder) -> str | None:
    return holder.place.identity.pod_uid if holder.place else None


@pytest.fixture
def told() -> Told:
    """Two pods with one container each."""
    made = Told()
    for number in (1, 2):
        made.container(number, number)
    return made


def test_the_pod_is_meant_and_not_one_of_its_containers(told: Told) -> None:
    told.use(7, 1)
    holder = told.of(7)
    assert pod_of(holder) == uid(1)
    assert holder.place is not None
    assert holder.place.identity.container_id is None
    assert (holder.living, holder.doubt) == (True, None)
    told.resolver.add_path(100, f"/kubepods/pod{uid(1)}")
    assert told.of(7).place is told.resolver.place(100)


def test_a_container_without_a_pod_is_a_place(told: Told) -> None:
    told.container(3, None)
    told.use(7, 3)
    assert told.of(7).place is told.resolver.place(3)


def test_tables_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pod has that is there stays, however many come and go."""
    for table in ("MAX_KNOWN", "MAX_ADDRESSES", "MAX_INODES", "MAX_UNASKED"):
        monkeypatch.setattr(module, table, 30_000)
    monkeypatch.setattr(resolver, "MAX_DEAD", 30_000)
    told = Told()
    told.container(1, 1)
    told.use(1, 1)
    told.address(1, "10.0.0.1")
    with growth() as grown:
        for number in range(2, 3000):
            told.container(number, number)
            told.use(number, number, netns=INODE + number)
            told.address(number, f"10.1.{number >> 8}.{number & 255}")
            told.end(number)
    assert grown() < 150_000
    assert pod_of(told.of(1)) == uid(1)
    assert told.of_address("10.0.0.1") == uid(1)
    assert told.of(2, INODE + 2) == Holder()


def test_the_hosts_namespace_is_nobodys(told: Told) -> None:
    assert told.networks.of_network(9, INODE) == (Holder(), False)
    told.use(9, 0, How.OF_HOST)
    assert told.networks.of_network(9, INODE) == (Holder(), True)


def test_a_number_that_comes_back(told: Told) -> None:
    """The same inode, another namespace: whose it was and whose it is are two questions."""
    told.use(7, 1)
    told.end(1)
    told.use(8, 2)
    assert (pod_of(told.of(7)), pod_of(told.of(8))) == (uid(1), uid(2))
    assert told.networks.of_network(9, INODE) == (Holder(), False)


def test_the_dead_stay_known_until_somebody_has_their_address(told: Told) -> None:
    told.use(7, 1)
    told.address(7, "10.1.0.5")
    told.end(1)
    assert (pod_of(told.of(7)), told.of_address("10.1.0.5")) == (uid(1), uid(1))
    told.use(8, 2)
    told.address(8, "10.1.0.5")
    assert (pod_of(told.of(7)), told.of_address("10.1.0.5")) == (uid(1), uid(2))


def test_an_address_that_two_living_pods_have_is_nobodys(told: Told) -> None:
    """As that of a bridge that both made inside."""
    for number in (1, 2):
        told.use(number, number)
        told.address(number, "172.17.0.1")
    assert told.of_address("172.17.0.1") is None
    told.end(1)
    assert told.of_address("172.17.0.1") == uid(2)


def test_a_visitor_does_not_take_a_namespace(told: Told) -> None:
    """Be it there before the pod's own processes, as what sets up its network, or after them."""
    told.use(7, 2, How.VISITING)
    assert (pod_of(told.of(7)), told.of(7).doubt) == (uid(2), VISITOR)
    told.use(7, 1)
    assert (pod_of(told.of(7)), told.of(7).doubt) == (uid(1), None)
    told.end(1)
    assert pod_of(told.of(7)) == uid(1)


def test_two_that_are_at_home(told: Told) -> None:
    """As docker run --network container:X."""
    told.use(7, 1)
    told.use(7, 2)
    assert (pod_of(told.of(7)), told.of(7).doubt) == (uid(1), SEVERAL)
    told.end(1)
    assert (pod_of(told.of(7)), told.of(7).living) == (uid(2), True)
    told.end(2)
    assert (pod_of(told.of(7)), told.of(7).living) == (uid(2), False)


def test_what_was_found_later_is_concluded(told: Told) -> None:
    told.use(7, 1, How.CONCLUDED)
    assert (pod_of(told.of(7)), told.of(7).doubt) == (uid(1), FOUND_LATER)


def test_what_was_found_in_the_next_namespace_with_the_number(told: Told) -> None:
    told.use(8, 2)
    told.use(7, 2, How.CONCLUDED)
    assert told.networks.of_network(7, INODE) == (Holder(), True)


def test_that_nobody_was_found_is_an_answer(told: Told) -> None:
    told.use(7, 0, How.CONCLUDED)
    assert told.networks.of_network(7, INODE) == (Holder(), True)


def test_older_than_the_tracing(told: Told) -> None:
    """Where the kernel side does not say what ran before, only the inode is known, until another
    namespace has it or the container has ended."""
    told.use(made_up(INODE), 1, How.CONCLUDED)
    told.address(made_up(INODE), "10.1.0.5")
    assert (pod_of(told.of(7)), told.of(7).doubt) == (uid(1), FOUND_LATER)
    told.use(8, 2)
    assert told.networks.of_network(7, INODE) == (Holder(), False)
    assert told.of_address("10.1.0.5") is None
    told.use(made_up(INODE + 1), 1, How.CONCLUDED, INODE + 1)
    told.end(1)
    assert told.networks.of_network(9, INODE + 1) == (Holder(), False)


def test_by_its_inode_alone(told: Told) -> None:
    """As what is counted in user space: certain as long as somebody is at home there."""
    told.use(7, 1)
    assert (pod_of(told.of(0)), told.of(0).doubt) == (uid(1), None)
    told.end(1)
    assert (pod_of(told.of(0)), told.of(0).doubt) == (uid(1), NUMBER)
    assert told.networks.of_network(0, 4711) == (Holder(), True)


def test_a_witness_in_no_container_against_a_pod_that_has_ended(told: Told) -> None:
    """The kernel has used the inode again, for a namespace of the node that nobody told of."""
    event = happens(0, INODE)
    told.use(7, 1)
    told.resolver.add_path(100, "/user.slice")
    host = told.resolver.place(100)
    place = told.networks.sides(event, None, host).place
    assert place is not None and place.identity.pod_uid == uid(1)
    told.end(1)
    sides = told.networks.sides(event, None, host)
    assert (sides.place, sides.doubts) == (host, ())
    assert told.networks.sides(event, None, None).doubts == (NUMBER,)


def test_a_recording_of_format_1_0(told: Told) -> None:
    told.resolver.add_path(100, f"/kubepods/pod{uid(1)}")
    told.tell("pod_network", netns=INODE, cgroup=100, has_address=0, address=NO_ADDRESS)
    told.tell("pod_network", netns=0, cgroup=100, has_address=1, address=packed("10.1.0.5"))
    assert (pod_of(told.of(0)), told.of(0).doubt) == (uid(1), NUMBER)
    assert told.of_address("10.1.0.5") == uid(1)
    told.tell("pod_network", netns=0, cgroup=0, has_address=1, address=packed("10.1.0.5"))
    assert told.of_address("10.1.0.5") is None


def test_a_peer_whose_address_is_being_looked_for(told: Told) -> None:
    use = told.use(8, 2)
    event = happens(8, INODE)
    assert not told.networks.sides(event, packed("10.1.0.5")).settled
    told.answer(8, use)
    assert told.networks.sides(event, packed("10.1.0.5")).settled


@pytest.fixture
def replaced(told: Told) -> Told:
    """The first pod has ended, and another pod's network is being made: a program of the node has
    executed in its namespace, 2, and is gone, so no address was found through it."""
    told.answer(1, told.use(1, 1, netns=1))
    told.address(1, "10.1.0.5")
    told.end(1)
    told.use(9, 0, How.OF_HOST, 9)
    assert told.networks.sides(happens(9, 9), packed("10.1.0.5")).doubts == (FORMER,)
    told.answer(2, told.use(2, 100))
    return told


def test_a_pod_refuses_before_it_has_executed_anything(replaced: Told) -> None:
    """Neither is its namespace nobody's, nor its address the former pod's."""
    sent, received = happens(2), happens(9, 9)
    for event, peer in ((sent, "192.0.2.1"), (received, "10.1.0.5")):
        sides = replaced.networks.sides(event, packed(peer))
        assert (sides.place, sides.peer, sides.settled, sides.doubts) == (None, None, False, ())
    use = replaced.use(2, 2)
    replaced.address(2, "10.1.0.5")
    replaced.answer(2, use)
    sides = replaced.networks.sides(sent, packed("192.0.2.1"))
    assert sides.place and (sides.place.identity.pod_uid, sides.settled) == (uid(2), True)
    sides = replaced.networks.sides(received, packed("10.1.0.5"))
    assert sides.peer and (sides.peer.identity.pod_uid, sides.settled) == (uid(2), True)
    assert not sides.doubts


@pytest.mark.parametrize("late", [True, False])
def test_each_use_is_looked_at(replaced: Told, late: bool) -> None:
    """An answer that nothing was found through who is gone says nothing of the pod's process."""
    event = happens(9, 9)
    plugin = replaced.use(2, 101)
    if not late:
        replaced.answer(2, plugin)
    pod = replaced.use(2, 2)
    if late:
        replaced.answer(2, plugin)
    sides = replaced.networks.sides(event, packed("10.1.0.5"))
    assert (sides.settled, sides.peer, sides.doubts) == (False, None, ())
    replaced.answer(2, pod)
    assert replaced.networks.sides(event, packed("10.1.0.5")).settled


def test_a_namespace_that_no_pod_comes_to_have(replaced: Told) -> None:
    """It is the node's own, and nothing waits for it any more."""
    for when, settled in ((0, False), (MAKING_NS - 1, False), (2 * MAKING_NS, True)):
        sides = replaced.networks.sides(happens(2, time=EARLIER + when), packed("10.1.0.5"))
        assert (sides.place, sides.settled) == (None, settled)
    assert replaced.networks.sides(happens(9, 9), packed("10.1.0.5")).doubts == (FORMER,)
    replaced.use(2, 2)
    sides = replaced.networks.sides(happens(2), None)
    assert sides.place and sides.place.identity.pod_uid == uid(2)


def test_a_peer_of_an_event_in_a_namespace_that_is_being_looked_for(told: Told) -> None:
    """A new pod refuses before its first process has executed anything: both ends wait."""
    refuses, asks = (happens(n, n) for n in (7, 9))
    told.use(9, 0, How.OF_HOST, 9)
    assert told.networks.sides(asks, packed("10.1.0.5")).settled
    assert not told.networks.sides(refuses, packed("192.0.2.1")).settled
    assert not told.networks.sides(asks, packed("10.1.0.5")).settled
    told.use(7, 0, How.CONCLUDED, 7)
    assert told.networks.sides(asks, packed("10.1.0.5")).settled


def test_an_address_that_may_have_come_back(told: Told) -> None:
    """It was a dead pod's, and that of a new one is just being looked for."""
    for number in (1, 2):
        use = told.use(number, number, netns=number)
        told.address(number, "10.1.0.5")
        event = happens(9, 9)
        told.use(9, 0, How.OF_HOST, 9)
        told.answer(number, use)
        sides = told.networks.sides(event, packed("10.1.0.5"))
        assert (sides.settled, sides.doubts) == (True, ())
        told.end(number)
        sides = told.networks.sides(event, packed("10.1.0.5"))
        assert (sides.settled, sides.doubts) == (True, (FORMER,))
        told.networks.sides(happens(99 + number, 9), None)
        sides = told.networks.sides(event, packed("10.1.0.5"))
        assert (sides.settled, sides.peer, sides.doubts) == (False, None, ())
        told.use(99 + number, 0, How.CONCLUDED, 4711)


def test_loopback_is_in_the_same_namespace(told: Told) -> None:
    told.use(7, 1)
    for address in ("127.0.0.1", "127.9.9.9", "::1"):
        assert pod_of(told.networks.of_peer(packed(address), 7, INODE)[0]) == uid(1)
        assert told.networks.of_peer(packed(address), 9, 1) == (Holder(), False)
    assert not is_loopback(packed("128.0.0.1"))


def test_a_containers_cgroup_is_the_better_witness(told: Told) -> None:
    """Than the namespace; one of the host's is not."""
    told.use(7, 1)
    told.resolver.add_path(50, "/system.slice/runtime.service")
    event, other, host = happens(7, INODE), *map(told.resolver.place, (2, 50))
    assert told.networks.sides(event, None, other).place is other
    place = told.networks.sides(event, None, host).place
    assert place is not None
    assert place.identity.pod_uid == uid(1)
    told.use(9, 0, How.OF_HOST, 1)
    event = happens(9, 1)
    assert told.networks.sides(event, None, host).place is host


def test_a_pod_that_restarts_without_end(told: Told) -> None:
    """Of its containers only so many are remembered, and the living before the dead."""
    told.use(7, 1)
    for cgroup in range(1000, 1000 + 3 * MAX_USES):
        told.container(cgroup, 1)
        told.use(7, cgroup)
        told.end(cgroup)
    assert told.of(7).living
    told.end(1)
    assert not told.of(7).living


def test_one_table_for_each_stream_and_none_is_kept() -> None:
    one, two = Stream(Resolver(lambda place: None)), Stream(Resolver(lambda place: None))
    assert one.shared(PodNetworks) is one.shared(PodNetworks)
    assert one.shared(PodNetworks) is not two.shared(PodNetworks)
    table = weakref.ref(one.shared(PodNetworks))
    assert table() is not None
    del one
    assert table() is None  # counting has freed it: they refer to each other in no circle


@dataclass
class Namespace:
    network: int
    netns: int
    pod: int
    told: bool = False


class Node:
    """Pods come and go, and with them namespaces, whose inodes come back at once."""

    def __init__(self) -> None:
        self.told = Told()
        self.free = [3, 2, 1]
        self.living: list[Namespace] = []
        self.dead: list[Namespace] = []
        self.numbers = count(1)

    def born(self) -> None:
        if self.free:
            number = next(self.numbers)
            self.told.container(number, number)
            self.living.append(Namespace(100 + number, self.free.pop(), number))

    def exec(self, which: int) -> None:
        if self.living:
            space = self.living[which % len(self.living)]
            self.told.use(space.network, space.pod, netns=space.netns)
            space.told = True

    def visit(self, which: int) -> None:
        """From the pod that came last."""
        if self.living:
            space = self.living[which % len(self.living)]
            visitor = self.living[-1].pod
            if visitor != space.pod:
                self.told.use(space.network, visitor, How.VISITING, space.netns)

    def search(self, which: int) -> None:
        """For a namespace of which an event spoke, perhaps long ago: by its inode."""
        spaces = self.living + self.dead
        if spaces:
            wanted = spaces[which % len(spaces)]
            there = next((s.pod for s in self.living if s.netns == wanted.netns), 0)
            self.told.use(wanted.network, there, How.CONCLUDED, wanted.netns)

    def die(self, which: int) -> None:
        if self.living:
            space = self.living.pop(which % len(self.living))
            self.told.end(space.pod)
            self.free.append(space.netns)
            self.dead.append(space)

    def check(self) -> None:
        for space in (*self.living, *self.dead):
            holder = self.told.of(space.network, space.netns)
            if space.told:
                assert (pod_of(holder), holder.doubt) == (uid(space.pod), None)
            elif pod_of(holder) != uid(space.pod):
                assert holder.place is None or holder.doubt


ACTIONS = ("born", "exec", "visit", "search", "die")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 9)), max_size=40))
def test_nobody_gets_what_was_not_his(actions: list[tuple[str, int]]) -> None:
    """A namespace in which the pod's own process has executed anything is the pod's, then and later
    and for certain; another may have one only with a doubt, while the pod itself has not."""
    node = Node()
    for action, which in actions:
        node.born() if action == "born" else getattr(node, action)(which)
        node.check()
