# SPDX-License-Identifier: Apache-2.0
"""The agent's pages over HTTP, and peers that are slow, silent, rude or many."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.support.wait import wait_for
from tracer.agent import listener as module
from tracer.agent.listener import MAX_CONNECTIONS, MAX_REQUEST, Listener, Unwell
from tracer.model.errors import KtraceError

LONG = b"x" * (8 << 20)


def _unwell() -> tuple[str, bytes]:
    raise Unwell("text/plain", b"bad news\n")


def _broken() -> tuple[str, bytes]:
    raise ValueError("secret")


PAGES = {
    "/healthz": lambda: ("text/plain", b"fine\n"),
    "/long": lambda: ("text/plain", LONG),
    "/unwell": _unwell,
    "/broken": _broken,
}


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener("127.0.0.1:0", PAGES)
    made.start()
    yield made
    made.stop()


def peer(listener: Listener) -> socket.socket:
    host, port = listener.address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=60)


def answer(listener: Listener, request: bytes) -> bytes:
    with peer(listener) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(1 << 20), b""))


def test_pages(listener: Listener) -> None:
    with urllib.request.urlopen(f"http://{listener.address}/healthz?full=1") as got:
        assert (got.status, got.read()) == (200, b"fine\n")
    with urllib.request.urlopen(f"http://{listener.address}/long") as got:
        assert got.read() == LONG


@pytest.mark.parametrize(("path", "status"), [("/unwell", 503), ("/broken", 500), ("/x", 404)])
def test_bad_news(listener: Listener, path: str, status: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"http://{listener.address}{path}")
    assert raised.value.code == status
    assert b"secret" not in raised.value.read()


def test_other_methods(listener: Listener) -> None:
    assert answer(listener, b"POST /healthz HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 405 ")
    head = answer(listener, b"HEAD /healthz HTTP/1.1\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("request_", [b"\r\n\r\n", b"\0\xff\n\n", b"GET\n\n", b"x" * MAX_REQUEST])
def test_nonsense(listener: Listener, request_: bytes) -> None:
    assert answer(listener, request_).startswith(b"HTTP/1.1 4")
    test_pages(listener)


def test_silent_peers_keep_nobody_out(listener: Listener) -> None:
    silent = [peer(listener) for _ in range(3 * MAX_CONNECTIONS)]
    test_pages(listener)
    assert len(listener._open) <= MAX_CONNECTIONS
    for one in silent:
        one.close()


def test_a_peer_that_never_ends_is_left(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEADLINE_SECONDS", 0.1)
    with peer(listener) as slow:
        slow.sendall(b"GET /long HTTP/1.1\r\n")
        assert slow.recv(1) == b"", "the listener closed it"
    test_pages(listener)


@pytest.mark.parametrize("address", ["", "9464", "127.0.0.1:x", "127.0.0.1:70000", "192.0.2.1:0"])
def test_addresses_that_are_none_here(address: str) -> None:
    with pytest.raises(KtraceError, match="cannot listen on"):
        Listener(address, {})


def test_an_address_in_use(listener: Listener) -> None:
    with pytest.raises(KtraceError, match="in use"):
        Listener(listener.address, {})


def test_nothing_wakes_it_while_nobody_asks(listener: Listener) -> None:
    """It waits without end while no connection is open, and stops at once all the same."""
    assert listener._patience() is None
    with peer(listener):
        wait_for("the connection", lambda: listener._patience() is not None)
        assert 0 <= (listener._patience() or 0) <= module.DEADLINE_SECONDS
