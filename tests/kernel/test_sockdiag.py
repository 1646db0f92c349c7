# SPDX-License-Identifier: Apache-2.0
"""Sockets of another network namespace are asked about in it, and nobody of us stays there."""

from __future__ import annotations

import os

import pytest

from tests.support.queues import LOOPBACK, Queues
from tracer.kernel.netstat import netns_of
from tracer.kernel.sockdiag import listeners

PORT = 8080


@pytest.mark.any_kernel
@pytest.mark.parametrize("address", LOOPBACK.values(), ids=LOOPBACK.keys())
def test_another_namespace(address: str) -> None:
    before = netns_of("thread-self")
    with Queues() as queues:
        queues.do("listen", PORT, 23, address)
        assert queues.do("connect", PORT, 2, address) == 2
        answer = listeners(queues.pid, queues.netns)
    assert answer is not None
    (found,) = answer.sockets
    assert (str(found.address), found.port) == (address, PORT)
    assert (found.queued, found.limit, found.full) == (2, 23, False)
    assert netns_of("thread-self") == netns_of(os.getpid()) == before
