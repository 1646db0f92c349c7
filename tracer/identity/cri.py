# SPDX-License-Identifier: Apache-2.0
"""Names from the container runtime itself, over the CRI socket that the kubelet uses.

This is the best source: it knows every sandbox with its labels, so that `-l app=web` needs no API
server. It is also the heaviest, so grpc and protobuf are imported when a socket has answered a
plain connect(), and not before.

The few messages that are needed are described in a table. protobuf ignores the fields it was not
told about, and the field numbers are the same in runtime.v1 and runtime.v1alpha2.
"""

import json
import os
import socket
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tracer.identity.states import MAX_CONTAINERS, ContainerState, PodState, one_line
from tracer.kernel import limits
from tracer.model.bounded import keep
from tracer.model.names import (
    Container,
    Names,
    NameSourceError,
    Pod,
    is_plausible_name,
    normalise_uid,
)

if TYPE_CHECKING:
    import grpc

DEFAULT_SOCKETS = (
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",  # k3s and rke2
    "/var/snap/microk8s/common/run/containerd.sock",
    "/run/k0s/containerd.sock",
    "/run/cri-dockerd.sock",
)

# Newest first. v1alpha2 is all that containerd 1.5 and CRI-O 1.22 and older speak.
API_VERSIONS = ("runtime.v1", "runtime.v1alpha2")

MAX_ANSWER = 16 * 1024 * 1024
# Ended containers that are not asked about again.
MAX_ENDED = 1024

# The API server's bounds: a DNS subdomain, a slash and a name; 63 characters of value.
_MAX_LABEL_KEY = 253 + 1 + 63
_MAX_LABEL_VALUE = 63
_KUBERNETES_LABELS = "io.kubernetes."
# Of one pod's labels together; of one that has more they are not known.
MAX_LABELS = 64 << 10

MessageTable = Mapping[str, Mapping[str, tuple[int, str]]]

# message → field → (number, type), from Kubernetes' cri-api, runtime/v1/api.proto.
MESSAGES: MessageTable = {
    "VersionRequest": {"version": (1, "string")},
    "VersionResponse": {"runtime_name": (2, "string"), "runtime_version": (3, "string")},
    "ListPodSandboxRequest": {},
    "ListPodSandboxResponse": {"items": (1, "repeated PodSandbox")},
    "PodSandbox": {
        "id": (1, "string"),
        "metadata": (2, "PodSandboxMetadata"),
        "state": (3, "int32"),
        "created_at": (4, "int64"),
        "labels": (5, "map string string"),
    },
    "PodSandboxMetadata": {"name": (1, "string"), "uid": (2, "string"), "namespace": (3, "string")},
    "ListContainersRequest": {},
    "ListContainersResponse": {"containers": (1, "repeated Container")},
    "Container": {
        "id": (1, "string"),
        "pod_sandbox_id": (2, "string"),
        "metadata": (3, "ContainerMetadata"),
        "state": (6, "int32"),
        "created_at": (7, "int64"),
        "labels": (8, "map string string"),
    },
    "ContainerMetadata": {"name": (1, "string")},
    "ContainerStatusRequest": {"container_id": (1, "string"), "verbose": (2, "bool")},
    "ContainerStatusResponse": {
        "status": (1, "ContainerStatus"),
        "info": (2, "map string string"),
    },
    "ContainerStatus": {
        "finished_at": (6, "int64"),
        "exit_code": (7, "int32"),
        "reason": (10, "string"),
        "message": (11, "string"),
    },
}

# enum PodSandboxState, enum ContainerState
_SANDBOX_READY = 0
_CONTAINER_STATES = ("created", "running", "exited", "unknown")


class CriSource:
    """The pods and containers of one container runtime."""

    def __init__(self, socket_path: str, timeout: float = 2.0) -> None:
        self.name = f"cri {socket_path}"
        self._socket_path = os.path.abspath(socket_path)
        self._timeout = timeout
        # Guards the making and closing of the client; snapshot() and init_pid() may be called
        # from different threads, and grpc itself allows that.
        self._lock = threading.Lock()
        self._client: _Client | None = None
        self._closed = False
        self._runtime: str | None = None
        self._ended: dict[str, ContainerState] = {}

    def snapshot(self) -> Names:
        """Every sandbox and container that the runtime has, running or not."""
        deadline = time.monotonic() + self._timeout
        if self._runtime is None:
            self._runtime = self._ask("Version", deadline).runtime_name[:64].lower() or None
        sandboxes = self._ask("ListPodSandbox", deadline).items
        containers = self._ask("ListContainers", deadline).containers
        return _names(sandboxes, containers, self._runtime)

    def states(self, wanted: Callable[[Pod], bool]) -> list[PodState]:
        """How the wanted pods stand. What ended is asked about one by one, the newest only."""
        deadline = time.monotonic() + self._timeout
        sandboxes = self._ask("ListPodSandbox", deadline).items
        containers = self._ask("ListContainers", deadline).containers
        pods = {uid: pod for uid, pod in _names(sandboxes, (), None).pods.items() if wanted(pod)}
        uids = {sandbox.id: normalise_uid(sandbox.metadata.uid) for sandbox in sandboxes}
        of_pod: dict[str, list[Any]] = {uid: [] for uid in pods}
        for container in sorted(containers, key=lambda one: one.created_at):
            uid = uids.get(container.pod_sandbox_id, "")
            if uid in of_pod and is_plausible_name(container.metadata.name):
                of_pod[uid].append(container)
        ready = {
            uids[sandbox.id]: sandbox.created_at
            for sandbox in sandboxes
            if sandbox.state == _SANDBOX_READY
        }
        return [
            PodState(
                pod,
                ready.get(uid),
                tuple(self._state(one, deadline) for one in of_pod[uid][-MAX_CONTAINERS:]),
            )
            for uid, pod in pods.items()
        ]

    def _state(self, container: Any, deadline: float) -> ContainerState:
        number = container.state
        state = _CONTAINER_STATES[number if number < len(_CONTAINER_STATES) else -1]
        plain = ContainerState(
            container.id, container.metadata.name, state, created_ns=container.created_at
        )
        if state != "exited":
            return plain
        known = self._ended.get(container.id)
        if known is not None:
            return known
        try:
            status = self._ask("ContainerStatus", deadline, container_id=container.id).status
        except _NotFound:  # removed meanwhile
            return plain
        ended = replace(
            plain,
            ended_ns=status.finished_at,
            exit_code=status.exit_code,
            reason=one_line(status.reason),
            message=one_line(status.message),
        )
        keep(self._ended, container.id, ended, MAX_ENDED)
        return ended

    def init_pid(self, container_id: str) -> int | None:
        """The container's first process as the host numbers it; None if the runtime can't tell."""
        deadline = time.monotonic() + self._timeout
        try:
            status = self._ask("ContainerStatus", deadline, container_id=container_id, verbose=True)
        except _NotFound:
            return None
        return _pid_in(status.info.get("info", ""))

    def close(self) -> None:
        """Ends whatever is under way, for good."""
        with self._lock:
            self._closed = True
            if self._client is not None:
                self._client.close()

    def _ask(self, method: str, deadline: float, **fields: object) -> Any:
        with self._lock:
            if self._closed:
                raise NameSourceError(f"no longer asking the runtime at {self._socket_path}")
            if self._client is None:
                _check_that_somebody_listens(self._socket_path, self._timeout)
                self._client = _Client(self._socket_path)
            client = self._client
        remaining = max(0.0, deadline - time.monotonic())
        try:
            return client.call(method, remaining, fields)
        except _NotFound:
            raise
        except NameSourceError as error:
            if isinstance(error, _Unreachable):
                self._forget(client)
            raise NameSourceError(
                f"the container runtime at {self._socket_path} {error}"
            ) from error.__cause__

    def _forget(self, client: "_Client") -> None:
        """Begins anew next time: grpc would wait before it connects again, in a back-off of its
        own, and whoever listens by then may be another runtime.
        """
        with self._lock:
            if self._client is client:
                self._client = None
                self._runtime = None
        client.close()


def build_messages(table: MessageTable, package: str) -> dict[str, Any]:
    """Makes protobuf message classes from a table: message → field → (number, type).

    A type is a scalar (`string`, `bool`, `int32`, …), a message of the same table, `repeated` and
    one of these, or `map` and a key's and a value's type. An enum is an `int32`: on the wire they
    are the same. Each call has a descriptor pool of its own, so tables never collide, not even
    with another copy of the same messages in the process.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto", package=package, syntax="proto3"
    )
    for name, fields in table.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            _add_field(message, f".{package}", field_name, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in table
    }


def import_grpc() -> Any:
    """Imports grpc so that it keeps quiet and leaves forks alone."""
    # grpc reads these once, at its first import. It writes its log to stderr, where only our own
    # one-line errors belong. Its fork handlers stop its threads around every fork(), for children
    # that go on using grpc; ours exec() at once.
    os.environ["GRPC_VERBOSITY"] = "NONE"
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    try:
        with _without("ssl"):
            import grpc
    except ImportError as error:
        raise NameSourceError(
            f"container runtimes cannot be asked: {error}; `pip install grpcio protobuf` mends it"
        ) from error
    return grpc


@contextmanager
def _without(name: str) -> Iterator[None]:
    """A module that is not to be loaded meanwhile. grpc imports asyncio, which takes OpenSSL along
    if it can: four megabytes for what a socket file never needs."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def _add_field(message: Any, package: str, name: str, number: int, kind: str) -> None:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

    field = message.field.add(name=name, number=number, label=Field.LABEL_OPTIONAL)
    words = kind.split()
    if words[0] == "repeated":
        field.label = Field.LABEL_REPEATED
        kind = words[1]
    elif words[0] == "map":
        # On the wire and in a descriptor a map is a repeated message of key and value, named so.
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _add_field(entry, package, "key", 1, words[1])
        _add_field(entry, package, "value", 2, words[2])
        field.label = Field.LABEL_REPEATED
        field.type = Field.TYPE_MESSAGE
        field.type_name = f"{package}.{message.name}.{entry.name}"
        return
    if kind[0].isupper():
        field.type = Field.TYPE_MESSAGE
        field.type_name = f"{package}.{kind}"
    else:
        field.type = Field.Type.Value(f"TYPE_{kind.upper()}")


class _Client:
    """A grpc channel to one runtime. Its errors lack the subject: the socket's path."""

    def __init__(self, socket_path: str) -> None:
        self._grpc = import_grpc()
        self._messages = build_messages(MESSAGES, "runtime.v1")
        self._version = API_VERSIONS[0]
        self._channel: grpc.Channel = self._grpc.insecure_channel(
            "unix:" + urllib.parse.quote(socket_path),
            options=[
                ("grpc.max_receive_message_length", MAX_ANSWER),
                # By default the socket's path becomes the HTTP/2 :authority, percent signs and
                # all, which strict servers refuse: https://github.com/grpc/grpc/issues/38142
                ("grpc.default_authority", "localhost"),
                ("grpc.enable_http_proxy", 0),
                # A new channel to the same socket is to be a new connection, not the shared one
                # that may be resting after a failure.
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )

    def call(self, method: str, timeout: float, fields: Mapping[str, object]) -> Any:
        """One request in the API version that worked last, else in the others."""
        request = self._messages[f"{method}Request"](**fields)
        versions = sorted(API_VERSIONS, key=lambda version: version != self._version)
        for version in versions:
            send = self._channel.unary_unary(
                f"/{version}.RuntimeService/{method}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=self._messages[f"{method}Response"].FromString,
            )
            try:
                answer = send(request, timeout=timeout)
            except self._grpc.RpcError as error:
                if error.code() is not self._grpc.StatusCode.UNIMPLEMENTED:
                    raise self._explained(error, timeout) from error
            except ValueError as error:  # closed meanwhile by another thread
                raise NameSourceError("was left while it answered") from error
            else:
                self._version = version
                return answer
        raise NameSourceError("does not speak CRI (is its CRI plugin disabled?)")

    def close(self) -> None:
        self._channel.close()

    def _explained(self, error: Any, timeout: float) -> NameSourceError:
        code = self._grpc.StatusCode
        if error.code() is code.NOT_FOUND:
            return _NotFound("knows no such container")
        if error.code() is code.DEADLINE_EXCEEDED:
            return NameSourceError("did not answer in time")
        if error.code() is code.UNAVAILABLE:
            return _Unreachable("does not answer (is it running?)")
        if error.code() is code.CANCELLED:
            return NameSourceError("was left while it answered")
        if error.code() is code.RESOURCE_EXHAUSTED:
            return NameSourceError(f"gave an answer larger than {MAX_ANSWER >> 20} MiB")
        return NameSourceError(f"refused: {error.code().name.lower()}: {error.details()}")


class _Unreachable(NameSourceError):
    """There is no connection to the runtime any more."""


class _NotFound(NameSourceError):
    """The runtime answered: there is no such container."""


def _check_that_somebody_listens(path: str, timeout: float) -> None:
    """A plain connect() costs nothing and says precisely why it fails; loading grpc does not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(timeout)
        try:
            probe.connect(path)
        except OSError as error:
            reason = limits.reason(error)
            raise NameSourceError(f"no container runtime at {path}: {reason}") from error


def _names(sandboxes: Iterable[Any], containers: Iterable[Any], runtime: str | None) -> Names:
    names = Names()
    uid_of_sandbox: dict[str, str] = {}
    # A pod whose sandbox was made again has several; the last one carries its present labels.
    for sandbox in sorted(sandboxes, key=lambda one: one.created_at):
        metadata = sandbox.metadata
        if not all(map(is_plausible_name, (metadata.uid, metadata.name, metadata.namespace))):
            continue
        uid = normalise_uid(metadata.uid)
        uid_of_sandbox[sandbox.id] = uid
        names.pods[uid] = Pod(uid, metadata.namespace, metadata.name, _user_labels(sandbox.labels))
        # The sandbox has a process too ("pause"), in a cgroup named after it.
        names.containers[sandbox.id] = Container(sandbox.id, runtime, pod_uid=uid)
    for container in containers:
        if not is_plausible_name(container.metadata.name):
            continue
        pod_uid = uid_of_sandbox.get(container.pod_sandbox_id)
        names.containers[container.id] = Container(
            container.id, runtime, container.metadata.name, pod_uid
        )
    return names


def _user_labels(labels: Mapping[str, str]) -> dict[str, str] | None:
    """Many pods have the same: one text is enough."""
    if sum(len(key) + len(value) for key, value in labels.items()) > MAX_LABELS:
        return None
    return {
        sys.intern(key): sys.intern(value)
        for key, value in labels.items()
        if not key.startswith(_KUBERNETES_LABELS)
        and len(key) <= _MAX_LABEL_KEY
        and len(value) <= _MAX_LABEL_VALUE
    }


def _pid_in(info: str) -> int | None:
    """The pid in the JSON that containerd and CRI-O give with a verbose status."""
    try:
        described = json.loads(info)
    except (ValueError, RecursionError):
        return None
    pid = described.get("pid") if isinstance(described, dict) else None
    return pid if isinstance(pid, int) and not isinstance(pid, bool) and pid > 0 else None
