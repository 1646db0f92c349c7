# SPDX-License-Identifier: Apache-2.0
"""What clients of a program do to it, from the host: they check it, leave, or return too late."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

from tests.software.scene import Scene, Step

SECONDS = 60.0
REFUSED = 111


def refused(port: int, times: int) -> Step:
    """Nothing listens there."""

    def step(scene: Scene) -> None:
        for _ in range(times):
            with socket.socket() as client:
                assert client.connect_ex((scene.pod.ip, port)) == REFUSED

    return step


def checks(port: int, times: int) -> Step:
    """As haproxy does: connects and resets, without having said a word."""

    def step(scene: Scene) -> None:
        for _ in range(times):
            with _connected(scene, port) as client:
                _reset_on_close(client)

    return step


def resets(port: int, words: str) -> Step:
    """In the middle of a conversation: the answer has come."""

    def step(scene: Scene) -> None:
        with _connected(scene, port) as client:
            client.sendall(words.encode())
            assert client.recv(1000)
            _reset_on_close(client)

    return step


def hangs_up(port: int, words: str) -> Step:
    """The program does, whatever it is told. It has heard that by then: the words come with the
    packet that makes the connection."""

    def step(scene: Scene) -> None:
        with socket.socket() as client, suppress(ConnectionResetError):
            client.settimeout(SECONDS)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
            client.connect((scene.pod.ip, port))
            client.sendall(words.encode())
            while client.recv(1000):
                """What it has to say before."""

    return step


def leaves(port: int, words: str, size: int) -> Step:
    """Asks for what is larger than all buffers between them, and closes in the middle of it."""

    def step(scene: Scene) -> None:
        with _connected(scene, port) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(words.encode())
            left = size
            while left > 0:
                left -= len(client.recv(min(left, 1 << 16)))

    return step


def comes_back(port: int) -> Step:
    """Asks once more on a connection that the server has closed when it had been idle."""

    def step(scene: Scene) -> None:
        request = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"
        with _connected(scene, port) as client:
            client.sendall(request)
            assert client.recv(1 << 16)
            while client.recv(1 << 16):
                """The rest of the answer, and then the end."""
            client.sendall(request)
            with suppress(ConnectionResetError):
                assert not client.recv(1)

    return step


def _connected(scene: Scene, port: int) -> socket.socket:
    return socket.create_connection((scene.pod.ip, port), SECONDS)


def _reset_on_close(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
