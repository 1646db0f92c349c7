# SPDX-License-Identifier: Apache-2.0
"""`ktrace why` on incidents in real pods, those of `make truth`: the verdict, how sure it is, and
what it says when there is nothing to say."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containerd import Containerd, ContainerHandle, PodHandle
from tests.support.cri import CriError
from tests.support.incidents import INCIDENTS, SLEEP, Incident, SideBySide, check, handles, mishap
from tests.support.ktrace import Ktrace
from tests.support.ktrace import run as ktrace_once
from tests.support.wait import wait_for


@pytest.fixture(scope="module")
def staged(request: pytest.FixtureRequest) -> Iterator[SideBySide]:
    """Those whose tests were chosen, in the order of the tests."""
    items = (item for item in request.session.items if item.path == request.path)
    params = [item.callspec.params for item in items if hasattr(item, "callspec")]
    chosen = [one for each in params for one in each.values() if isinstance(one, Incident)]
    with (
        Containerd(extra_files={"/mishap": mishap()}) as containerd,
        SideBySide(containerd, chosen) as staged,
    ):
        yield staged


@pytest.mark.parametrize("one", INCIDENTS, ids=lambda one: one.name.replace(" ", "-"))
def test_an_incident(one: Incident, staged: SideBySide) -> None:
    check(one, staged.verdicts(one))


@pytest.mark.parametrize(
    "one", [one for one in INCIDENTS if one.name == "a fault in a function with a name"]
)
def test_the_function_of_a_crash(one: Incident, staged: SideBySide) -> None:
    """By the container's own file, through its root that ktrace holds open."""
    (verdict,) = staged.verdicts(one)
    assert verdict["sentence"].endswith("; in mishap, function touch_nothing()")


def test_nothing_happens(web: PodHandle, cri: tuple[str, str]) -> None:
    web.run("app", SLEEP)
    with Ktrace("why", web.uid, *cri) as ktrace:
        assert ktrace.stop() == []
        assert "nothing happened that needs an explanation" in ktrace.stderr
        assert ktrace.summary.lost == 0


def test_a_pod_that_never_existed(cri: tuple[str, str]) -> None:
    failed = ktrace_once("why", "no-such-pod-anywhere", *cri)
    assert failed.returncode == 5
    assert failed.stdout == ""
    assert "--wait" in failed.stderr


def test_a_pod_without_a_container(web: PodHandle, cri: tuple[str, str]) -> None:
    """As of one whose image or ConfigMap is not there."""
    with Ktrace("why", web.uid, *cri) as ktrace:
        (verdict,) = ktrace.wait()
        assert "web-0 has a sandbox for" in ktrace.stderr
    assert (verdict["verdict"], verdict["certainty"]) == ("no_container", "unknown")
    assert (verdict["pod"]["name"], verdict["container"]) == ("web-0", None)
    assert "kubectl describe pod -n shop web-0 says" in verdict["remedy"]


def test_a_pod_without_a_sandbox(containerd: Containerd, cri: tuple[str, str]) -> None:
    """As of one for which the network plugin fails."""
    with (
        containerd.prepared_pod("lb-0", "shop") as uid,
        Ktrace("why", uid, *cri, "--wait") as ktrace,
    ):
        (verdict,) = ktrace.wait()
    assert (verdict["verdict"], verdict["certainty"]) == ("no_sandbox", "unknown")
    assert "kubectl describe pod -n shop lb-0 says" in verdict["remedy"]


def test_what_the_runtime_says_of_a_start(web: PodHandle, cri: tuple[str, str]) -> None:
    with Ktrace("why", web.uid, *cri) as ktrace:
        with pytest.raises(CriError):
            web.run("app", ["/nonexistent"])
        (verdict,) = ktrace.wait()
    assert verdict["verdict"] == "start_failed"
    assert "; it says: failed to" in verdict["sentence"]
    assert "/nonexistent" in verdict["sentence"]


def test_a_pod_that_has_ended(web: PodHandle, cri: tuple[str, str]) -> None:
    web.run("app", ["sh", "-c", "exit 3"]).wait_exit()
    with Ktrace("why", web.uid, *cri) as ktrace:
        wait_for("the note", lambda: "shop/web-0 runs no container: app ended" in ktrace.stderr)
        assert ktrace.stop() == []
        assert "nothing was seen that needs an explanation, but shop/web-0 runs" in ktrace.stderr


def test_a_pod_that_never_came(cri: tuple[str, str]) -> None:
    with Ktrace("why", "no-such-pod-anywhere", *cri, "--wait") as ktrace:
        assert ktrace.stop() == []
        assert "but no such pod was seen here" in ktrace.stderr


def test_a_deployment_is_followed(containerd: Containerd, cri: tuple[str, str]) -> None:
    """A pod that is replaced is told, and the next one watched."""
    name = f"d{os.getpid()}"
    labels = {"app": name, "pod-template-hash": "67768f46c4"}
    script = ["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"]
    old = containerd.run_pod(f"{name}-67768f46c4-sxdwg", "shop", labels=labels)
    handles_stop(old.run("app", script))
    with (
        Ktrace("why", f"deploy/{name}", *cri) as ktrace,
        Ktrace("why", "-l", f"app={name}", *cri) as by_label,
    ):
        both = (ktrace, by_label)
        assert f"told by name and label, as a node does not know owners: named {name}" in (
            ktrace.stderr
        )
        old.stop()
        wait_for("the first verdict", lambda: all(one.events for one in both))
        old.remove()
        new = containerd.run_pod(f"{name}-67768f46c4-wdn8v", "shop", labels=labels)
        container = new.run("app", SLEEP)
        os.kill(container.pid, signal.SIGKILL)
        told = [one.wait() for one in both]
        new.remove()
    for verdicts in told:
        assert [(one["pod"]["uid"], one["verdict"]) for one in verdicts] == [
            (old.uid, "killed_by_runtime"),
            (new.uid, "killed_from_host"),
        ]


def test_an_end_of_which_the_labels_come_late(containerd: Containerd, tmp_path: Path) -> None:
    """The runtime is silent from before the pod until after its end, as on a busy node."""
    name = f"late{os.getpid()}"
    with Gate(containerd.socket, tmp_path / "gate.sock") as gate:
        with Ktrace("why", "-l", f"app={name}", "--cri-socket", str(gate.path), "--wait") as ktrace:
            gate.shut()
            pod = containerd.run_pod("late-0", "shop", labels={"app": name})
            container = pod.run("app", SLEEP)
            os.kill(container.pid, signal.SIGKILL)
            container.wait_exit()
            given_up = gate.given_up
            wait_for("ktrace to give up twice", lambda: gate.given_up >= given_up + 2)
            assert not ktrace.ended
            gate.open()
            (verdict,) = ktrace.wait()
        pod.remove()
    assert (verdict["pod"]["name"], verdict["verdict"]) == ("late-0", "killed_from_host")


class Gate:
    """Stands before a socket. While it is shut, it takes connections and is silent."""

    def __init__(self, socket_path: Path, path: Path) -> None:
        self.path = path
        self.given_up = 0
        self._behind = socket_path
        self._shut = threading.Event()
        self._server = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Gate:
        self._server.bind(str(self.path))
        self._server.listen()
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def shut(self) -> None:
        self._shut.set()

    def open(self) -> None:
        self._shut.clear()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._pass, args=(connection,), daemon=True).start()

    def _pass(self, front: socket.socket) -> None:
        with front, socket.socket(socket.AF_UNIX) as back, contextlib.suppress(OSError):
            if self._shut.is_set():
                while front.recv(1 << 16):
                    pass
                self.given_up += 1
                return
            back.connect(str(self._behind))
            ends = {front: back, back: front}
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    data = end.recv(1 << 16)
                    if not data:
                        return
                    ends[end].sendall(data)


def test_a_runtime_that_does_not_answer(containerd: Containerd, tmp_path: Path) -> None:
    """A pod that it alone could name is not said to be missing."""
    path = tmp_path / "silent.sock"
    pod = containerd.run_pod("lb-0", "shop")
    pod.log_directory.rename(hidden := tmp_path / "logs")
    try:
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(path))
            silent.listen()
            with Ktrace("why", "nobody/lb-0", "--cri-socket", str(path)) as ktrace:
                assert ktrace.stderr.startswith("ktrace: names and labels may be missing: cri ")
                assert "did not answer" in ktrace.stderr
                assert "'nobody/lb-0' may be one of the pods here" in ktrace.stderr
                ktrace.stop()
    finally:
        hidden.rename(pod.log_directory)
        pod.remove()


def handles_stop(container: ContainerHandle) -> None:
    wait_for("the handler", lambda: handles(container, signal.SIGTERM))


def test_the_text(web: PodHandle, cri: tuple[str, str]) -> None:
    with Ktrace("why", web.uid, *cri, output="text") as ktrace:
        container = web.run("app", ["sh", "-c", "exit 3"])
        assert ktrace.exit_code() == 0
        lines = ktrace.output.decode().splitlines()
    assert container.wait_exit() == 3
    assert lines[0].startswith("shop/web-0 app: ended by itself: sh[")
    assert lines[0].endswith("called exit(3)")
    assert lines[1] == "  certain: the kernel said so"
    assert any(line.startswith("  do: ") for line in lines)
