# SPDX-License-Identifier: Apache-2.0
"""HTTP questions to a daemon on this machine over its unix socket, for Docker and podman."""

from __future__ import annotations

import http.client
import json
import socket
import time
from typing import Any, TypeVar

from tracer.kernel import limits
from tracer.model.names import NameSourceError

MAX_ANSWER = 16 * 1024 * 1024
_CHUNK = 64 * 1024

_Kind = TypeVar("_Kind")


def ask(socket_path: str, path: str, timeout: float, who: str) -> Any:
    """The JSON that `who` answers to a GET, within `timeout` seconds in all. Raises
    `NameSourceError` if there is none."""
    try:
        return json.loads(_get(socket_path, path, timeout, who))
    except OSError as error:
        reason = limits.reason(error) if error.strerror else "it did not answer in time"
        raise NameSourceError(f"no {who} at {socket_path}: {reason}") from error
    except (http.client.HTTPException, TypeError, ValueError, RecursionError) as error:
        raise not_spoken(socket_path, who) from error


def not_spoken(socket_path: str, who: str) -> NameSourceError:
    return NameSourceError(f"{socket_path} does not speak {who}'s API")


def checked(value: object, kind: type[_Kind]) -> _Kind:
    """The value itself. Raises TypeError if its type is not the one that the API promises."""
    if not isinstance(value, kind):
        raise TypeError
    return value


def _get(socket_path: str, path: str, timeout: float, who: str) -> bytes:
    deadline = time.monotonic() + timeout
    connection = _UnixConnection(socket_path, timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise NameSourceError(f"{who} at {socket_path} answered {response.status}")
        body = bytearray()
        # The socket's timeout restarts with every byte, so a deadline is needed as well.
        while chunk := response.read1(_CHUNK):
            body += chunk
            if len(body) > MAX_ANSWER:
                raise NameSourceError(f"{who}'s answer is larger than {MAX_ANSWER >> 20} MiB")
            if time.monotonic() > deadline:
                raise TimeoutError
        return bytes(body)
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, socket_path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._socket_path = socket_path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._socket_path)
