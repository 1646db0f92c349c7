# SPDX-License-Identifier: Apache-2.0
"""What is found in a made-up /proc of network namespaces, and told in records."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from tests.support.wait import wait_for
from tracer.identity.netns import NO_ADDRESS, How, made_up
from tracer.identity.network_lookup import MAX_ADDRESSES, NetworkLookup, own_addresses
from tracer.kernel.bpf_object import shipped
from tracer.model.address import MAPPED
from tracer.model.batch import cell
from tracer.model.schema import Schema

_LAYOUTS = shipped("network").schemas | shipped("resets").schemas
SCHEMAS = {name: schema.numbered(kind) for kind, (name, schema) in enumerate(_LAYOUTS.items(), 1)}
TICK_NS = 10_000_000

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
    """A node of which /proc is files. Namespaces are files too; their inodes are what counts."""

    root: Path
    cgroups: dict[int, int] = field(default_factory=dict)  # by pid

    def process(
        self, pid: int, namespace: str, v4: str = "", v6: tuple[str, ...] = (), cgroup: int = 0
    ) -> None:
        self.cgroups[pid] = cgroup
        process = self.root / "proc" / str(pid)
        (process / "ns").mkdir(parents=True)
        (process / "net").mkdir()
        (process / "stat").write_text(f"{pid} (a b) c) S {'0 ' * 18}{pid * 3} 0 0")
        self.enter(pid, namespace)
        (process / "net" / "if_inet6").write_text(
            "".join(
                f"{ip_address(a).packed.hex()} 02 40 {s} 80 eth0\n"
                for a, s in zip(v6[::2], v6[1::2], strict=True)
            )
        )
        if v4:
            self.give(pid, v4)

    def enter(self, pid: int, namespace: str) -> None:
        shared = self.root / "namespaces" / namespace
        shared.parent.mkdir(exist_ok=True)
        shared.touch()
        link = self.root / "proc" / str(pid) / "ns" / "net"
        link.unlink(missing_ok=True)
        link.symlink_to(shared)

    def give(self, pid: int, address: str) -> None:
        front = address.rpartition(".")[0]
        text = TRIE.format(net=f"{front}.0", address=address, broadcast=f"{front}.255")
        (self.root / "proc" / str(pid) / "net" / "fib_trie").write_text(text)

    def inode(self, namespace: str) -> int:
        return (self.root / "namespaces" / namespace).stat().st_ino

    def cgroup_of(self, pid: int) -> tuple[int, str]:
        return self.cgroups[pid], ""


def packed(address: str) -> bytes:
    parsed = ip_address(address)
    return MAPPED + parsed.packed if parsed.version == 4 else parsed.packed


class Looked:
    """A lookup, and what it has told."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.lookup = NetworkLookup(SCHEMAS, str(node.root / "proc"), node.cgroup_of)
        self.told: list[tuple[str, Any]] = []

    def use(
        self, network: int, pid: int, namespace: str, start: int | None = None, time: int = 0
    ) -> None:
        self.look(
            SCHEMAS["network"],
            time=time,
            network=network,
            netns=self.node.inode(namespace),
            cgroup=5,
            pid=pid,
            start=(pid * 3 if start is None else start) * TICK_NS,
            how=How.AT_HOME,
        )

    def event(self, network: int, namespace: str) -> None:
        self.look(SCHEMAS["tcp_reset"], network=network, netns=self.node.inode(namespace))

    def look(self, schema: Schema, **values: int) -> None:
        self.lookup.look(schema, memoryview(cell(schema.pack(**values))))

    def records(self, name: str, number: int) -> list[Any]:
        wait_for(f"{number} {name} records", lambda: len(self._records(name)) >= number)
        return self._records(name)

    def addresses(self, network: int, number: int) -> list[bytes]:
        return [r.address for r in self.records("network_address", number) if r.network == network]

    def _records(self, name: str) -> list[Any]:
        by_kind = {schema.kind: schema for schema in SCHEMAS.values()}
        for part in self.lookup.take():
            schema = by_kind[part.kind]
            self.told += [(schema.name, record) for record in schema.cells(part.cells)]
        return [record for told, record in self.told if told == name]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path)
    made.process(1, "host", "192.0.2.1")
    return made


@pytest.fixture
def looked(node: Node) -> Iterator[Looked]:
    made = Looked(node)
    yield made
    made.lookup.close()
    made.lookup._thread.join(10)
    assert not made.lookup._thread.is_alive()


def test_addresses(node: Node, looked: Looked) -> None:
    """And then that there are no more."""
    node.process(10, "one", "10.1.0.5", ("fd00::5", "00", "fe80::5", "20", "::1", "10"))
    looked.use(7, 10, "one")
    assert looked.addresses(7, 3) == [packed("10.1.0.5"), packed("fd00::5"), NO_ADDRESS]


def test_a_namespace_with_more_addresses_than_are_kept(node: Node, looked: Looked) -> None:
    """Whoever may make a namespace may give it a million."""
    many = [word for n in range(40) for word in (f"fd00::{n:x}", "00")]
    node.process(10, "one", v6=tuple(many))
    looked.use(7, 10, "one")
    kept = [packed(address) for address in many[: 2 * MAX_ADDRESSES : 2]]
    assert looked.addresses(7, MAX_ADDRESSES + 1) == [*kept, NO_ADDRESS]


def test_a_namespace_that_gets_its_address_later(node: Node, looked: Looked) -> None:
    node.process(10, "one")
    looked.use(7, 10, "one")
    assert looked.addresses(7, 1) == [NO_ADDRESS]
    node.give(10, "10.1.0.5")
    assert looked.addresses(7, 2) == [NO_ADDRESS, packed("10.1.0.5")]


@pytest.mark.parametrize("how", ["gone", "another process", "another namespace"])
def test_a_process_that_is_not_there_any_more(node: Node, looked: Looked, how: str) -> None:
    node.process(20, "two", "10.1.0.6")
    node.process(10, "one", "10.1.0.5")
    looked.use(7, 99 if how == "gone" else 10, "one", 4711 if how == "another process" else None)
    if how == "another namespace":
        looked.use(8, 10, "two")
        assert looked.addresses(8, 3) == [NO_ADDRESS]
    else:
        assert looked.addresses(7, 1) == [NO_ADDRESS]


def test_nothing_is_said_twice(node: Node, looked: Looked) -> None:
    node.process(10, "one", "10.1.0.5")
    node.process(20, "two", "10.1.0.6")
    for _ in range(3):
        looked.use(7, 10, "one")
    looked.use(8, 20, "two")
    assert looked.addresses(8, 6) == [packed("10.1.0.6"), NO_ADDRESS]
    assert looked.addresses(7, 6) == [packed("10.1.0.5"), *[NO_ADDRESS] * 3]


def test_each_use_is_answered(node: Node, looked: Looked) -> None:
    """Whoever sets up a pod's network is gone before it is looked at; the pod's own process, which
    came after it, still is to be."""
    node.process(10, "one", "10.1.0.5")
    looked.use(7, 99, "one", time=1000)
    looked.use(7, 10, "one", time=2000)
    records = looked.records("network_address", 3)
    told = [(record.address, record.because) for record in records]
    assert told == [(NO_ADDRESS, 1000), (packed("10.1.0.5"), 0), (NO_ADDRESS, 2000)]


def test_of_the_hosts_nothing_is_looked_for(node: Node, looked: Looked) -> None:
    values = {"network": 9, "netns": node.inode("host"), "how": How.OF_HOST}
    looked.look(SCHEMAS["network"], **values)
    looked.event(9, "host")
    node.process(10, "one", "10.1.0.5")
    looked.use(7, 10, "one")
    looked.addresses(7, 2)
    assert {record.network for _, record in looked.told} == {7}


def test_a_namespace_of_which_only_an_event_speaks(node: Node, looked: Looked) -> None:
    node.process(10, "one", "10.1.0.5", cgroup=1001)
    looked.event(7, "one")
    looked.event(7, "one")
    (found,) = looked.records("network", 1)
    assert (found.network, found.netns) == (7, node.inode("one"))
    assert (found.cgroup, found.pid, found.how) == (1001, 10, How.CONCLUDED)
    assert looked.addresses(7, 2) == [packed("10.1.0.5"), NO_ADDRESS]
    assert looked.records("network_address", 2)[-1].because == found.time


def test_one_in_which_nobody_is(node: Node, looked: Looked) -> None:
    node.process(10, "one")
    node.enter(10, "two")
    looked.event(7, "one")
    (found,) = looked.records("network", 1)
    assert (found.network, found.cgroup, found.how) == (7, 0, How.CONCLUDED)


def test_the_hosts_of_which_only_an_event_speaks(node: Node, looked: Looked) -> None:
    """A pod on the host's network does not get it."""
    node.process(10, "host", cgroup=1001)
    (node.root / "proc" / "1" / "ns" / "net").unlink()
    node.process(2, "host", cgroup=1002)
    looked.event(7, "host")
    (found,) = looked.records("network", 1)
    assert (found.network, found.cgroup) == (7, 0)


def test_what_ran_before(node: Node, looked: Looked) -> None:
    node.process(10, "one", "10.1.0.5", cgroup=1001)
    node.process(11, "one", cgroup=1001)
    node.process(12, "host", cgroup=1002)
    looked.lookup.list_all()
    number = made_up(node.inode("one"))
    assert looked.addresses(number, 2) == [packed("10.1.0.5"), NO_ADDRESS]
    (found,) = looked.records("network", 1)
    assert (found.network, found.cgroup, found.how) == (number, 1001, How.CONCLUDED)


def test_the_session_never_waits_for_it(node: Node) -> None:
    """Though a file does not answer."""
    stuck, asked = threading.Event(), threading.Event()

    def cgroup_of(pid: int) -> tuple[int, str]:
        asked.set()
        stuck.wait(60)
        return 1001, ""

    node.process(10, "one", "10.1.0.5")
    lookup = NetworkLookup(SCHEMAS, str(node.root / "proc"), cgroup_of)
    record = SCHEMAS["tcp_reset"].pack(network=7, netns=node.inode("one"))
    lookup.look(SCHEMAS["tcp_reset"], memoryview(cell(record)))
    assert asked.wait(60)
    assert lookup.take() == []
    lookup.close()
    stuck.set()


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
