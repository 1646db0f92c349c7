# SPDX-License-Identifier: Apache-2.0
"""The listening sockets of this process's own network namespace, as sock_diag tells them."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct

import pytest

from tests.support.wait import wait_for
from tracer.kernel.netstat import netns_of
from tracer.kernel.sockdiag import listeners, split


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_a_listener_is_told_with_its_queue(family: int, address: str) -> None:
    netns = netns_of("self")
    assert netns is not None
    with socket.socket(family) as server:
        server.bind((address, 0))
        server.listen(23)
        port = server.getsockname()[1]
        with socket.create_connection((address, port)):
            answer = listeners(os.getpid(), netns)
        assert answer is not None
        (found,) = [one for one in answer.sockets if one.port == port]
        assert found.address == ipaddress.ip_address(address)
        assert found.inode == os.fstat(server.fileno()).st_ino
        assert (found.queued, found.limit, found.drops) == (1, 23, 0)
        assert not found.full
        assert answer.max_syn_backlog and answer.syncookies is not None


def test_a_namespace_that_is_gone_has_no_answer() -> None:
    assert listeners(1 << 30, 1) is None
    assert listeners(os.getpid(), 1) is None


def test_no_thread_stays_and_nobody_moves() -> None:
    before, threads = netns_of("self"), len(os.listdir("/proc/self/task"))
    assert before is not None
    listeners(os.getpid(), before)
    assert netns_of("self") == before
    wait_for("its end", lambda: len(os.listdir("/proc/self/task")) <= threads)


def test_split_survives_damage() -> None:
    whole = struct.pack("=IHHII", 20, 20, 0, 0, 0) + b"abcd"
    assert list(split(whole + whole)) == [(20, b"abcd")] * 2
    assert list(split(whole[:10])) == []
    assert list(split(bytes(64))) == []
