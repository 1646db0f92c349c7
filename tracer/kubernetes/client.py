# SPDX-License-Identifier: Apache-2.0
"""Questions to Kubernetes' API server. Only the standard library: it has all that is needed, and an
official client would take more room than all of ktrace.

Nothing that the server says is believed: answers, lines and pauses have bounds, and every question
a deadline.
"""

from __future__ import annotations

import http.client
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import orjson

from tracer.kernel import limits
from tracer.kubernetes.access import Access

MAX_ANSWER = 32 << 20
# A line of a watch is one object: etcd takes 1.5 MiB, and JSON a little more.
MAX_LINE = 8 << 20
SECONDS = 10.0
MAX_WORDS = 300
_CHUNK = 64 << 10
# A peer that is gone is found out after half a minute.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


class ApiError(Exception):
    """`status` is None if the server did not answer at all. `after` is the pause in seconds that it
    asks for. The message is one bounded line; words of the server are quoted in it."""

    def __init__(self, message: str, status: int | None = None, after: float | None = None) -> None:
        super().__init__(" ".join(message.split())[:MAX_WORDS])
        self.status = status
        self.after = after

    @property
    def lasting(self) -> bool:
        """Whether the same question would get the same answer."""
        status = self.status
        return status is not None and 400 <= status < 500 and status not in (401, 408, 429)

    def remedy(self, rbac: str) -> str | None:
        """What mends it, if that is known. `rbac` is the line that gives the rights."""
        if self.status == 401:
            return "the token is wrong or has expired"
        return rbac if self.status == 403 and " cannot " in str(self) else None


class Client:
    """For one thread at a time, except `close`, which ends a question of another thread."""

    def __init__(self, access: Access, seconds: float = SECONDS) -> None:
        self._access = access
        self._seconds = seconds
        self._connection: http.client.HTTPConnection | None = None
        self._closed = False

    def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content: str = "application/json",
    ) -> Any:
        """The JSON of the answer. Raises `ApiError`."""
        used = self._connection is not None
        try:
            return self._ask(method, path, query, body, content)
        except ApiError as error:
            if not used or error.status is not None:
                raise
            return self._ask(method, path, query, body, content)  # it had been closed meanwhile

    def lines(self, path: str, query: Mapping[str, str], seconds: float) -> Iterator[Any]:
        """The JSON of each line of an answer that goes on for `seconds`. Raises `ApiError`."""
        self._drop()
        response = self._request("GET", path, query, None, "", seconds + self._seconds)
        try:
            if response.status != http.client.OK:
                raise self._refused(response, time.monotonic() + self._seconds)
            while line := response.readline(MAX_LINE + 1):
                if len(line) > MAX_LINE:
                    raise ApiError(f"{self._access.server} sends a line without an end")
                yield _json(line, self._access.server)
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            raise self._lost(error) from error
        finally:
            self._drop()

    def close(self) -> None:
        """May be called from another thread."""
        self._closed = True
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _ask(
        self, method: str, path: str, query: Mapping[str, str] | None, body: object, content: str
    ) -> Any:
        deadline = time.monotonic() + self._seconds
        response = self._request(method, path, query, body, content, self._seconds)
        try:
            if not 200 <= response.status < 300:
                raise self._refused(response, deadline)
            data = self._read(response, deadline)
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            raise self._lost(error) from error
        except ApiError:
            self._drop()
            raise
        if response.will_close:
            self._drop()
        return _json(data, self._access.server)

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: object,
        content: str,
        seconds: float,
    ) -> http.client.HTTPResponse:
        headers = {"Accept": "application/json", "User-Agent": "ktrace"}
        bearer = self._access.bearer
        if bearer:
            headers["Authorization"] = f"Bearer {bearer}"
        data = None
        if body is not None:
            data = orjson.dumps(body)
            headers["Content-Type"] = content
        whole = path + (f"?{urlencode(query, quote_via=quote)}" if query else "")
        try:
            connection = self._connect(seconds)
            connection.request(method, whole, data, headers)
            return connection.getresponse()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._drop()
            raise self._lost(error) from error

    def _connect(self, seconds: float) -> http.client.HTTPConnection:
        if self._closed:
            raise ConnectionAbortedError("it is over")
        if self._connection is None:
            self._connection = self._new()
            self._connection.connect()
            for option, value in _KEEPALIVE:
                self._connection.sock.setsockopt(socket.IPPROTO_TCP, option, value)
            self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._connection.sock.settimeout(seconds)
        return self._connection

    def _new(self) -> http.client.HTTPConnection:
        access, url = self._access, urlsplit(self._access.server)
        assert url.hostname is not None
        if url.scheme == "http":
            return http.client.HTTPConnection(url.hostname, url.port, timeout=self._seconds)
        import ssl

        context = ssl.create_default_context(cadata=access.authority)
        if access.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if access.certificate is not None and access.key is not None:
            # the library takes nothing but files; this one is in memory only
            pem = os.memfd_create("ktrace-certificate", os.MFD_CLOEXEC)
            try:
                os.write(pem, f"{access.certificate}\n{access.key}\n".encode())
                context.load_cert_chain(f"/proc/self/fd/{pem}")
            finally:
                os.close(pem)
        return http.client.HTTPSConnection(
            url.hostname, url.port, timeout=self._seconds, context=context
        )

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _read(self, response: http.client.HTTPResponse, deadline: float) -> bytes:
        body = bytearray()
        while chunk := response.read1(_CHUNK):
            body += chunk
            if len(body) > MAX_ANSWER:
                raise ApiError(
                    f"{self._access.server}'s answer is larger than {MAX_ANSWER >> 20} MiB"
                )
            if time.monotonic() > deadline:
                raise TimeoutError
        response.close()  # without this the connection would wait for it for ever
        return bytes(body)

    def _refused(self, response: http.client.HTTPResponse, deadline: float) -> ApiError:
        """From an answer that is no success."""
        with suppress(ApiError, OSError, http.client.HTTPException):
            told = _json(self._read(response, deadline), "")
            if isinstance(told, dict) and isinstance(told.get("message"), str):
                words = f"{response.status} “{told['message'][:MAX_WORDS]}”"
                return ApiError(self._says(words), response.status, _after(response))
        return ApiError(self._says(f"{response.status}"), response.status, _after(response))

    def _says(self, words: str) -> str:
        return f"{self._access.server} answers {words}"

    def _lost(self, error: Exception) -> ApiError:
        server = self._access.server
        if isinstance(error, TimeoutError):
            return ApiError(f"{server} does not answer in time")
        if isinstance(error, OSError):
            verify = getattr(error, "verify_message", None)
            return ApiError(f"{server} cannot be reached: {verify or limits.reason(error)}")
        if isinstance(error, http.client.RemoteDisconnected):
            return ApiError(f"{server} hung up")
        return ApiError(f"{server} does not speak HTTP as an API server does")


def _after(response: http.client.HTTPResponse) -> float | None:
    told = response.getheader("Retry-After", "")
    return float(told) if told.isascii() and told.isdigit() and len(told) < 9 else None


def _json(data: bytes, server: str) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ApiError(f"{server} answers no JSON") from error
