# SPDX-License-Identifier: Apache-2.0
"""Counters of a network namespace, as text and as this process sees them."""

from __future__ import annotations

import os

import pytest

from tracer.kernel.netstat import Counters, namespaces, netns_of, parse, read_counters

TEXT = b"""TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPBacklogDrop TCPReqQFullDrop
TcpExt: 1 23 46 5 7
IpExt: InNoRoutes InTruncatedPkts
IpExt: 8 9
"""


def test_values_are_found_by_their_names() -> None:
    assert parse(TEXT) == Counters(23, 46, 7, 0, 5)


@pytest.mark.parametrize("text", [b"", b"TcpExt:", b"TcpExt: ListenDrops", b"IpExt: a\nIpExt: 1\n"])
def test_what_is_missing_is_zero(text: bytes) -> None:
    assert parse(text) == Counters()


def test_a_line_that_was_cut_has_no_counters_behind_the_cut() -> None:
    """The same names may be followed by fewer values, and by other names in another file."""
    cut = TEXT.replace(b"1 23 46 5 7", b"1 23 46")
    assert parse(cut) == Counters(23, 46, 0, 0, 0)
    assert parse(TEXT) == Counters(23, 46, 7, 0, 5)
    assert parse(b"TcpExt: ListenDrops\nTcpExt: 9\n") == Counters(0, 9)


def test_difference_never_goes_back() -> None:
    assert Counters(5, 5) - Counters(2, 9) == Counters(3, 0)


def test_own_namespace() -> None:
    netns = netns_of("self")
    assert netns == os.stat("/proc/self/ns/net").st_ino
    assert read_counters(os.getpid(), netns) is not None
    assert netns in namespaces()


def test_a_process_in_another_namespace_is_not_believed() -> None:
    assert read_counters(os.getpid(), 1) is None
    assert read_counters(1 << 30, 1) is None
    assert netns_of(1 << 30) is None
