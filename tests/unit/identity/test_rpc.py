# SPDX-License-Identifier: Apache-2.0
"""The small gRPC client against peers that keep to the protocol, and others that do not."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import Event, RequestReceived, StreamEnded, WindowUpdated
from hyperframe.frame import GoAwayFrame, RstStreamFrame
from hypothesis import given
from hypothesis import strategies as st

from tracer.identity import rpc
from tracer.identity.rpc import Code, Connection, Refused, RpcError

PATH = "/runtime.v1.RuntimeService/Version"
LARGEST = 8 << 20
STARTS = [(":status", "200"), ("content-type", "application/grpc")]
ENDS = [("grpc-status", "0")]
SOON = 60.0


def ask(connected: socket.socket, request: bytes = b"?", seconds: float = SOON) -> bytes:
    return Connection(connected, LARGEST).call(PATH, request, time.monotonic() + seconds)


def message(content: bytes, compressed: bool = False) -> bytes:
    return struct.pack(">?I", compressed, len(content)) + content


# A real server, of gRPC's own library


@contextmanager
def served(folder: Path, answer: Callable[[bytes, Any], bytes]) -> Iterator[socket.socket]:
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_send_message_length", -1)])
    handler = grpc.unary_unary_rpc_method_handler(answer)
    service, method = PATH.strip("/").split("/")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    server.add_insecure_port(f"unix:{folder}/socket")
    server.start()
    try:
        with socket.socket(socket.AF_UNIX) as connected:
            connected.connect(f"{folder}/socket")
            yield connected
    finally:
        server.stop(grace=0).wait(SOON)


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_384, (1 << 20) + 1, LARGEST])
def test_answers_of_any_size(tmp_path: Path, size: int) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    with served(tmp_path, lambda request, context: content[:size]) as connected:
        assert ask(connected) == content[:size]


def test_an_answer_that_is_too_large(tmp_path: Path) -> None:
    with (
        served(tmp_path, lambda request, context: bytes(LARGEST + 1)) as connected,
        pytest.raises(RpcError, match="gave an answer larger than 8 MiB"),
    ):
        ask(connected)


def test_a_large_question(tmp_path: Path) -> None:
    """Larger than a frame, and than what a server takes before it says more."""
    request = bytes(range(256)) * (1 << 12)
    with served(tmp_path, lambda request, context: request) as connected:
        assert ask(connected, request) == request


def test_many_questions_on_one_connection(tmp_path: Path) -> None:
    """Together larger than the windows, and some are refused in between."""

    def answer(request: bytes, context: Any) -> bytes:
        if request[0] % 3 == 0:
            context.abort(grpc.StatusCode.NOT_FOUND, "none")
        return request * (rpc.WINDOW // 2)

    with served(tmp_path, answer) as connected:
        connection = Connection(connected, LARGEST)
        for number in range(9):
            deadline = time.monotonic() + SOON
            if number % 3 == 0:
                with pytest.raises(Refused, match="refused: not_found: none"):
                    connection.call(PATH, bytes([number]), deadline)
            else:
                answered = connection.call(PATH, bytes([number]), deadline)
                assert answered == bytes([number]) * (rpc.WINDOW // 2)


@pytest.mark.parametrize("code", [code for code in Code if code])
def test_every_status(tmp_path: Path, code: Code) -> None:
    details = "50 % of «it»\nis missing"

    def refuse(request: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode[code.name], details)
        return b""

    with served(tmp_path, refuse) as connected, pytest.raises(Refused) as caught:
        ask(connected)
    assert caught.value.code is code
    assert str(caught.value) == f"refused: {code.name.lower()}: {details}"


def test_a_method_that_nobody_knows(tmp_path: Path) -> None:
    with served(tmp_path, lambda request, context: b"") as connected:
        connection = Connection(connected, LARGEST)
        with pytest.raises(Refused) as caught:
            connection.call(PATH + "2", b"", time.monotonic() + SOON)
        assert caught.value.code is Code.UNIMPLEMENTED
        assert connection.call(PATH, b"", time.monotonic() + SOON) == b""


def test_a_server_that_is_too_slow(tmp_path: Path) -> None:
    leave = threading.Event()

    def wait(request: bytes, context: Any) -> bytes:
        leave.wait(SOON)
        return b""

    with served(tmp_path, wait) as connected:
        with pytest.raises(RpcError, match="did not answer in time"):
            ask(connected, seconds=0.2)
        leave.set()


def test_a_server_that_ends_meanwhile(tmp_path: Path) -> None:
    asked, leave = threading.Event(), threading.Event()
    server = grpc.server(ThreadPoolExecutor(1))

    def wait(request: bytes, context: Any) -> bytes:
        asked.set()
        leave.wait(SOON)
        return b""

    handler = grpc.unary_unary_rpc_method_handler(wait)
    service, method = PATH.strip("/").split("/")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    server.add_insecure_port(f"unix:{tmp_path}/socket")
    server.start()

    def stop() -> None:
        asked.wait(SOON)
        server.stop(grace=0)

    threading.Thread(target=stop).start()
    with socket.socket(socket.AF_UNIX) as connected:
        connected.connect(f"{tmp_path}/socket")
        # By gRPC's rules it may cancel the stream first or only close the connection.
        with pytest.raises(RpcError, match=r"does not answer|unavailable|cancelled"):
            ask(connected)
    leave.set()


# Peers made by hand


Script = Callable[[socket.socket, H2Connection], None]


@contextmanager
def peer(script: Script) -> Iterator[socket.socket]:
    """Somebody at the other end who keeps to HTTP/2 until a question has come, and then does as
    the script says."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(SOON)

    def serve() -> None:
        http = H2Connection(H2Configuration(client_side=False))
        http.initiate_connection()
        with suppress(OSError), theirs:
            heard(theirs, http, RequestReceived)
            script(theirs, http)
            while theirs.recv(1 << 16):
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join(SOON)
    assert not thread.is_alive()


def heard(theirs: socket.socket, http: H2Connection, kind: type[Event]) -> list[Any]:
    """Reads until that has come, and returns all of its kind."""
    while True:
        theirs.sendall(http.data_to_send())
        data = theirs.recv(1 << 16)
        if not data:
            raise ConnectionResetError
        if found := [event for event in http.receive_data(data) if isinstance(event, kind)]:
            return found


def answers(
    body: bytes = b"\0\0\0\0\0",
    starts: list[tuple[str, str]] = STARTS,
    ends: list[tuple[str, str]] | None = ENDS,
    then: Callable[[H2Connection], object] = lambda http: None,
) -> Script:
    def script(theirs: socket.socket, http: H2Connection) -> None:
        http.send_headers(1, starts)
        if body:
            http.send_data(1, body)
        if ends is None:
            http.end_stream(1)
        elif ends:
            http.send_headers(1, ends, end_stream=True)
        then(http)
        theirs.sendall(http.data_to_send())

    return script


def test_a_peer_as_it_should_be() -> None:
    with peer(answers(message(b"content"))) as connected:
        assert ask(connected) == b"content"


def test_what_is_asked() -> None:
    """Strict servers refuse a socket's path as the authority."""
    seen: dict[str, str] = {}
    ours, theirs = socket.socketpair()
    http = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
    http.initiate_connection()
    with ours, theirs:
        theirs.settimeout(SOON)
        with pytest.raises(RpcError):
            ask(ours, seconds=0.1)
        (asked,) = heard(theirs, http, RequestReceived)
        seen.update(asked.headers)
    assert seen[":authority"] == "localhost"
    assert seen[":path"] == PATH
    assert (seen[":method"], seen["te"], seen["content-type"]) == (
        *("POST", "trailers"),
        "application/grpc",
    )


# More than a peer takes that has opened no window further.
LONG = bytes(range(256)) * 257


def test_a_peer_that_takes_little_at_a_time() -> None:
    def script(theirs: socket.socket, http: H2Connection) -> None:
        events: list[Event] = []
        while not any(isinstance(event, StreamEnded) for event in events):
            if http.remote_flow_control_window(1) == 0:
                http.increment_flow_control_window(31, 1)
                http.increment_flow_control_window(31)
            theirs.sendall(http.data_to_send())
            events = http.receive_data(theirs.recv(1 << 16))
        answers(message(b"answer"))(theirs, http)

    with peer(script) as connected:
        assert ask(connected, LONG) == b"answer"


def test_a_peer_whose_window_stays_closed() -> None:
    with (
        peer(lambda theirs, http: None) as connected,
        pytest.raises(RpcError, match="did not answer in time"),
    ):
        ask(connected, LONG, seconds=0.2)


def test_windows_are_opened_again() -> None:
    """A peer sends no more than it may."""
    content = bytes(3 * rpc.WINDOW)

    def script(theirs: socket.socket, http: H2Connection) -> None:
        http.send_headers(1, STARTS)
        rest = memoryview(message(content))
        while rest:
            room = min(http.local_flow_control_window(1), http.max_outbound_frame_size)
            if room:
                http.send_data(1, rest[:room].tobytes())
                rest = rest[room:]
            else:
                heard(theirs, http, WindowUpdated)
        http.send_headers(1, ENDS, end_stream=True)
        theirs.sendall(http.data_to_send())

    with peer(script) as connected:
        assert ask(connected) == content


def test_an_end_without_error_behind_an_answer() -> None:
    """A server may refuse before it has read the whole question, and end the stream."""

    def script(theirs: socket.socket, http: H2Connection) -> None:
        answers(message(b"x"))(theirs, http)
        theirs.sendall(RstStreamFrame(1).serialize())
        heard(theirs, http, RequestReceived)
        http.send_headers(3, [*STARTS, ("grpc-status", "5")], end_stream=True)
        theirs.sendall(http.data_to_send())

    with peer(script) as connected:
        connection = Connection(connected, LARGEST)
        assert connection.call(PATH, b"", time.monotonic() + SOON) == b"x"
        with pytest.raises(Refused, match="not_found"):
            connection.call(PATH, b"", time.monotonic() + SOON)


def test_a_goodbye_behind_an_answer() -> None:
    def script(theirs: socket.socket, http: H2Connection) -> None:
        answers(message(b"x"), then=lambda http: http.close_connection())(theirs, http)

    with peer(script) as connected:
        connection = Connection(connected, LARGEST)
        assert connection.call(PATH, b"", time.monotonic() + SOON) == b"x"
        with pytest.raises(RpcError, match="does not answer"):
            connection.call(PATH, b"", time.monotonic() + SOON)


def test_a_goodbye_in_the_middle_of_an_answer() -> None:
    """What has been begun is answered."""

    def script(theirs: socket.socket, http: H2Connection) -> None:
        answers(message(b"long")[:-1], ends=[])(theirs, http)
        theirs.sendall(GoAwayFrame(last_stream_id=1).serialize())
        http.send_data(1, b"g")
        http.send_headers(1, ENDS, end_stream=True)
        theirs.sendall(http.data_to_send())

    with peer(script) as connected:
        connection = Connection(connected, LARGEST)
        assert connection.call(PATH, b"", time.monotonic() + SOON) == b"long"
        with pytest.raises(RpcError, match="does not answer"):
            connection.call(PATH, b"", time.monotonic() + SOON)


def test_a_goodbye_before_an_answer() -> None:
    def script(theirs: socket.socket, http: H2Connection) -> None:
        theirs.sendall(GoAwayFrame().serialize())

    with peer(script) as connected, pytest.raises(RpcError, match="does not answer"):
        ask(connected)


@pytest.mark.parametrize("moment", ["nothing", "headers", "half", "all but the end"])
def test_half_closed(moment: str) -> None:
    """It will say nothing more, and says so by the socket alone."""

    def script(theirs: socket.socket, http: H2Connection) -> None:
        if moment == "headers":
            answers(b"", ends=[])(theirs, http)
        elif moment == "half":
            answers(message(b"long")[:-1], ends=[])(theirs, http)
        elif moment != "nothing":
            answers(message(b"long"), ends=[])(theirs, http)
        theirs.shutdown(socket.SHUT_WR)

    with (
        peer(script) as connected,
        pytest.raises(RpcError, match=r"does not answer \(is it running\?\)"),
    ):
        ask(connected)


def test_nobody_reads() -> None:
    """The socket's buffer is full, and stays so."""
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(RpcError, match="did not answer in time"):
        ours.setblocking(False)
        with suppress(BlockingIOError):
            while ours.send(bytes(1 << 16)):
                pass
        ask(ours, seconds=0.2)


def test_a_peer_that_never_comes_to_the_point() -> None:
    """Each byte of it is right."""

    def script(theirs: socket.socket, http: H2Connection) -> None:
        while True:
            http.ping(b"are you?")
            theirs.sendall(http.data_to_send())
            theirs.recv(1 << 16)

    with peer(script) as connected, pytest.raises(RpcError, match="did not answer in time"):
        ask(connected, seconds=0.3)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (ErrorCodes.REFUSED_STREAM, Code.UNAVAILABLE),
        (ErrorCodes.CANCEL, Code.CANCELLED),
        (ErrorCodes.ENHANCE_YOUR_CALM, Code.RESOURCE_EXHAUSTED),
        (ErrorCodes.INADEQUATE_SECURITY, Code.PERMISSION_DENIED),
        (ErrorCodes.PROTOCOL_ERROR, Code.INTERNAL),
        (ErrorCodes.NO_ERROR, Code.INTERNAL),
        (0xDEAD, Code.INTERNAL),
    ],
)
def test_a_stream_that_is_reset(number: int, code: Code) -> None:
    def script(theirs: socket.socket, http: H2Connection) -> None:
        http.reset_stream(1, number)
        theirs.sendall(http.data_to_send())

    with peer(script) as connected, pytest.raises(Refused) as caught:
        ask(connected)
    assert caught.value.code is code


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (answers(b""), "broke off its answer"),
        (answers(b"\0\0"), "broke off its answer"),
        (answers(message(b"long")[:-1]), "broke off its answer"),
        (answers(message(b"one") + message(b"two")), "gave more than one answer"),
        (answers(message(b"x", compressed=True)), "compressed its answer, unasked"),
        (answers(b"\0\xff\xff\xff\xff"), "gave an answer larger than 8 MiB"),
        (answers(message(b"x"), ends=None), "does not speak gRPC"),
        (answers(message(b"x"), ends=[("grpc-status", "?")]), "refused: unknown: "),
        (answers(message(b"x"), ends=[("grpc-status", "99")]), "refused: unknown: "),
        (answers(b"", [(":status", "404")], None), "refused: unimplemented: HTTP status 404"),
        (answers(b"", [(":status", "503")], None), "refused: unavailable: HTTP status 503"),
        (answers(b"", [(":status", "302")], None), "refused: unknown: HTTP status 302"),
        (
            answers(b"", [*STARTS, ("grpc-status", "5"), ("grpc-message", "%zz %C3%28")], None),
            "refused: not_found: %zz \ufffd(",
        ),
    ],
)
def test_an_answer_that_is_none(script: Script, words: str) -> None:
    with peer(script) as connected, pytest.raises(RpcError) as caught:
        ask(connected)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        b"\0\0\0\x04\0\0\0\0\0" + b"\0\0\x01\x01\x04\0\0\0\x01\xff",  # headers of rubbish
        b"\0\0\0\x04\0\0\0\0\0" + b"\0\0\x04\x05\x04\0\0\0\x01\0\0\0\x02",  # it pushes
        b"\0\0\x08\x06\0\0\0\0\0",  # half a ping
        b"\0\0\x04\x07\0\0\0\0\0\0\0\0\1",  # half a goodbye
    ],
)
def test_what_is_not_grpc(said: bytes) -> None:
    assert told_after(said) in ("does not speak gRPC", "does not answer (is it running?)")


def told_after(said: bytes) -> str:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(said)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(RpcError) as caught:
            ask(ours)
    return str(caught.value)


# Whatever a peer says


def said_by_a_peer() -> bytes:
    """All of an answer, as it goes over the wire."""
    client, server = H2Connection(), H2Connection(H2Configuration(client_side=False))
    client.initiate_connection()
    client.send_headers(1, rpc._headers(PATH))
    server.initiate_connection()
    server.receive_data(client.data_to_send())
    server.send_headers(1, STARTS)
    server.send_data(1, message(CONTENT)[:7])
    server.ping(b"12345678")
    server.send_data(1, message(CONTENT)[7:])
    server.send_headers(1, ENDS, end_stream=True)
    return server.data_to_send()


CONTENT = b"content"
SAID = said_by_a_peer()


def told(said: bytes, seconds: float = SOON) -> bytes | str:
    """The answer, or what is wrong."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(said)
        theirs.shutdown(socket.SHUT_WR)
        try:
            return ask(ours, seconds=seconds)
        except RpcError as error:
            return str(error)


def test_all_of_it_is_an_answer() -> None:
    assert told(SAID) == CONTENT


@given(st.lists(st.integers(1, 40), min_size=1))
def test_however_it_arrives(sizes: list[int]) -> None:
    """In pieces of any size, as a socket may give them."""
    pieces = iter(sizes)

    class Slow:
        def __init__(self) -> None:
            self.rest = SAID

        def recv(self, most: int) -> bytes:
            size = next(pieces, len(self.rest))
            piece, self.rest = self.rest[:size], self.rest[size:]
            return piece

        def sendall(self, data: bytes) -> None:
            pass

        def settimeout(self, seconds: float) -> None:
            assert seconds > 0

    slow: Any = Slow()
    assert ask(slow) == CONTENT


@given(st.binary(max_size=300))
def test_rubbish(said: bytes) -> None:
    assert isinstance(told(b"\0\0\0\x04\0\0\0\0\0" + said), str)


@given(st.integers(0, len(SAID) - 1), st.integers(0, 255), st.integers(0, len(SAID)))
def test_a_byte_is_wrong_or_the_end_is_missing(at: int, byte: int, end: int) -> None:
    spoiled = SAID[:at] + bytes([byte]) + SAID[at + 1 :]
    told(spoiled)
    if end < len(SAID):
        assert told(SAID[:end]) == "does not answer (is it running?)"
