# SPDX-License-Identifier: Apache-2.0
"""Which pod a network namespace and an address belong to, from a made-up /proc."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import pytest

from tracer.backends.batch import cell
from tracer.backends.objects import object_file
from tracer.bpf_object import BpfObject
from tracer.identity.cgroup import parse
from tracer.identity.netns import (
    DISTRUST_SECONDS,
    MAPPED,
    PodNetworkCompanion,
    PodNetworks,
    decode_pod_network,
    is_loopback,
    networks,
    own_addresses,
)
from tracer.identity.resolver import Resolver
from tracer.identity.tree import Cgroup

ONE = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
TWO = "11111111-4e5f-6071-8293-a4b5c6d7e8f9"
CID = "7" * 64

TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     |-- 10.9.9.9
        /32 universe UNICAST
Local:
  +-- 0.0.0.0/0 3 0 5
     +-- {net}/24 2 0 2
        |-- {address}
           /32 host LOCAL
        |-- {broadcast}
           /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.0
           /8 host LOCAL
        |-- 127.0.0.1
           /32 host LOCAL
"""


@dataclass
class Node:
    """A node of which /proc and cgroups are files."""

    root: Path
    cgroups: list[Cgroup] = field(default_factory=list)
    time: float = 1000.0
    scans: int = 0

    def process(
        self, pid: int | str, namespace: str, v4: str = "", v6: tuple[str, ...] = ()
    ) -> None:
        """Namespaces are files; their inodes are what counts."""
        shared = self.root / "namespaces" / namespace
        shared.parent.mkdir(exist_ok=True)
        shared.touch()
        process = self.root / "proc" / str(pid)
        (process / "ns").mkdir(parents=True)
        (process / "ns" / "net").symlink_to(shared)
        (process / "net").mkdir()
        if v4:
            front = v4.rpartition(".")[0]
            text = TRIE.format(net=f"{front}.0", address=v4, broadcast=f"{front}.255")
            (process / "net" / "fib_trie").write_text(text)
        (process / "net" / "if_inet6").write_text(
            "".join(
                f"{ip_address(a).packed.hex()} 02 40 {s} 80 eth0\n"
                for a, s in zip(v6[::2], v6[1::2], strict=True)
            )
        )

    def inode(self, namespace: str) -> int:
        return (self.root / "namespaces" / namespace).stat().st_ino

    def pod(self, number: int, uid: str, *pids: int) -> None:
        """Its own cgroup has this number, that of its container the next."""
        path = f"/kubepods/burstable/pod{uid}"
        self.cgroup(number, path)
        self.cgroup(number + 1, f"{path}/{CID}", *pids)

    def cgroup(self, number: int, path: str, *pids: int) -> None:
        directory = self.root / "cgroup" / path.lstrip("/")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
        self.cgroups.append(Cgroup(number, path, str(directory), parse(path)))

    def remove_pod(self, uid: str) -> None:
        self.cgroups = [c for c in self.cgroups if c.identity.pod_uid != uid]

    def look(self) -> list[Cgroup]:
        self.scans += 1
        return list(self.cgroups)


SCHEMA = BpfObject(object_file("resets")).schemas["pod_network"]


class Session:
    """What a session does with the companion's records."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.resolver = Resolver(lambda place: None)
        self.companion = PodNetworkCompanion(
            {"pod_network": SCHEMA},
            ("tcp_reset",),
            node.look,
            str(node.root / "proc"),
            lambda: node.time,
        )

    def turn(self, *fresh: str, after: float = 0.6) -> int:
        """How many records there were."""
        self.node.time += after
        records = self.companion.records(frozenset(fresh))
        for cgroup in self.node.cgroups:
            self.resolver.add_path(cgroup.id, cgroup.path)
        for record in records:
            for decoded in SCHEMA.cells(memoryview(cell(record))):
                decode_pod_network(decoded, self.resolver)
        return len(records)

    def by_netns(self, namespace: str) -> str | None:
        place = networks(self.resolver).of_netns(self.node.inode(namespace))
        assert place is None or place.container is None
        return place.identity.pod_uid if place else None

    def by_address(self, address: str) -> str | None:
        place = networks(self.resolver).of_address(packed(address))
        return place.identity.pod_uid if place else None


def packed(address: str) -> bytes:
    parsed = ip_address(address)
    return MAPPED + parsed.packed if parsed.version == 4 else parsed.packed


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    made.process(1, "host", "192.0.2.1")
    yield made


def test_a_pod_by_namespace_and_by_addresses(node: Node) -> None:
    node.process(10, "one", "10.1.0.5", ("fd00::5", "00", "fe80::5", "20", "::1", "10"))
    node.pod(100, ONE, 10)
    session = Session(node)
    session.turn()
    assert session.by_netns("one") == ONE
    assert session.by_address("10.1.0.5") == session.by_address("fd00::5") == ONE
    for other in ("10.1.0.255", "10.9.9.9", "127.0.0.1", "fe80::5", "::1", "0.0.0.0", "::"):
        assert session.by_address(other) is None


def test_the_pod_is_meant_and_not_one_of_its_containers(node: Node) -> None:
    node.process(10, "one", "10.1.0.5")
    node.pod(100, ONE, 10)
    session = Session(node)
    session.turn()
    place = networks(session.resolver).of_address(packed("10.1.0.5"))
    assert place is not None
    assert place.cgroup == 100


def test_the_hosts_namespace_is_no_pods(node: Node) -> None:
    node.process(10, "host", "192.0.2.1")
    node.pod(100, ONE, 10)
    session = Session(node)
    assert session.turn() == 0
    assert session.by_netns("host") is None
    assert session.by_address("192.0.2.1") is None


def test_a_first_process_that_is_hidden(node: Node) -> None:
    (node.root / "proc" / "1" / "ns" / "net").unlink()
    node.process("self", "host", "192.0.2.1")
    node.process(10, "host", "192.0.2.1")
    node.pod(100, ONE, 10)
    session = Session(node)
    assert session.turn() == 0


def test_the_first_in_a_namespace_keeps_it(node: Node) -> None:
    """A pod may be allowed to enter another's."""
    node.process(10, "one", "10.1.0.5")
    node.pod(100, ONE, 10)
    session = Session(node)
    session.turn()
    node.process(20, "one", "10.1.0.5")
    node.pod(200, TWO, 20)
    assert session.turn("cgroup") == 0
    assert session.by_netns("one") == session.by_address("10.1.0.5") == ONE


def test_an_address_that_two_living_pods_have_is_nobodys(node: Node) -> None:
    """As that of a bridge that both made inside."""
    node.process(10, "one", "172.17.0.1")
    node.pod(100, ONE, 10)
    node.process(20, "two", "172.17.0.1")
    node.pod(200, TWO, 20)
    session = Session(node)
    session.turn()
    assert session.by_address("172.17.0.1") is None
    assert session.by_netns("one") == ONE
    assert session.by_netns("two") == TWO


def test_the_dead_stay_known_until_somebody_has_their_address(node: Node) -> None:
    node.process(10, "one", "10.1.0.5")
    node.pod(100, ONE, 10)
    session = Session(node)
    session.turn()
    node.remove_pod(ONE)
    session.turn("cgroup")
    assert session.by_netns("one") == session.by_address("10.1.0.5") == ONE
    node.process(20, "two", "10.1.0.5")
    node.pod(200, TWO, 20)
    session.turn("cgroup")
    assert session.by_address("10.1.0.5") == TWO
    assert session.by_netns("one") == ONE


def test_a_pod_that_gets_its_network_later_than_its_cgroup(node: Node) -> None:
    session = Session(node)
    session.turn()
    node.cgroup(100, f"/kubepods/pod{ONE}")
    assert session.turn("cgroup") == 0
    node.process(10, "one", "10.1.0.5")
    node.cgroup(101, f"/kubepods/pod{ONE}/{CID}", 10)
    assert session.turn() == 2
    assert session.by_address("10.1.0.5") == ONE
    assert session.turn() == 0  # nothing is said twice


def test_nothing_is_looked_at_while_nothing_happens(node: Node) -> None:
    session = Session(node)
    for _ in range(100):
        session.turn()
    assert node.scans == 1
    session.turn("cgroup")
    for _ in range(100):
        session.turn()
    assert 8 <= node.scans <= 11
    before = node.scans
    session.turn("tcp_reset", after=DISTRUST_SECONDS + 1)
    assert node.scans == before + 1


def test_a_storm_does_not_make_it_look_more_often(node: Node) -> None:
    session = Session(node)
    for _ in range(1000):
        session.turn("tcp_reset", "cgroup", after=0.001)
    assert node.scans <= 3


def test_what_is_not_on_this_node_any_more(node: Node) -> None:
    node.pod(100, ONE, 4711)
    session = Session(node)
    assert session.turn() == 0
    (node.root / "cgroup" / f"kubepods/burstable/pod{ONE}/{CID}" / "cgroup.procs").unlink()
    assert session.turn("cgroup") == 0


def test_a_file_system_that_is_gone() -> None:
    def broken() -> list[Cgroup]:
        raise OSError("gone")

    companion = PodNetworkCompanion({"pod_network": SCHEMA}, (), broken)
    assert companion.records(frozenset()) == []
    companion.close()


def test_loopback_is_in_the_same_namespace(node: Node) -> None:
    node.process(10, "one", "10.1.0.5")
    node.pod(100, ONE, 10)
    session = Session(node)
    session.turn()
    known, inside = networks(session.resolver), node.inode("one")
    for address in ("127.0.0.1", "127.9.9.9", "::1"):
        place = known.of_peer(packed(address), inside)
        assert place is not None
        assert place.identity.pod_uid == ONE
        assert known.of_peer(packed(address), node.inode("host")) is None
    assert known.of_peer(packed("10.1.0.6"), inside) is None
    assert not is_loopback(packed("128.0.0.1"))


@pytest.mark.parametrize(
    "text", ["", "\0\0", "|-- \n/32 host LOCAL", "|-- 1.2.3\n /32 host LOCAL\n"]
)
def test_a_file_that_says_nothing(tmp_path: Path, text: str) -> None:
    for name in ("fib_trie", "if_inet6"):
        (tmp_path / name).write_text(text)
    assert own_addresses(tmp_path) == []
    assert own_addresses(tmp_path / "gone") == []


def test_this_machine_knows_its_own_addresses() -> None:
    assert all(len(address) == 16 for address in own_addresses(Path("/proc/self/net")))


def test_one_table_for_each_stream_and_none_is_kept() -> None:
    one, two = Resolver(lambda place: None), Resolver(lambda place: None)
    assert networks(one) is networks(one)
    assert networks(one) is not networks(two)
    table = weakref.ref(networks(one))
    assert isinstance(table(), PodNetworks)
    del one
    gc.collect()
    assert table() is None
