# SPDX-License-Identifier: Apache-2.0
"""Questions to an API server that answers well, badly, late or not at all."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.kubernetes.server import Answer, serving
from tracer.kubernetes import client as module
from tracer.kubernetes.access import Access, find, of_kubeconfig
from tracer.kubernetes.client import ApiError, Client
from tracer.model.errors import UsageError


def test_an_answer_over_a_connection_that_stays() -> None:
    with serving(lambda asked: Answer(body={"path": asked.path})) as server:
        client = Client(server.access)
        assert client.ask("GET", "/api/v1/pods", {"fieldSelector": "a=b,c!=d"}) == {
            "path": "/api/v1/pods"
        }
        client.ask("PATCH", "/x", body={"count": 2}, content="application/merge-patch+json")
        first, second = server.asked
        assert first.query == {"fieldSelector": "a=b,c!=d"} and first.token == "Bearer secret"
        assert (second.body, second.content) == ({"count": 2}, "application/merge-patch+json")


def test_a_connection_that_was_closed_meanwhile() -> None:
    with serving(lambda asked: Answer(body={})) as server:
        client = Client(server.access)
        client.ask("GET", "/")
        assert client._connection is not None
        client._connection.sock.shutdown(socket.SHUT_RDWR)
        assert client.ask("GET", "/") == {}


@pytest.mark.parametrize(
    ("answer", "status", "lasting", "words"),
    [
        (Answer(403, {"message": 'pods is forbidden: User "x" cannot list'}), 403, True, "cannot"),
        (Answer(401, {"message": "Unauthorized"}), 401, False, "Unauthorized"),
        (Answer(429, {"message": "slow down"}, {"Retry-After": "7"}), 429, False, "slow down"),
        (Answer(500, b"\xff\x00<html>"), 500, False, "answers 500"),
        (Answer(404, {"message": ["no", "text"]}), 404, True, "answers 404"),
        (Answer(302, b"", {"Location": "http://127.0.0.1:1/"}), 302, False, "answers 302"),
        (Answer(200, b"<html>"), None, False, "no JSON"),
        (Answer(200, b"[" * 9000), None, False, "no JSON"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_refusals(answer: Answer, status: int | None, lasting: bool, words: str) -> None:
    with serving(lambda asked: answer) as server, pytest.raises(ApiError, match=words) as raised:
        Client(server.access).ask("GET", "/")
    assert (raised.value.status, raised.value.lasting) == (status, lasting)
    assert raised.value.after == (7.0 if status == 429 else None)
    assert "\n" not in str(raised.value) and len(str(raised.value)) <= module.MAX_WORDS


@pytest.mark.parametrize(
    "told", ["-1", "1e9", "inf", "Wed, 21 Oct 2015 07:28:00 GMT", "9" * 30, ""]
)
def test_a_pause_that_makes_no_sense(told: str) -> None:
    with serving(lambda asked: Answer(429, {}, {"Retry-After": told})) as server:
        with pytest.raises(ApiError) as raised:
            Client(server.access).ask("GET", "/")
        assert raised.value.after is None


def test_nobody_answers() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        server = f"http://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(ApiError, match="cannot be reached: Connection refused"):
            Client(Access(server)).ask("GET", "/")


def test_somebody_who_says_nothing() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        server = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ApiError, match="does not answer in time"):
            Client(Access(server), seconds=0.1).ask("GET", "/")


def test_an_answer_that_trickles() -> None:
    def slowly(over: threading.Event) -> Iterator[bytes]:
        while not over.wait(0.02):
            yield b" "

    with serving(lambda asked: Answer(lines=slowly(server.over))) as server:
        began = time.monotonic()
        with pytest.raises(ApiError, match="does not answer in time"):
            Client(server.access, seconds=0.3).ask("GET", "/")
        assert time.monotonic() - began < 30


def test_an_answer_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER", 1 << 20)
    endless = Answer(lines=itertools.repeat(b" " * 65536))
    with serving(lambda asked: endless) as server, pytest.raises(ApiError, match="than 1 MiB"):
        Client(server.access).ask("GET", "/")


def test_lines() -> None:
    with serving(lambda asked: Answer(lines=[{"a": 1}, b'{"b":', b" 2}\n", {"c": 3}])) as server:
        assert list(Client(server.access).lines("/", {}, 5)) == [{"a": 1}, {"b": 2}, {"c": 3}]


def test_a_line_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE", 1 << 20)
    endless = Answer(lines=itertools.repeat(b"x" * 65536))
    with serving(lambda asked: endless) as server, pytest.raises(ApiError, match="without an end"):
        list(Client(server.access).lines("/", {}, 5))


def test_a_question_is_ended_by_another_thread() -> None:
    def silently(over: threading.Event) -> Iterator[bytes]:
        yield b'{"a": 1}\n'
        over.wait(60)

    with serving(lambda asked: Answer(lines=silently(server.over))) as server:
        client = Client(server.access)
        lines = client.lines("/", {}, 60)
        assert next(lines) == {"a": 1}
        threading.Timer(0.05, client.close).start()
        began = time.monotonic()
        with pytest.raises((ApiError, StopIteration)):
            next(lines)
        assert time.monotonic() - began < 30
        with pytest.raises(ApiError):
            client.ask("GET", "/")


def test_a_token_that_is_rotated(tmp_path: Path) -> None:
    token = tmp_path / "token"
    with serving(lambda asked: Answer(body={})) as server:
        client = Client(Access(server.access.server, token_file=token))
        for words in ("one\n", "two"):
            token.write_text(words)
            client.ask("GET", "/")
        token.unlink()
        client.ask("GET", "/")
        assert [one.token for one in server.asked] == ["Bearer one", "Bearer two", ""]


# The way to the server

KUBECONFIG = """
current-context: here
contexts: [{name: here, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: 'https://127.0.0.1:6443/', certificate-authority: ca.crt}}]
users: [{name: u, user: {tokenFile: token}}]
"""


def test_a_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("PEM")
    (tmp_path / "config").write_text(KUBECONFIG)
    access = of_kubeconfig(tmp_path / "config")
    assert (access.server, access.authority) == ("https://127.0.0.1:6443", "PEM")
    assert access.token_file == tmp_path / "token"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no kubeconfig"),
        ("[1, 2]", "no kubeconfig"),
        ("{", "no kubeconfig"),
        (KUBECONFIG.replace("current-context: here", ""), "no kubeconfig"),
        (KUBECONFIG.replace("https:", "file:"), "no server"),
        (KUBECONFIG.replace("tokenFile: token", "exec: {command: aws}"), "from a program"),
        (KUBECONFIG.replace("-authority: ca.crt", "-authority-data: '%'"), "no PEM"),
        (KUBECONFIG, "ca.crt cannot be read"),
    ],
)
def test_no_kubeconfig(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "config").write_text(content)
    with pytest.raises(UsageError, match=words) as raised:
        of_kubeconfig(tmp_path / "config")
    assert raised.value.message


def test_the_account_of_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="no way to the API"):
        find(None, tmp_path)
    (tmp_path / "token").write_text("t")
    (tmp_path / "ca.crt").write_text("PEM")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    access = find(None, tmp_path)
    assert (access.server, access.authority, access.bearer) == (
        "https://[fd00::1]:6443",
        "PEM",
        "t",
    )


def test_commands_that_need_no_kubernetes_do_not_load_it() -> None:
    """Nor what it is built on."""
    code = (
        "import sys; from tracer.cli import root; root.get_command(None, 'signals');"
        "print([name for name in ('ssl', 'tracer.kubernetes.client') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done
