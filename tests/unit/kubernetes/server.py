# SPDX-License-Identifier: Apache-2.0
"""A server on this machine that answers as a test says, for what a real API server does not do on
demand: 410, 429, garbage, lines without an end."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tracer.kubernetes.access import Access


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    query: dict[str, str]
    token: str
    body: Any
    content: str

    @property
    def watches(self) -> bool:
        return self.query.get("watch") == "1"


@dataclass
class Answer:
    """`body` is JSON, or bytes; `lines` come one after the other, as the iterable gives them."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    lines: Iterable[Any] | None = None


Act = Callable[[Asked], Answer]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # The thread of a client that hangs is no reason to wait.
    block_on_close = False

    def __init__(self, act: Act, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.act = act
        self.asked: list[Asked] = []
        self.over = threading.Event()

    @property
    def access(self) -> Access:
        return Access(f"http://127.0.0.1:{self.server_address[1]}", token="secret")

    def handle_error(self, *_: object) -> None:
        """Clients may leave whenever they want."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def _answer(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length", 0))
        raw = self.rfile.read(length)
        asked = Asked(
            self.command,
            url.path,
            {key: values[-1] for key, values in parse_qs(url.query).items()},
            self.headers.get("Authorization", ""),
            json.loads(raw) if raw else None,
            self.headers.get("Content-Type", ""),
        )
        answer = self.server.act(asked)
        self.server.asked.append(asked)  # from now on what is done to `act` is for this question
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.lines is None:
            body = answer.body if isinstance(answer.body, bytes) else _dumped(answer.body)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with suppress(OSError):
            for line in answer.lines:
                data = line if isinstance(line, bytes) else _dumped(line) + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_PATCH = _answer

    def log_message(self, *_: object) -> None: ...


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


@contextmanager
def serving(act: Act, port: int = 0) -> Iterator[Server]:
    server = Server(act, port)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
