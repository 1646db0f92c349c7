# SPDX-License-Identifier: Apache-2.0
"""Docker's API against a little server on a unix socket."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tracer.identity import daemon as unix_daemon
from tracer.identity.docker import DockerSource
from tracer.model.names import Container, Names, NameSourceError, Pod

UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
CID = "7dea796eb5d6826a85978fa316612874aa3d576ac576495bed83d77fbc9dc744"
SANDBOX = "3ad85da3fccbfd88a3f7b0c1e9f1d8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1"
PLAIN = "d6701ec289c56e4391acb11d07474b3139466857a305490575508a8b7a9fcf22"


class Daemon:
    """Gives every connection the same bytes, and keeps what it was asked."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.request = b""
        self.reply: Callable[[socket.socket], object] = lambda connection: None
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(self.path)
        self._server.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def answers(self, body: bytes, status: str = "200 OK", length: int | None = None) -> None:
        size = len(body) if length is None else length
        head = f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n\r\n".encode()
        self.reply = lambda connection: connection.sendall(head + body)

    def knows(self, *containers: object) -> None:
        self.answers(json.dumps(containers).encode())

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                self.request = connection.recv(65536)
                try:
                    self.reply(connection)
                except OSError:
                    continue  # the client has heard enough


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "docker.sock")
    yield daemon
    daemon.close()


def described(container_id: str, name: str, **labels: object) -> dict[str, object]:
    return {"Id": container_id, "Names": [f"/{name}"], "Image": "sha256:…", "Labels": labels}


def of_pod(container_id: str, container: str, name: str | None = None) -> dict[str, object]:
    return described(
        container_id,
        name or f"k8s_{container}_web-0_default_{UID}_2",
        **{
            "io.kubernetes.pod.uid": UID,
            "io.kubernetes.pod.namespace": "default",
            "io.kubernetes.pod.name": "web-0",
            "io.kubernetes.container.name": container,
            "maintainer": "image",
        },
    )


def test_container_of_a_pod_and_its_sandbox(daemon: Daemon) -> None:
    daemon.knows(of_pod(SANDBOX, "POD"), of_pod(CID, "nginx"))
    assert DockerSource(daemon.path).snapshot() == Names(
        {UID: Pod(UID, "default", "web-0", None)},
        {
            SANDBOX: Container(SANDBOX, "docker", None, UID),
            CID: Container(CID, "docker", "nginx", UID),
        },
    )
    assert daemon.request.startswith(b"GET /containers/json?all=1 HTTP/1.1\r\n")


def test_names_longer_than_a_pods(daemon: Daemon) -> None:
    container = of_pod(CID, "c" * 63)
    container["Labels"] |= {"io.kubernetes.pod.name": "p" * 253}  # type: ignore[operator]
    container["Names"] = [f"/k8s_{'c' * 63}_{'p' * 253}_default_{UID}_0"]
    daemon.knows(container)
    assert DockerSource(daemon.path).snapshot().pods[UID].name == "p" * 253


def test_plain_containers(daemon: Daemon) -> None:
    linked = described(CID, "other/db") | {"Names": ["/other/db", "/db"]}
    nameless = {"Id": SANDBOX, "Names": None, "Labels": None}
    daemon.knows(described(PLAIN, "registry"), linked, nameless)
    assert DockerSource(daemon.path).snapshot() == Names(
        {},
        {
            PLAIN: Container(PLAIN, "docker", "registry"),
            CID: Container(CID, "docker", "db"),
            SANDBOX: Container(SANDBOX, "docker", None),
        },
    )


def test_image_with_a_pods_labels_does_not_pose(daemon: Daemon) -> None:
    daemon.knows(of_pod(PLAIN, "nginx", name="innocent_box"))
    assert DockerSource(daemon.path).snapshot() == Names(
        {}, {PLAIN: Container(PLAIN, "docker", "innocent_box")}
    )


def test_name_without_the_right_uid_does_not_pose(daemon: Daemon) -> None:
    daemon.knows(of_pod(PLAIN, "nginx", name="k8s_nginx_web-0_default_another_0"))
    assert DockerSource(daemon.path).snapshot().pods == {}


@pytest.mark.parametrize(
    "body",
    [
        b"hello",
        b"{}",
        b"[1]",
        b'[{"Id": 1}]',
        b'[{"Id": "a", "Names": 3}]',
        b'[{"Id": "a", "Names": [3]}]',
        b'[{"Id": "a", "Labels": [3]}]',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_answers_of_another_shape(daemon: Daemon, body: bytes) -> None:
    daemon.answers(body)
    with pytest.raises(NameSourceError, match="does not speak Docker's API"):
        DockerSource(daemon.path).snapshot()


def test_label_of_another_shape_is_no_label(daemon: Daemon) -> None:
    container = of_pod(CID, "nginx")
    container["Labels"] |= {"io.kubernetes.container.name": 5}  # type: ignore[operator]
    daemon.knows(container)
    assert DockerSource(daemon.path).snapshot().containers[CID].name is None


def test_server_that_speaks_no_http(daemon: Daemon) -> None:
    daemon.reply = lambda connection: connection.sendall(b"220 smtp.example\r\n")
    with pytest.raises(NameSourceError, match="does not speak Docker's API"):
        DockerSource(daemon.path).snapshot()


def test_server_that_hangs_up(daemon: Daemon) -> None:
    with pytest.raises(NameSourceError):
        DockerSource(daemon.path).snapshot()


def test_refusal(daemon: Daemon) -> None:
    daemon.answers(b"no", status="403 Forbidden")
    with pytest.raises(NameSourceError, match="answered 403"):
        DockerSource(daemon.path).snapshot()


def test_huge_answer(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix_daemon, "MAX_ANSWER", 1 << 20)
    daemon.answers(b"[" + b" " * (1 << 21) + b"]")
    with pytest.raises(NameSourceError, match="larger than 1 MiB"):
        DockerSource(daemon.path).snapshot()


def test_server_that_never_answers(daemon: Daemon) -> None:
    leave = threading.Event()
    daemon.reply = lambda connection: leave.wait(60)
    with pytest.raises(NameSourceError, match="did not answer in time"):
        DockerSource(daemon.path, timeout=0.05).snapshot()
    leave.set()


def test_server_that_answers_drop_by_drop(daemon: Daemon) -> None:
    leave = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n[")
        # Each drop comes well within the timeout, all of them never do.
        while not leave.wait(0.01):
            connection.sendall(b" ")

    daemon.reply = drip
    with pytest.raises(NameSourceError, match="did not answer in time"):
        DockerSource(daemon.path, timeout=0.1).snapshot()
    leave.set()


def test_truncated_answer(daemon: Daemon) -> None:
    daemon.answers(b'[{"Id": "a"}', length=1000)
    with pytest.raises(NameSourceError):
        DockerSource(daemon.path).snapshot()


@pytest.mark.parametrize("make", ["missing", "dead", "too long"])
def test_no_daemon(tmp_path: Path, make: str) -> None:
    path = str(tmp_path / ("x" * 200 if make == "too long" else "docker.sock"))
    if make == "dead":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
    with pytest.raises(NameSourceError) as caught:
        DockerSource(path).snapshot()
    assert "\n" not in str(caught.value)
    assert path[:200] in str(caught.value)
