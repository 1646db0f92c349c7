# SPDX-License-Identifier: Apache-2.0
"""Packets that are really dropped, in a network namespace of the test's own: exactly so many are
told, each with its reason, and what is no loss is not told.

Everything is done with each way to attach that this kernel has, not only with the one that ktrace
would choose.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kernel.checks import TIMES, check_circumstances
from tests.support.ktrace import BACKEND, HAS_KPROBES, IN_GUEST, Ktrace
from tests.support.losses import BESIDE, FAR, OWN, OWN6, PORT, Losses
from tests.support.wait import wait_for
from tracer.kernel.btf import kernel_enum
from tracer.probes.drops import PROBE

Event = dict[str, Any]

STORM = 5_000 if IN_GUEST else 200_000
KEYS = ["kind", "time", "boot_ns", "node", "pod", "container", "reason", "reason_inferred"]
KEYS += ["basis", "meaning", "function", "count", "protocol", "source", "destination", "netns"]
KEYS += ["device", "direction", "size", "mtu", "buffer", "tracked", "conntrack", "rule", "answered"]
REASONS = kernel_enum("skb_drop_reason")


def knows(reason: str) -> bool:
    return f"SKB_DROP_REASON_{reason.upper()}" in REASONS


# One attach point of each kind that this kernel has, by its place in the probe's table. Where the
# kernel gives reasons, a drop without one is not looked for by its location.
def points(can: Callable[[int], bool]) -> list[Any]:
    found, seen = [], set()
    for number, point in enumerate(PROBE.attach_points):
        by_reason = "with reason" in point.name
        if by_reason == (BACKEND == "bcc" or not REASONS) or not point.programs:
            continue
        if "and socket" in point.name and not knows("ip_local_source"):
            continue
        if "probe/ip" in point.name and not HAS_KPROBES:
            continue
        if "fentry" in point.name and (BACKEND == "bcc" or not HAS_KPROBES):
            continue
        if "icmp_send" in point.name and number:
            continue
        kind = point.name.partition(",")[0], "martian" in point.name
        if kind not in seen:
            seen.add(kind)
            if can(number):
                found.append(pytest.param(number, id=point.name))
    lacks = pytest.mark.skip(reason="cannot: no way to attach here tells it")
    return found or [pytest.param(-1, marks=lacks, id="none")]


def tells_source(point: int) -> bool:
    name = PROBE.attach_points[point].name
    return "martian" in name or "and socket" in name


def tells_filter(point: int) -> bool:
    return tells_source(point) or "with reason" in PROBE.attach_points[point].name


def tells_place(point: int) -> bool:
    """BCC's programs have no table of places."""
    return BACKEND != "bcc" or "icmp_send" in PROBE.attach_points[point].name


def of_those_that(can: Callable[[int], bool]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("point", points(can))


@pytest.fixture
def losses() -> Iterator[Losses]:
    with Losses() as running:
        yield running


def drops(point: int | None, *options: str) -> Ktrace:
    """A ktrace that has only this attach point."""
    only = None if point is None else ("drops", point)
    return Ktrace("drops", "--all", *options, only=only)


def mine(events: list[Event], losses: Losses) -> list[Event]:
    return [e for e in events if e["kind"] == "packet_drop" and e["netns"] == losses.netns]


def told(ktrace: Ktrace, losses: Losses, count: int) -> list[Event]:
    """The events, when they account for so many drops; then ktrace ends, and there are no more."""

    def dropped() -> int:
        return sum(event["count"] for event in mine(ktrace.events, losses))

    wait_for(f"{count} drops to be told", lambda: dropped() >= count)
    events = mine(ktrace.stop(), losses)
    assert sum(event["count"] for event in events) == count
    assert ktrace.summary.lost == 0
    return events


def check(event: Event, reason: str, source: str, destination: str, **others: Any) -> None:
    assert list(event) == KEYS
    check_circumstances(event)
    assert event["reason"] == reason
    assert event["meaning"]
    assert event["protocol"] == "udp"
    assert (event["source"]["address"], event["source"]["pod"]) == (source, None)
    assert (event["destination"]["address"], event["destination"]["pod"]) == (destination, None)
    assert event["device"] == "lo"
    if event["basis"] == "reason":
        assert knows(reason) and not event["reason_inferred"]
        assert event["function"]
    else:
        assert event["reason_inferred"]
    for key, value in others.items():
        assert event[key] == value, key


@of_those_that(tells_source)
def test_a_local_source(losses: Losses, point: int) -> None:
    """The first is told at once, the others with their number."""
    with drops(point) as ktrace:
        losses.do("local_source", TIMES)
        events = told(ktrace, losses, TIMES)
    assert [event["count"] for event in events] == [1, TIMES - 1]
    for event in events:
        check(event, "ip_local_source", OWN, OWN, direction="in", size=36, mtu=None, buffer=None)
        assert event["destination"]["port"] == PORT
    assert [event["source"]["port"] for event in events] == [5555, None]


@of_those_that(lambda _: BACKEND != "bcc")
@pytest.mark.parametrize("address", [OWN, OWN6], ids=["ipv4", "ipv6"])
def test_a_full_receive_buffer(losses: Losses, point: int, address: str) -> None:
    """As many as the socket itself has counted."""
    with drops(point) as ktrace:
        port, received = losses.do("full_buffer", address, TIMES)
        assert received
        events = told(ktrace, losses, TIMES)
    for event in events:
        check(event, "socket_rcvbuff", address, address, direction="in", mtu=None)
        assert event["destination"]["port"] == port
        if event["buffer"]:
            assert event["buffer"]["used"] > event["buffer"]["limit"] / 2 > 0


@of_those_that(tells_filter)
def test_a_failed_reverse_path_filter(losses: Losses, point: int) -> None:
    with drops(point) as ktrace:
        losses.do("reverse_path", TIMES)
        for event in told(ktrace, losses, TIMES):
            check(event, "ip_rpfilter", FAR, OWN, direction="in")


@of_those_that(tells_source)
def test_a_loopback_address_from_outside(losses: Losses, point: int) -> None:
    with drops(point) as ktrace:
        losses.do("loopback_source", TIMES)
        for event in told(ktrace, losses, TIMES):
            check(event, "ip_localnet", "127.0.0.9", OWN, direction="in")


@of_those_that(tells_place)
def test_no_route(losses: Losses, point: int) -> None:
    with drops(point) as ktrace:
        losses.do("no_route", TIMES)
        for event in told(ktrace, losses, TIMES):
            check(event, "ip_innoroutes", BESIDE, FAR)


@pytest.mark.skipif(shutil.which("ip") is None, reason="cannot: no ip here")
@of_those_that(tells_place)
def test_too_large(losses: Losses, point: int) -> None:
    with drops(point) as ktrace:
        losses.do("too_large", TIMES)
        for event in told(ktrace, losses, TIMES):
            check(event, "pkt_too_big", BESIDE, FAR, direction="forward", size=1228, mtu=1000)


@of_those_that(tells_place)
def test_what_nobody_misses_is_not_told(losses: Losses, point: int) -> None:
    """Not even those that are answered, nor a socket's unread packets when it is closed."""
    with drops(point) as ktrace:
        losses.do("closed_port", TIMES)
        losses.do("closed_socket", TIMES)
        losses.do("no_route", 1)
        (event,) = told(ktrace, losses, 1)
    assert event["reason"] == "ip_innoroutes"


@pytest.mark.skipif(BACKEND == "bcc" or not REASONS, reason="cannot: the kernel gives no reasons")
def test_every_reason(losses: Losses) -> None:
    with drops(None, "--every-reason") as ktrace:
        losses.do("closed_port", TIMES)

        def found() -> list[Event]:
            return [e for e in mine(ktrace.events, losses) if e["reason"] == "no_socket"]

        wait_for("the drops", lambda: sum(event["count"] for event in found()) >= TIMES)
        ktrace.stop()
        assert sum(event["count"] for event in found()) == TIMES


@of_those_that(tells_source)
def test_a_storm_with_varying_ports(losses: Losses, point: int) -> None:
    """Few records, and every packet is counted. What they do not have in common is not named."""
    with drops(point) as ktrace:
        losses.do("storm", STORM)
        events = told(ktrace, losses, STORM)
        seconds = ktrace.summary.seconds
    assert len(events) <= 20 * math.ceil(seconds)
    (most,) = (e for e in events if e["count"] == max(event["count"] for event in events))
    assert most["source"]["address"] is None
    assert most["destination"] == {"address": OWN, "port": None, "pod": None}


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("what", "reason"), [("reverse_path", "rpfilter"), ("no_route", "innoroutes")]
)
def test_where_nothing_can_be_attached(losses: Losses, what: str, reason: str) -> None:
    """Counters are all there is, and nothing is made up besides."""
    with drops(len(PROBE.attach_points) - 1) as ktrace:
        losses.do(what, TIMES)
        for event in told(ktrace, losses, TIMES):
            assert (event["reason"], event["basis"]) == (f"ip_{reason}", "counter")
            assert (
                event["source"]
                == event["destination"]
                == {**dict.fromkeys(("address", "port", "pod"))}
            )
            assert event["protocol"] is event["device"] is event["direction"] is None


@pytest.mark.any_kernel
def test_without_all_the_host_is_not_shown(losses: Losses) -> None:
    with Ktrace("drops", "--duration", "3s") as ktrace:
        losses.do("no_route", TIMES)
        assert ktrace.wait() == []


@pytest.mark.any_kernel
def test_drops_right_before_the_end_are_told(losses: Losses) -> None:
    with drops(None) as ktrace:
        losses.do("no_route", TIMES)
        events = mine(ktrace.stop(), losses)
    assert sum(event["count"] for event in events) == TIMES
