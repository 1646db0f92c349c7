# SPDX-License-Identifier: Apache-2.0
"""Unary gRPC calls, one at a time, on a connected socket.

gRPC's own library takes ten megabytes of memory, mostly for features that a socket file never
needs. A unary call is little more than an HTTP/2 stream: headers, one message each way, trailers
with a status (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md). h2 handles frames,
compressed headers and windows; this module handles waiting and deadlines.
"""

from __future__ import annotations

import socket
import struct
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from enum import IntEnum

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import FrameTooLargeError, H2Error
from h2.settings import SettingCodes, Settings

# Bytes that a peer may send before ktrace acknowledges the first.
WINDOW = 1 << 20
_CHUNK = 64 << 10
_FRAME_HEADER = (
    9  # length, type, flags and stream, https://www.rfc-editor.org/rfc/rfc9113#section-4.1
)
_GOAWAY = 7
_PREFIX = struct.Struct(">?I")  # compressed, length


class Code(IntEnum):
    """https://github.com/grpc/grpc/blob/master/doc/statuscodes.md"""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


# https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
_OF_HTTP = {
    b"400": Code.INTERNAL,
    b"401": Code.UNAUTHENTICATED,
    b"403": Code.PERMISSION_DENIED,
    b"404": Code.UNIMPLEMENTED,
    b"429": Code.UNAVAILABLE,
    b"502": Code.UNAVAILABLE,
    b"503": Code.UNAVAILABLE,
    b"504": Code.UNAVAILABLE,
}
_OF_RESET: dict[int | None, Code] = {
    ErrorCodes.REFUSED_STREAM: Code.UNAVAILABLE,
    ErrorCodes.CANCEL: Code.CANCELLED,
    ErrorCodes.ENHANCE_YOUR_CALM: Code.RESOURCE_EXHAUSTED,
    ErrorCodes.INADEQUATE_SECURITY: Code.PERMISSION_DENIED,
}


class RpcError(Exception):
    """There is no answer. The message has no subject; the caller adds it."""


class Refused(RpcError):
    """The answer is a status other than OK."""

    def __init__(self, code: Code, details: str) -> None:
        super().__init__(f"refused: {code.name.lower()}: {details}")
        self.code = code


class Connection:
    """Calls on the socket `connected`, which the caller closes. After an `RpcError` that is not
    `Refused`, no more calls are possible on it. `max_answer` is in bytes; deadlines are in
    time.monotonic() seconds."""

    def __init__(self, connected: socket.socket, max_answer: int) -> None:
        self._socket = connected
        self._max_answer = max_answer
        self._left = False  # the peer said goodbye and takes no new calls
        self._unread = bytearray()
        self._http = H2Connection(H2Configuration(client_side=True))
        self._http.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
            },
        )
        self._http.initiate_connection()
        self._http.increment_flow_control_window(WINDOW)

    def call(self, path: str, request: bytes, deadline: float) -> bytes:
        """The answer to one request, both as serialized messages."""
        try:
            return self._call(path, request, deadline)
        except TimeoutError as error:
            raise RpcError("did not answer in time") from error
        except OSError as error:
            raise RpcError("does not answer (is it running?)") from error
        except H2Error as error:
            raise RpcError("does not speak gRPC") from error

    def _call(self, path: str, request: bytes, deadline: float) -> bytes:
        if self._left:
            raise ConnectionResetError
        stream = self._http.get_next_available_stream_id()
        answer = _Answer(stream, self._max_answer)
        self._http.send_headers(stream, _headers(path))
        rest = memoryview(_PREFIX.pack(False, len(request)) + request)
        while rest and not answer.ended:
            room = self._http.local_flow_control_window(stream)
            part = rest[: max(0, min(room, self._http.max_outbound_frame_size))]
            if part:
                rest = rest[len(part) :]
                self._http.send_data(stream, part.tobytes(), end_stream=not rest)
            else:
                self._take(answer, deadline)
        while not answer.ended:
            self._take(answer, deadline)
        return answer.message()

    def _take(self, answer: _Answer, deadline: float) -> None:
        self._send(deadline)
        self._socket.settimeout(_until(deadline))
        data = self._socket.recv(_CHUNK)
        if not data:
            raise ConnectionResetError
        self._unread += data
        for frame in self._frames():
            events = self._http.receive_data(frame)
            answer.take(events)
            for event in events:
                if isinstance(event, DataReceived):
                    self._http.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )

    def _frames(self) -> Iterator[bytes]:
        """The complete frames, without GOAWAY: after one, h2 would refuse even the rest of a begun
        answer."""
        while len(self._unread) >= _FRAME_HEADER:
            length = int.from_bytes(self._unread[:3], "big")
            if length > self._http.max_inbound_frame_size:
                raise FrameTooLargeError
            if len(self._unread) < _FRAME_HEADER + length:
                return
            frame = bytes(self._unread[: _FRAME_HEADER + length])
            del self._unread[: len(frame)]
            if frame[3] != _GOAWAY:
                yield frame
            else:
                self._left = True
                last = int.from_bytes(frame[_FRAME_HEADER : _FRAME_HEADER + 4], "big") & 0x7FFFFFFF
                if last < self._http.highest_outbound_stream_id:
                    raise ConnectionResetError

    def _send(self, deadline: float) -> None:
        if data := self._http.data_to_send():
            self._socket.settimeout(_until(deadline))
            self._socket.sendall(data)


class _Answer:
    """The parts of one stream's answer so far."""

    def __init__(self, stream: int, max_bytes: int) -> None:
        self.ended = False
        self._stream = stream
        self._max_bytes = max_bytes
        self._headers: dict[bytes, bytes] = {}
        self._body = bytearray()

    def take(self, events: Iterable[Event]) -> None:
        for event in events:
            if getattr(event, "stream_id", None) != self._stream:
                continue  # concerns the whole connection; h2 has handled it
            elif isinstance(event, ResponseReceived | TrailersReceived):
                self._headers.update(event.headers)
                self._check_http()
            elif isinstance(event, DataReceived):
                self._body += event.data
                self._check_body()
            elif isinstance(event, StreamReset):
                if not self.ended:  # a server may reset a stream that it has answered already
                    code = _OF_RESET.get(event.error_code, Code.INTERNAL)
                    raise Refused(code, "it ended the stream")
            elif isinstance(event, StreamEnded):
                self.ended = True

    def message(self) -> bytes:
        status = self._headers.get(b"grpc-status")
        if status is None:
            raise RpcError("does not speak gRPC")
        if status != b"0":
            raise Refused(_code(status), _details(self._headers.get(b"grpc-message", b"")))
        if len(self._body) < _PREFIX.size or len(self._body) != _PREFIX.size + self._length():
            raise RpcError("broke off its answer")
        return bytes(memoryview(self._body)[_PREFIX.size :])

    def _check_http(self) -> None:
        status = self._headers.get(b":status", b"")
        if status != b"200" and b"grpc-status" not in self._headers:
            code = _OF_HTTP.get(status, Code.UNKNOWN)
            raise Refused(code, f"HTTP status {status.decode(errors='replace')}")

    def _check_body(self) -> None:
        if len(self._body) < _PREFIX.size:
            return
        if self._body[0]:
            raise RpcError("compressed its answer, unasked")
        if self._length() > self._max_bytes:
            raise RpcError(f"gave an answer larger than {self._max_bytes >> 20} MiB")
        if len(self._body) > _PREFIX.size + self._length():
            raise RpcError("gave more than one answer")

    def _length(self) -> int:
        length: int = _PREFIX.unpack_from(self._body)[1]
        return length


def _headers(path: str) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        # A socket's path is no host, and strict servers refuse it:
        # https://github.com/grpc/grpc/issues/38142
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "ktrace"),
    ]


def _until(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _code(status: bytes) -> Code:
    try:
        return Code(int(status))
    except ValueError:
        return Code.UNKNOWN


def _details(message: bytes) -> str:
    return urllib.parse.unquote_to_bytes(message).decode(errors="replace")
