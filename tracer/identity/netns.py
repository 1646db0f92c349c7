# SPDX-License-Identifier: Apache-2.0
"""The pods that network namespaces and addresses belong to.

Events in interrupt context have no process, and not every socket has a cgroup that identifies a
container. Then the network namespace decides, and the address identifies the peer. The kernel side
reports which cgroups have processes in which namespace (probes/network.bpf.c); user space adds the
rest (tracer.identity.network_lookup). Both write records, so a recording gives the same answers on
another machine. `PodNetworks` keeps the reports so far.

A namespace has a number that is never reused. It belongs to the container whose first process lives
in it. A visitor, such as a pod that may enter the namespace of another, owns it only if no other
container lives there. Containers of one pod count as one. A claim ends with its cgroup, but the
owner stays known after that, because events there may be late. An address belongs to a namespace;
an address of two living pods has no owner.

An owner that the kernel side did not report for this very namespace is inferred, and carries a
doubt (`Holder.doubt`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from tracer.identity.resolver import Resolver
from tracer.kernel.bpf_object import shipped
from tracer.model.address import MAPPED
from tracer.model.bounded import Table, keep, size_of
from tracer.model.event import Place

# Bounds in bytes: of namespaces, addresses and inodes.
MAX_KNOWN = 4 << 20
MAX_ADDRESSES = MAX_INODES = 2 << 20
MAX_UNASKED = 1 << 20
MAX_USES = 64  # of one namespace
MAX_NETWORKS = 8  # that have the same address
# How long the setup of a namespace may take: only programs of the node execute in it yet, none of
# the pod.
MAKING_NS = 5_000_000_000
MAX_MAKING = 1024

NO_ADDRESS = bytes(16)


class How(IntEnum):
    """`enum kt_network_how`, by names. Of two uses by one cgroup, the smaller one counts."""

    OF_HOST, AT_HOME, VISITING, CONCLUDED = range(4)

    @property
    def number(self) -> int:
        """In a record."""
        return shipped("network").numbers("kt_network_how")[f"KT_{self.name}"]


def hows() -> dict[int, How]:
    """By the numbers in records."""
    return shipped("network").words("kt_network_how", {f"KT_{how.name}": how for how in How})


_CONCLUDED_FROM = "whose network namespace it is was concluded from "
VISITOR = _CONCLUDED_FROM + "a process that has another one than its container's first"
FOUND_LATER = _CONCLUDED_FROM + "a process that was found in it later"
SEVERAL = "several containers live in the network namespace; it is taken for that of the first"
NUMBER = _CONCLUDED_FROM + "its inode number, which the kernel uses again"
FORMER = "the pod that had the other side's address has ended, and another may have it"
_DOUBTS = {How.VISITING: VISITOR, How.CONCLUDED: FOUND_LATER}

MADE_UP = 1 << 63


@dataclass(frozen=True, slots=True)
class Holder:
    """The owner of a namespace or an address. `living` says whether that container still exists,
    `doubt` what the owner was inferred from."""

    place: Place | None = None
    living: bool = False
    doubt: str | None = None


NOBODY = Holder()


@dataclass(frozen=True, slots=True)
class Sides:
    """The places of both ends of an event at a socket. `settled` says that no more reports about
    them are expected soon."""

    place: Place | None
    peer: Place | None
    doubts: tuple[str, ...]
    settled: bool


@dataclass(slots=True)
class _Network:
    """`uses` are by cgroup, in the order of their reports."""

    netns: int
    uses: dict[int, How] = field(default_factory=dict)


class PodNetworks:
    """The network reports in one stream of records."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._how = hows()
        self._networks: Table[int, _Network] = Table(MAX_KNOWN, _size_of_network)
        self._newest: Table[int, int] = Table(MAX_INODES, size_of)  # network by inode
        self._by_address: Table[bytes, dict[int, None]] = Table(MAX_ADDRESSES, size_of)  # networks
        # networks that user space is looking up, with the time of the use that caused it, or 0 if
        # an event did
        self._unasked: Table[int, int] = Table(MAX_UNASKED, size_of)
        self._making: dict[int, int] = {}  # since when, by network
        # format 1.0: pod's cgroup by inode or address
        self._told: Table[int | bytes, int] = Table(MAX_ADDRESSES, size_of)

    def add_use(self, record: Any) -> None:
        """A `struct network_event`."""
        how = self._how[record.how]
        known = self._networks.touch(record.network)
        if known is None:
            known = _Network(record.netns)
            self._networks.keep(record.network, known, self._spares)
        if how is How.CONCLUDED:
            # found by inode: if another namespace has that by now, the process was there
            newest = self._newest.get(record.netns, record.network)
            if newest != record.network or not record.cgroup:
                self._answered(record.network, 0)
                return
        else:
            self._newest.keep(record.netns, record.network, self._spares_inode)
            self._networks.drop(made_up(record.netns))
            if how is How.OF_HOST:
                self._unasked.drop(record.network)
                return
        self._unasked.keep(record.network, record.time)
        known.uses[record.cgroup] = min(how, known.uses.get(record.cgroup, how))
        if self._holder(known).place is not None:
            self._making.pop(record.network, None)
        elif how is not How.CONCLUDED and len(known.uses) == 1:
            keep(self._making, record.network, record.time, MAX_MAKING)
        if len(known.uses) > MAX_USES:
            self._forget_a_use(known)
        self._networks.weigh(record.network, self._spares)

    def add_address(self, record: Any) -> None:
        """A `struct network_address_event`."""
        if record.address == NO_ADDRESS:
            self._answered(record.network, record.because)
            return
        having = self._by_address.touch(record.address) or {}
        keep(having, record.network, None, MAX_NETWORKS)
        self._by_address.keep(record.address, having, self._spares_address)

    def add_told(self, record: Any) -> None:
        """A `struct pod_network_event` of recordings of format 1.0: the pod of a namespace or an
        address, found by user space. Without a cgroup it withdraws the earlier report."""
        if record.netns:
            self._told.keep(record.netns, record.cgroup)
        if record.has_address:
            self._told.keep(record.address, record.cgroup)

    def sides(self, record: Any, address: bytes | None, *own: Place | None) -> Sides:
        """Both ends of an event's record. `address` is the peer's. `own` are the places of its
        cgroup and process, as far as known, the best witness first: on a node with version 1 of
        cgroups, a socket's cgroup may be no container's."""
        network = getattr(record, "network", 0)  # format 1.0 has none
        self._forget_made(record.time)
        found = [place for place in own if place is not None]
        place = next((p for p in found if _is_container(p)), None)
        local, peer, settled = NOBODY, NOBODY, True
        if place is None:
            local, settled = self.of_network(network, record.netns)
            if network and not settled:
                self._unasked.keep(network, 0)
            settled = settled and network not in self._making
            if found and not (network or local.living or record.netns in self._told):
                local = NOBODY  # the inode was reused: the target is in no container
            place = local.place or (found[0] if found else None)
        if address is not None:
            peer, known = self.of_peer(address, network, record.netns)
            settled = settled and known
        doubts = {holder.doubt: None for holder in (local, peer) if holder.doubt}
        return Sides(place, peer.place, tuple(doubts), settled or not network)

    def of_network(self, network: int, netns: int) -> tuple[Holder, bool]:
        """The owner of a namespace, and whether there was any report of it. Without `network` the
        inode decides."""
        if network:
            known = self._networks.get(network)
            if known is not None:
                return self._holder(known), True
            # reported by inode at the start; valid as long as its owner lives
            found = self._networks.get(made_up(netns))
            holder = self._holder(found) if found else NOBODY
            return (holder, True) if holder.living else (NOBODY, False)
        if netns in self._told:
            return Holder(self._place(self._told[netns]), doubt=NUMBER), True
        known = self._networks.get(self._newest.get(netns, made_up(netns)))
        holder = self._holder(known) if known else NOBODY
        if holder.place is None or (holder.living and holder.doubt is None):
            return holder, True  # as long as its owner lives, the inode is not reused
        return replace(holder, doubt=holder.doubt or NUMBER), True

    def of_peer(self, address: bytes, network: int, netns: int) -> tuple[Holder, bool]:
        """The owner of an address, seen from a namespace, and whether that is final. While any
        lookup is due, the address may be a new pod's, so a former owner is not named."""
        if is_loopback(address):
            return self.of_network(network, netns)
        holder = self.of_address(address)
        if (self._unasked or self._making) and not holder.living:
            return NOBODY, False
        return holder, True

    def of_address(self, address: bytes) -> Holder:
        """`address` is a `kt_address`: 16 bytes, IPv4 mapped into IPv6."""
        if address in self._told:
            return Holder(self._place(self._told[address]), doubt=NUMBER)
        networks = [self._networks.get(number) for number in self._by_address.get(address, ())]
        holders = [self._holder(known) for known in networks if known is not None]
        holders = [holder for holder in holders if holder.place is not None]
        living = {owner_of(h.place): h for h in holders if h.place is not None and h.living}
        if not living and holders:
            return replace(holders[-1], doubt=FORMER)
        return next(iter(living.values())) if len(living) == 1 else NOBODY

    def _holder(self, known: _Network) -> Holder:
        uses = [(how, self._place(cgroup)) for cgroup, how in known.uses.items()]
        theirs = [(how, place) for how, place in uses if place is not None and _is_container(place)]
        if not theirs:
            return NOBODY
        best = min(how for how, _ in theirs)
        places = [place for how, place in theirs if how == best]
        living = [place for place in places if place.ended is None]
        first = living[0] if living else max(places, key=lambda place: place.ended or 0)
        doubt = _DOUBTS.get(best)
        if len({owner_of(place) for place in places}) > 1:
            doubt = SEVERAL
        return Holder(self._resolver.pod_place(first), bool(living), doubt)

    def _answered(self, network: int, time: int) -> None:
        """The lookup that a use of that time, or an event, caused has ended. Uses are answered in
        their order; an early one may end without addresses, before the pod's network was set up."""
        if self._unasked.get(network, time) <= time:
            self._unasked.drop(network)

    def _forget_made(self, now: int) -> None:
        """Forgets namespaces that are the node's own after all. The oldest come first."""
        while self._making:
            network = next(iter(self._making))
            if now - self._making[network] < MAKING_NS:
                return
            del self._making[network]

    def _forget_a_use(self, known: _Network) -> None:
        """Forgets the oldest ended use, or else the oldest."""
        places = {cgroup: self._place(cgroup) for cgroup in known.uses}
        ended = (c for c, place in places.items() if place is not None and place.ended is not None)
        del known.uses[next(ended, next(iter(known.uses)))]

    def _spares(self, _: int, known: _Network) -> bool:
        """Whether an existing cgroup uses it."""
        places = map(self._place, known.uses)
        return any(place is not None and place.ended is None for place in places)

    def _spares_inode(self, _: int, network: int) -> bool:
        known = self._networks.get(network)
        return known is not None and self._spares(network, known)

    def _spares_address(self, _: bytes, having: dict[int, None]) -> bool:
        return any(self._spares_inode(0, network) for network in having)

    def _place(self, cgroup: int) -> Place | None:
        return self._resolver.place(cgroup) if cgroup else None

    @property
    def decoders(self) -> dict[str, Callable[[Any], None]]:
        """The decoders by record name."""
        return {
            "network": self.add_use,
            "network_address": self.add_address,
            "pod_network": self.add_told,
        }


# `besides` and `state` of a probe that shows addresses, see tracer.probes.Probe.
OBJECT = "network"
STATE: dict[str, tuple[str, ...]] = {
    "network": ("network", "cgroup", "how"),
    "network_address": ("network", "address"),
}


def _size_of_network(known: _Network) -> int:
    return 100 + size_of(known.uses)


def made_up(netns: int) -> int:
    """A number for a namespace of which only the inode is known; no kernel gives such numbers."""
    return MADE_UP | netns


def owner_of(place: Place) -> str | None:
    return place.identity.pod_uid or place.identity.container_id


def is_loopback(address: bytes) -> bool:
    if address[:12] == MAPPED:
        return address[12] == 127
    return address == bytes(15) + b"\1"


def _is_container(place: Place) -> bool:
    return owner_of(place) is not None
