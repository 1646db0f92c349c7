# SPDX-License-Identifier: Apache-2.0
"""A small HTTP server for a few pages: GET, one request a connection, a bounded number of
connections, each with a deadline. Nobody can make it wait for him."""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

from tracer.agent.publishers import Page
from tracer.kernel.limits import reason
from tracer.model.address import with_port
from tracer.model.errors import KtraceError, UsageError

MAX_CONNECTIONS = 16
MAX_REQUEST = 4096
DEADLINE_SECONDS = 5.0
END_SECONDS = 2.0
TEXT = "text/plain; charset=utf-8"
_REMEDY = "give another address with --listen, or none: --listen ''"


class Listener:
    """Answers on `address`, such as `127.0.0.1:9464`, with `pages` by path. A page may raise
    `Unwell`: its bytes are then the answer of status 503."""

    def __init__(self, address: str, pages: Mapping[str, Page]) -> None:
        self._pages = pages
        self._open: dict[socket.socket, _Connection] = {}  # the oldest first
        self._stopping = False
        self._selector = selectors.DefaultSelector()
        try:
            self._socket = _bound(address)
        except OSError as error:
            raise KtraceError(f"cannot listen on {address}: {reason(error)}", _REMEDY) from error
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        for readable in (self._socket, self._wake):
            self._selector.register(readable, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    @property
    def address(self) -> str:
        """With the real port, also if 0 was asked for."""
        host, port = self._socket.getsockname()[:2]
        return with_port(host, port)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        if self._thread.is_alive():
            self._thread.join(END_SECONDS)
        self._socket.close()
        os.close(self._wake)

    def _run(self) -> None:
        while not self._stopping:
            for key, _ in self._selector.select(self._patience()):
                if key.fileobj is self._socket:
                    self._accept()
                elif key.data:
                    self._go_on(key.data)
            now = time.monotonic()
            for connection in [c for c in self._open.values() if c.deadline <= now]:
                self._close(connection)
        for connection in list(self._open.values()):
            self._close(connection)
        self._selector.close()

    def _patience(self) -> float | None:
        """The seconds until the oldest connection's deadline; None: for as long as it takes."""
        if not self._open:
            return None
        return max(0.0, next(iter(self._open.values())).deadline - time.monotonic())

    def _accept(self) -> None:
        try:
            peer, _ = self._socket.accept()
        except OSError:  # it has gone, or there is no descriptor left
            return
        if len(self._open) >= MAX_CONNECTIONS:
            self._close(next(iter(self._open.values())))
        peer.setblocking(False)
        connection = _Connection(peer, time.monotonic() + DEADLINE_SECONDS)
        self._open[peer] = connection
        self._selector.register(peer, selectors.EVENT_READ, connection)

    def _go_on(self, connection: _Connection) -> None:
        if connection.peer not in self._open:  # closed in this round
            return
        try:
            if connection.answer is None:
                data = connection.peer.recv(MAX_REQUEST)
                connection.request += data
                if not data:
                    self._close(connection)
                    return
                if not _is_whole(connection.request):
                    return
                connection.answer = memoryview(self._answer(connection.request))
                self._selector.modify(connection.peer, selectors.EVENT_WRITE, connection)
            sent = connection.peer.send(connection.answer)
            connection.answer = connection.answer[sent:]
            if not connection.answer:
                self._close(connection)
        except BlockingIOError:
            return
        except OSError:
            self._close(connection)

    def _answer(self, request: bytes) -> bytes:
        method, path, *_ = *request.split(b"\n", 1)[0].split(), b"", b""
        page = self._pages.get(path.split(b"?", 1)[0].decode("ascii", "replace"))
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", TEXT, b"only GET\n")
        if page is None:
            return _response("404 Not Found", TEXT, "\n".join(self._pages).encode() + b"\n")
        try:
            kind, body = page()
        except Unwell as unwell:
            return _response("503 Service Unavailable", unwell.kind, unwell.body)
        except Exception as error:  # a page's mistake must not end the listener
            return _response(
                "500 Internal Server Error", TEXT, f"{type(error).__name__}\n".encode()
            )
        return _response("200 OK", kind, body, with_body=method == b"GET")

    def _close(self, connection: _Connection) -> None:
        del self._open[connection.peer]
        self._selector.unregister(connection.peer)
        with suppress(OSError):
            connection.peer.shutdown(socket.SHUT_WR)
        connection.peer.close()


class Unwell(Exception):
    """The page's answer is bad news."""

    def __init__(self, kind: str, body: bytes) -> None:
        super().__init__()
        self.kind, self.body = kind, body


class _Connection:
    def __init__(self, peer: socket.socket, deadline: float) -> None:
        self.peer = peer
        self.deadline = deadline
        self.request = b""
        self.answer: memoryview | None = None


def _is_whole(request: bytes) -> bool:
    """Whether the headers have ended, or are longer than anybody needs. They are not looked at."""
    ended = b"\r\n\r\n" in request or b"\n\n" in request
    return ended or len(request) >= MAX_REQUEST


def _response(status: str, kind: str, body: bytes, *, with_body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (body if with_body else b"")


def host_and_port(address: str) -> tuple[str, int]:
    """Raises UsageError."""
    host, colon, port = address.rpartition(":")
    if not (colon and port.isascii() and port.isdecimal() and int(port) <= 65535):
        raise UsageError(f"cannot listen on {address}: it is no ADDRESS:PORT", _REMEDY)
    return host.strip("[]"), int(port)


def _bound(address: str) -> socket.socket:
    host, port = host_and_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(MAX_CONNECTIONS)
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound
