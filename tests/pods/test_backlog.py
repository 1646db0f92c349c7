# SPDX-License-Identifier: Apache-2.0
"""Pods that turn connections away, in a network of their own and on the host's."""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

import pytest

from tests.support.containerd import Containerd, ContainerHandle
from tests.support.ktrace import Ktrace
from tests.support.wait import wait_for

COUNT = 23
PORT = 7777
SERVER = ["nc", "-l", "-p", str(PORT)]


@pytest.mark.parametrize("host_network", [False, True], ids=["own-network", "host-network"])
def test_a_pod_that_does_not_accept(
    containerd: Containerd, cri: tuple[str, str], host_network: bool
) -> None:
    """The server is stopped: its kernel fills the queue of 1, and turns away the rest."""
    pod = containerd.run_pod("web-0", namespace="shop", host_network=host_network)
    clients: list[socket.socket] = []
    try:
        server = pod.run("app", SERVER)
        wait_for("the server to listen", lambda: listens(server))
        os.kill(server.pid, signal.SIGSTOP)
        address = pod.ip or "127.0.0.1"
        clients += [connect(address) for _ in range(2)]
        with Ktrace("backlog", "-p", "shop/web-0", *cri) as ktrace:
            for _ in range(COUNT):
                connect(address).close()
            wait_for("the drops", lambda: total(ktrace.events) >= COUNT - 1)
            events = ktrace.stop()
    finally:
        for client in clients:
            client.close()
        pod.remove()
    # the server may have taken one client while it was being stopped
    assert total(events) in (COUNT - 1, COUNT)
    for event in events:
        assert (event["pod"]["namespace"], event["pod"]["name"]) == ("shop", "web-0")
        assert event["local"]["pod"] == event["pod"]
        assert (event["queue"], event["local"]["port"]) == ("accept", PORT)
        assert (event["depth"], event["limit"]) == (2, 1)
        assert event["process"]["pid"] == server.pid
        assert event["container"]["name"] == "app"


def total(events: list[dict[str, Any]]) -> int:
    return sum(event["count"] for event in events)


def listens(server: ContainerHandle) -> bool:
    with open(f"/proc/{server.pid}/net/tcp6") as six, open(f"/proc/{server.pid}/net/tcp") as four:
        return any(f":{PORT:04X} " in line and " 0A " in line for line in [*six, *four])


def connect(address: str) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex((address, PORT))
    return client
