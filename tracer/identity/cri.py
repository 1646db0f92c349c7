# SPDX-License-Identifier: Apache-2.0
"""Names from the container runtime itself, over the CRI socket that the kubelet uses.

This is the best source: it knows every sandbox with its labels, so `-l app=web` needs no API
server. It is also the heaviest, so h2 and protobuf are only imported once a socket answers.

A table describes the few messages that are needed. protobuf ignores unknown fields, and the field
numbers are the same in runtime.v1 and runtime.v1alpha2.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from typing import Any, Protocol

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

DEFAULT_SOCKETS = (
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",  # k3s and rke2
    "/var/snap/microk8s/common/run/containerd.sock",
    "/run/k0s/containerd.sock",
    "/run/cri-dockerd.sock",
)

# Newest first. containerd 1.5, CRI-O 1.22 and older only speak v1alpha2.
API_VERSIONS = ("runtime.v1", "runtime.v1alpha2")

MAX_ANSWER = 16 * 1024 * 1024
# Bound of the ended containers whose state is cached.
MAX_ENDED = 1024

# The API server's bounds: a DNS subdomain, a slash and a name; 63 characters of value.
_MAX_LABEL_KEY = 253 + 1 + 63
_MAX_LABEL_VALUE = 63
_KUBERNETES_LABELS = "io.kubernetes."
# Bytes of one pod's labels together; above that the labels count as unknown.
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
    "ContainerStatusRequest": {"container_id": (1, "string")},
    "ContainerStatusResponse": {"status": (1, "ContainerStatus")},
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


class _Ask(Protocol):
    def __call__(self, method: str, **fields: object) -> Any: ...


class CriSource:
    """The pods and containers of one container runtime."""

    def __init__(self, socket_path: str, timeout: float = 2.0) -> None:
        self.name = f"cri {socket_path}"
        self._socket_path = os.path.abspath(socket_path)
        self._timeout = timeout
        # Guards `_open`: snapshot(), states() and close() are called from different threads.
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False
        self._version = API_VERSIONS[0]
        self._runtime: str | None = None
        self._ended: dict[str, ContainerState] = {}

    def snapshot(self) -> Names:
        """Every sandbox and container that the runtime has, running or not."""
        with self._asking() as ask:
            if self._runtime is None:
                self._runtime = ask("Version").runtime_name[:64].lower() or None
            sandboxes = ask("ListPodSandbox").items
            containers = ask("ListContainers").containers
            return _names(sandboxes, containers, self._runtime)

    def states(self, wanted: Callable[[Pod], bool]) -> list[PodState]:
        """The states of the wanted pods. Of ended containers only the newest are asked about."""
        with self._asking() as ask:
            return self._states(wanted, ask)

    def _states(self, wanted: Callable[[Pod], bool], ask: _Ask) -> list[PodState]:
        sandboxes = ask("ListPodSandbox").items
        containers = ask("ListContainers").containers
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
                tuple(self._state(one, ask) for one in of_pod[uid][-MAX_CONTAINERS:]),
            )
            for uid, pod in pods.items()
        ]

    def _state(self, container: Any, ask: _Ask) -> ContainerState:
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
            status = ask("ContainerStatus", container_id=container.id).status
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

    def close(self) -> None:
        """Ends running questions, and refuses new ones."""
        with self._lock:
            self._closed = True
            for connection in self._open:
                with suppress(OSError):  # it is not connected yet
                    connection.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def _asking(self) -> Iterator[_Ask]:
        """For questions that share one deadline, on a connection of their own. An idle connection
        would need care, and another runtime may have taken the socket meanwhile."""
        deadline = time.monotonic() + self._timeout
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            with self._lock:
                if self._closed:
                    raise NameSourceError(f"no longer asking the runtime at {self._socket_path}")
                self._open.add(connection)
            try:
                _connect(connection, self._socket_path, self._timeout)
                yield self._questions(connection, deadline)
            except NameSourceError:
                self._runtime = None
                raise
            finally:
                with self._lock:
                    self._open.discard(connection)

    def _questions(self, connected: socket.socket, deadline: float) -> _Ask:
        from tracer.identity.rpc import Code, Connection, Refused, RpcError

        connection = Connection(connected, MAX_ANSWER)

        def ask(method: str, **fields: object) -> Any:
            request = _messages()[f"{method}Request"](**fields).SerializeToString()
            # The API version that worked last comes first.
            for version in sorted(API_VERSIONS, key=lambda version: version != self._version):
                path = f"/{version}.RuntimeService/{method}"
                try:
                    answer = connection.call(path, request, deadline)
                except Refused as refused:
                    if refused.code is Code.NOT_FOUND:
                        raise _NotFound(str(self._problem("knows no such container"))) from refused
                    if refused.code is not Code.UNIMPLEMENTED:
                        raise self._problem(str(refused)) from refused
                except RpcError as error:
                    raise self._problem(str(error)) from error
                else:
                    self._version = version
                    return self._parsed(method, answer)
            raise self._problem("does not speak CRI (is its CRI plugin disabled?)")

        return ask

    def _parsed(self, method: str, answer: bytes) -> Any:
        from google.protobuf.message import DecodeError

        try:
            return _messages()[f"{method}Response"].FromString(answer)
        except DecodeError as error:
            raise self._problem("gave an answer that is none of CRI's") from error

    def _problem(self, words: str) -> NameSourceError:
        if self._closed:
            words = "was left while it answered"
        return NameSourceError(f"the container runtime at {self._socket_path} {words}")


@cache
def _messages() -> dict[str, Any]:
    return build_messages(MESSAGES, "runtime.v1")


def build_messages(table: MessageTable, package: str) -> dict[str, Any]:
    """Makes protobuf message classes from a table: message → field → (number, type).

    A type is a scalar (`string`, `bool`, `int32`, …), a message of the same table, `repeated` with
    one of these, or `map` with the types of key and value. An enum is an `int32`, as on the wire.
    Each call has a descriptor pool of its own, so tables never collide, not even with another copy
    of the same messages in the process.
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


def _add_field(message: Any, package: str, name: str, number: int, kind: str) -> None:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

    field = message.field.add(name=name, number=number, label=Field.LABEL_OPTIONAL)
    words = kind.split()
    if words[0] == "repeated":
        field.label = Field.LABEL_REPEATED
        kind = words[1]
    elif words[0] == "map":
        # On the wire and in a descriptor, a map is a repeated message of key and value.
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


class _NotFound(NameSourceError):
    """The runtime answered: there is no such container."""


def _connect(connection: socket.socket, path: str, timeout: float) -> None:
    """Connects, and waits in the kernel if the runtime's accept queue is full."""
    seconds, rest = divmod(timeout, 1)
    patience = struct.pack("ll", int(seconds), int(rest * 1e6))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
    try:
        connection.connect(path)
    except BlockingIOError as error:
        raise NameSourceError(f"the container runtime at {path} did not answer in time") from error
    except OSError as error:
        reason = limits.reason(error)
        raise NameSourceError(f"no container runtime at {path}: {reason}") from error


def _names(sandboxes: Iterable[Any], containers: Iterable[Any], runtime: str | None) -> Names:
    names = Names()
    uid_of_sandbox: dict[str, str] = {}
    # A pod may have several sandboxes, one after the other; the last one has its present labels.
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
    """The labels with interned texts, because many pods have the same."""
    if sum(len(key) + len(value) for key, value in labels.items()) > MAX_LABELS:
        return None
    return {
        sys.intern(key): sys.intern(value)
        for key, value in labels.items()
        if not key.startswith(_KUBERNETES_LABELS)
        and len(key) <= _MAX_LABEL_KEY
        and len(value) <= _MAX_LABEL_VALUE
    }
