# SPDX-License-Identifier: Apache-2.0
"""The CRI client against a grpc server in this process."""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from tracer.identity import cri
from tracer.identity.cri import CriSource, build_messages
from tracer.model.names import Container, Names, NameSourceError, Pod

# What a runtime sends, with more than the client was told about.
SENT = build_messages(
    {
        **cri.MESSAGES,
        "PodSandbox": {
            **cri.MESSAGES["PodSandbox"],
            "annotations": (6, "map string string"),
        },
    },
    "runtime.sent",
)
UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
SANDBOX, CID = "a" * 64, "b" * 64


class Runtime:
    """A container runtime as far as a client can see it."""

    def __init__(self, socket_path: Path, version: str = "runtime.v1") -> None:
        self.path = str(socket_path)
        self.calls: list[str] = []
        self.name = "containerd"
        self.sandboxes: list[Any] = []
        self.containers: list[Any] = []
        self.ends: dict[str, dict[str, Any]] = {}
        self.before: Callable[[], object] = lambda: None
        self._server = grpc.server(
            ThreadPoolExecutor(2),
            options=[("grpc.max_send_message_length", -1)],
        )
        for known in ("runtime.v1", "runtime.v1alpha2"):
            self._server.add_generic_rpc_handlers((self._handler(known, known == version),))
        self._server.add_insecure_port(f"unix:{self.path}")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(grace=0).wait(60)

    def _handler(self, version: str, is_spoken: bool) -> Any:
        def serve(method: str) -> Any:
            def answer(request: Any, context: Any) -> Any:
                self.calls.append(f"{version} {method}")
                if not is_spoken:
                    context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown service")
                self.before()
                return getattr(self, f"_{method}")(request, context)

            return grpc.unary_unary_rpc_method_handler(
                answer,
                request_deserializer=SENT[f"{method}Request"].FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )

        methods = ("Version", "ListPodSandbox", "ListContainers", "ContainerStatus")
        return grpc.method_handlers_generic_handler(
            f"{version}.RuntimeService", {method: serve(method) for method in methods}
        )

    def _Version(self, request: Any, context: Any) -> Any:
        return SENT["VersionResponse"](runtime_name=self.name, runtime_version="1.6.20")

    def _ListPodSandbox(self, request: Any, context: Any) -> Any:
        return SENT["ListPodSandboxResponse"](items=self.sandboxes)

    def _ListContainers(self, request: Any, context: Any) -> Any:
        return SENT["ListContainersResponse"](containers=self.containers)

    def _ContainerStatus(self, request: Any, context: Any) -> Any:
        if request.container_id in self.ends:
            return SENT["ContainerStatusResponse"](status=self.ends[request.container_id])
        context.abort(grpc.StatusCode.NOT_FOUND, f"no container {request.container_id}")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Runtime]]:
    running: list[Runtime] = []

    def start(version: str = "runtime.v1", name: str = "cri.sock") -> Runtime:
        running.append(Runtime(tmp_path / name, version))
        return running[-1]

    yield start
    for runtime in running:
        runtime.stop()


@pytest.fixture
def runtime(start: Callable[..., Runtime]) -> Runtime:
    return start()


@pytest.fixture
def source(runtime: Runtime) -> Iterator[CriSource]:
    source = CriSource(runtime.path, timeout=60)
    yield source
    source.close()


def sandbox(
    sandbox_id: str = SANDBOX,
    uid: str = UID,
    name: str = "web-0",
    labels: dict[str, str] | None = None,
    created_at: int = 1,
    state: int = 1,
) -> Any:
    return SENT["PodSandbox"](
        id=sandbox_id,
        metadata={"name": name, "uid": uid, "namespace": "default"},
        created_at=created_at,
        state=state,
        labels=labels or {},
        annotations={"kubernetes.io/config.seen": "2024-01-01"},
    )


def container(
    container_id: str = CID, name: str = "nginx", sandbox_id: str = SANDBOX, **more: Any
) -> Any:
    return SENT["Container"](
        **more,
        id=container_id,
        pod_sandbox_id=sandbox_id,
        metadata={"name": name},
        labels={"io.kubernetes.container.name": name},
    )


def test_names_and_labels(runtime: Runtime, source: CriSource) -> None:
    labels = {"app": "web", "io.kubernetes.pod.name": "web-0", "empty": ""}
    runtime.sandboxes = [sandbox(labels=labels)]
    runtime.containers = [container()]
    assert source.snapshot() == Names(
        {UID: Pod(UID, "default", "web-0", {"app": "web", "empty": ""})},
        {
            SANDBOX: Container(SANDBOX, "containerd", None, UID),
            CID: Container(CID, "containerd", "nginx", UID),
        },
    )


def test_idle_runtime_knows_nothing(source: CriSource) -> None:
    assert source.snapshot() == Names()


def test_runtime_is_asked_for_its_name_once(runtime: Runtime, source: CriSource) -> None:
    runtime.name = "cri-o"
    runtime.containers = [container()]
    for _ in range(3):
        assert source.snapshot().containers[CID].runtime == "cri-o"
    assert runtime.calls.count("runtime.v1 Version") == 1
    assert runtime.calls.count("runtime.v1 ListContainers") == 3


def test_pod_without_labels_has_none_of_them(runtime: Runtime, source: CriSource) -> None:
    runtime.sandboxes = [sandbox()]
    # Not None, which would mean that the labels are unknown.
    assert source.snapshot().pods[UID].labels == {}


def test_last_of_several_sandboxes_counts(runtime: Runtime, source: CriSource) -> None:
    new = sandbox("n" * 64, labels={"version": "new"}, created_at=2)
    runtime.sandboxes = [new, sandbox(labels={"version": "old"})]
    runtime.containers = [container(), container("c" * 64, sandbox_id="n" * 64)]
    names = source.snapshot()
    assert names.pods[UID].labels == {"version": "new"}
    assert {one.pod_uid for one in names.containers.values()} == {UID}


def test_container_without_its_sandbox(runtime: Runtime, source: CriSource) -> None:
    runtime.containers = [container()]
    assert source.snapshot().containers == {CID: Container(CID, "containerd", "nginx", None)}


def test_names_that_kubernetes_would_refuse(runtime: Runtime, source: CriSource) -> None:
    runtime.sandboxes = [
        sandbox("1" * 64, "u1", name="x" * 254),
        sandbox("2" * 64, "u2", name=""),
        sandbox("3" * 64, "u" * 254),
        sandbox("4" * 64, ""),
        sandbox("5" * 64, "u5", labels={"k" * 400: "v", "key": "v" * 64, "app": "web"}),
        sandbox("6" * 64, "u6", name="x" * 253),
    ]
    runtime.containers = [container("7" * 64, name="c" * 254), container("8" * 64, name="")]
    names = source.snapshot()
    assert names.pods.keys() == {"u5", "u6"}
    assert names.pods["u5"].labels == {"app": "web"}
    assert names.containers.keys() == {"5" * 64, "6" * 64}


def test_older_api(start: Callable[..., Runtime]) -> None:
    runtime = start("runtime.v1alpha2")
    runtime.sandboxes = [sandbox()]
    source = CriSource(runtime.path, timeout=60)
    for _ in range(2):
        assert source.snapshot().pods.keys() == {UID}
    source.close()
    # Remembered: the newer one is tried only once.
    assert [call for call in runtime.calls if call.startswith("runtime.v1 ")] == [
        "runtime.v1 Version"
    ]


def test_runtime_that_speaks_neither(start: Callable[..., Runtime]) -> None:
    source = CriSource(start("runtime.v2").path, timeout=60)
    with pytest.raises(NameSourceError, match="does not speak CRI"):
        source.snapshot()
    source.close()


@pytest.mark.parametrize("make", ["missing", "dead", "file", "too long"])
def test_nobody_listens(tmp_path: Path, make: str) -> None:
    path = tmp_path / ("x" * 200 if make == "too long" else "cri.sock")
    if make == "dead":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif make == "file":
        path.touch()
    with pytest.raises(NameSourceError, match=f"no container runtime at {tmp_path}") as caught:
        CriSource(str(path)).snapshot()
    assert "\n" not in str(caught.value)


def test_slow_runtime(runtime: Runtime) -> None:
    leave = threading.Event()
    runtime.before = lambda: leave.wait(120)
    source = CriSource(runtime.path, timeout=0.1)
    with pytest.raises(NameSourceError, match="did not answer in time"):
        source.snapshot()
    leave.set()
    source.close()


def test_close_ends_what_is_under_way(runtime: Runtime) -> None:
    asked, leave = threading.Event(), threading.Event()

    def hang() -> None:
        asked.set()
        leave.wait(120)

    runtime.before = hang
    source = CriSource(runtime.path, timeout=120)
    caught: list[Exception] = []

    def ask() -> None:
        try:
            source.snapshot()
        except NameSourceError as error:
            caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert asked.wait(60)
    source.close()
    thread.join(60)
    assert not thread.is_alive()
    assert len(caught) == 1
    leave.set()
    with pytest.raises(NameSourceError):
        source.snapshot()


def test_runtime_that_accepts_nobody(tmp_path: Path) -> None:
    """As one that is stopped: the kernel lets a few wait."""
    path = str(tmp_path / "cri.sock")
    with socket.socket(socket.AF_UNIX) as server, ExitStack() as waiting:
        server.bind(path)
        server.listen(0)
        for _ in range(2):
            with pytest.raises(NameSourceError, match="did not answer in time"):
                CriSource(path, timeout=0.1).snapshot()
            connection = waiting.enter_context(socket.socket(socket.AF_UNIX))
            connection.setblocking(False)
            with suppress(BlockingIOError):
                connection.connect(path)


def test_runtime_that_sends_other_messages(
    runtime: Runtime, source: CriSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = SimpleNamespace(SerializeToString=lambda: b"\x0a\xff")
    monkeypatch.setattr(runtime, "_ListPodSandbox", lambda request, context: half)
    with pytest.raises(NameSourceError, match="gave an answer that is none of CRI's"):
        source.snapshot()


def test_huge_answer(runtime: Runtime, source: CriSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cri, "MAX_ANSWER", 1 << 20)
    runtime.sandboxes = [sandbox(labels={"huge": "x" * (1 << 21)})]
    with pytest.raises(NameSourceError, match="larger than 1 MiB"):
        source.snapshot()


def test_answer_larger_than_grpcs_own_limit(runtime: Runtime, source: CriSource) -> None:
    runtime.sandboxes = [sandbox(labels={"big": "x" * (5 << 20)})]
    assert source.snapshot().pods.keys() == {UID}


def test_runtime_that_fails(runtime: Runtime, source: CriSource) -> None:
    def fail() -> None:
        raise RuntimeError("first line\nsecond line")

    runtime.before = fail
    with pytest.raises(NameSourceError, match="refused: unknown") as caught:
        source.snapshot()
    assert "\n" not in str(caught.value)


def test_runtime_that_restarts(start: Callable[..., Runtime]) -> None:
    first = start()
    source = CriSource(first.path, timeout=60)
    source.snapshot()
    first.stop()
    with pytest.raises(NameSourceError, match="no container runtime at"):
        source.snapshot()
    second = start()
    second.name = "cri-o"
    second.sandboxes = [sandbox()]
    assert source.snapshot().containers == {SANDBOX: Container(SANDBOX, "cri-o", None, UID)}
    source.close()


def test_path_with_odd_characters(start: Callable[..., Runtime], tmp_path: Path) -> None:
    runtime = start(name="plain.sock")
    runtime.sandboxes = [sandbox()]
    odd = tmp_path / "a %41?#b.sock"
    odd.symlink_to(runtime.path)
    source = CriSource(str(odd), timeout=60)
    assert source.snapshot().pods.keys() == {UID}
    source.close()


def test_messages_are_wire_compatible_whatever_the_package() -> None:
    table: cri.MessageTable = {
        "Outer": {
            "inner": (1, "Inner"),
            "many": (2, "repeated Inner"),
            "words": (3, "repeated string"),
            "by_name": (16, "map string Inner"),
        },
        "Inner": {"on": (1, "bool"), "size": (2, "int64"), "raw": (3, "bytes")},
    }
    one, other = build_messages(table, "one.v1"), build_messages(table, "one.v2")
    message = one["Outer"](inner={"on": True, "size": -5}, many=[{"raw": b"x"}], words=["a", "b"])
    message.by_name["k"].size = 7
    assert other["Outer"].FromString(message.SerializeToString()).by_name["k"].size == 7
    # By the encoding's rules: field 1, length-delimited, a message with field 1 = varint 1.
    assert one["Outer"](inner={"on": True}).SerializeToString() == b"\x0a\x02\x08\x01"
    assert one["Outer"](words=["a"]).SerializeToString() == b"\x1a\x01a"


def run_python(program: str, *arguments: str, **environment: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": ":".join(sys.path), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


ASK = """
import sys
from tracer.identity.cri import CriSource, NameSourceError
try:
    print(len(CriSource(sys.argv[1], timeout=60).snapshot().pods))
except NameSourceError:
    print("nobody")
print(*sorted({name.split(".")[0] for name in sys.modules} & set(sys.argv[2:])))
"""


def test_nothing_heavy_is_loaded_for_a_dead_socket(tmp_path: Path) -> None:
    asked = run_python(ASK, str(tmp_path / "none.sock"), "grpc", "google", "h2")
    assert asked == ("nobody\n\n", "")


def test_grpcs_own_library_is_not_needed(runtime: Runtime) -> None:
    """It takes ten megabytes. Nor is OpenSSL, which takes four."""
    runtime.sandboxes = [sandbox()]
    asked = run_python(ASK, runtime.path, "grpc", "google", "h2", "asyncio", "ssl", "_ssl")
    assert asked == ("1\ngoogle h2\n", "")


def everything(pod: Pod) -> bool:
    return True


def test_states(runtime: Runtime, source: CriSource) -> None:
    runtime.sandboxes = [sandbox(), sandbox("n" * 64, created_at=7, state=0)]
    runtime.containers = [
        container("2" * 64, "app", "n" * 64, state=1, created_at=20),
        container("1" * 64, "app", "n" * 64, state=2, created_at=10),
        container("3" * 64, "side", "n" * 64, state=0, created_at=30),
        container("4" * 64, "odd", "n" * 64, state=9, created_at=40),
    ]
    long = "no such\nfile " * 100
    runtime.ends["1" * 64] = {
        "finished_at": 15,
        "exit_code": 128,
        "reason": "StartError",
        "message": long,
    }
    (state,) = source.states(everything)
    assert (state.pod.name, state.ready_ns, state.running) == ("web-0", 7, True)
    assert [(one.name, one.state, one.created_ns) for one in state.containers] == [
        ("app", "exited", 10),
        ("app", "running", 20),
        ("side", "created", 30),
        ("odd", "unknown", 40),
    ]
    first = state.containers[0]
    assert (first.ended_ns, first.exit_code, first.reason) == (15, 128, "StartError")
    assert first.message.startswith("no such file no such file") and len(first.message) == 300
    assert [one.state for one in state.newest()] == ["running", "created", "unknown"]


def test_states_of_an_end_are_asked_once(runtime: Runtime, source: CriSource) -> None:
    runtime.sandboxes = [sandbox(state=0)]
    runtime.containers = [container(state=2)]
    runtime.ends[CID] = {"exit_code": 1}
    assert source.states(everything) == source.states(everything)
    assert runtime.calls.count("runtime.v1 ContainerStatus") == 1


def test_states_of_what_was_removed_meanwhile(runtime: Runtime, source: CriSource) -> None:
    runtime.sandboxes = [sandbox()]
    runtime.containers = [container(state=2)]
    (state,) = source.states(everything)
    assert state.ready_ns is None
    assert state.containers[0].exit_code is None


def test_states_are_of_the_wanted(runtime: Runtime, source: CriSource) -> None:
    runtime.sandboxes = [sandbox(), sandbox("2" * 64, "other", name="db-0")]
    runtime.containers = [container(), container("c" * 64, "db", "2" * 64)]
    (state,) = source.states(lambda pod: pod.name == "db-0")
    assert [one.id for one in state.containers] == ["c" * 64]


def test_states_are_bounded(
    runtime: Runtime, source: CriSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cri, "MAX_CONTAINERS", 3)
    runtime.sandboxes = [sandbox()]
    runtime.containers = [container(f"{n:064}", state=1, created_at=n) for n in range(9)]
    (state,) = source.states(everything)
    assert [one.created_ns for one in state.containers] == [6, 7, 8]
