# SPDX-License-Identifier: Apache-2.0
"""A small client of the Container Runtime Interface, which lets the tests play the kubelet.

It is separate from ktrace's own client, so a mistake there cannot hide in both. The messages are a
table of the fields in use; the numbers are those of `runtime.v1`'s `api.proto` (Debian's
golang-github-kubernetes-cri-api-dev).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from typing_extensions import Self

PACKAGE = "runtime.v1"

# Each field: number, name, type. No type means string; `map` is a map of strings.
MESSAGES: dict[str, str] = {
    "VersionRequest": "",
    "VersionResponse": "2 runtime_name, 3 runtime_version",
    "PodSandboxMetadata": "1 name, 2 uid, 3 namespace, 4 attempt uint32",
    "NamespaceOption": "1 network int32, 2 pid int32, 3 ipc int32",
    "LinuxSandboxSecurityContext": "1 namespace_options NamespaceOption",
    "LinuxPodSandboxConfig": "1 cgroup_parent, 2 security_context LinuxSandboxSecurityContext",
    "PodSandboxConfig": "1 metadata PodSandboxMetadata, 2 hostname, 3 log_directory, 6 labels map,"
    " 7 annotations map, 8 linux LinuxPodSandboxConfig",
    "RunPodSandboxRequest": "1 config PodSandboxConfig, 2 runtime_handler",
    "RunPodSandboxResponse": "1 pod_sandbox_id",
    "StopPodSandboxRequest": "1 pod_sandbox_id",
    "StopPodSandboxResponse": "",
    "RemovePodSandboxRequest": "1 pod_sandbox_id",
    "RemovePodSandboxResponse": "",
    "PodSandboxStatusRequest": "1 pod_sandbox_id, 2 verbose bool",
    "PodSandboxNetworkStatus": "1 ip",
    "PodSandboxStatus": "1 id, 2 metadata PodSandboxMetadata, 3 state int32,"
    " 5 network PodSandboxNetworkStatus, 7 labels map",
    "PodSandboxStatusResponse": "1 status PodSandboxStatus, 2 info map",
    "ListPodSandboxRequest": "",
    "PodSandbox": "1 id, 2 metadata PodSandboxMetadata, 3 state int32, 5 labels map",
    "ListPodSandboxResponse": "1 items repeated PodSandbox",
    "ContainerMetadata": "1 name, 2 attempt uint32",
    "ImageSpec": "1 image",
    "KeyValue": "1 key, 2 value",
    "Mount": "1 container_path, 2 host_path, 3 readonly bool",
    "LinuxContainerResources": "4 memory_limit_in_bytes int64, 5 oom_score_adj int64,"
    " 10 memory_swap_limit_in_bytes int64",
    "LinuxContainerSecurityContext": "3 namespace_options NamespaceOption",
    "LinuxContainerConfig": "1 resources LinuxContainerResources,"
    " 2 security_context LinuxContainerSecurityContext",
    "ContainerConfig": "1 metadata ContainerMetadata, 2 image ImageSpec,"
    " 3 command repeated string, 6 envs repeated KeyValue, 7 mounts repeated Mount,"
    " 9 labels map, 10 annotations map, 11 log_path, 15 linux LinuxContainerConfig",
    "CreateContainerRequest": "1 pod_sandbox_id, 2 config ContainerConfig,"
    " 3 sandbox_config PodSandboxConfig",
    "CreateContainerResponse": "1 container_id",
    "StartContainerRequest": "1 container_id",
    "StartContainerResponse": "",
    "StopContainerRequest": "1 container_id, 2 timeout int64",
    "StopContainerResponse": "",
    "RemoveContainerRequest": "1 container_id",
    "RemoveContainerResponse": "",
    "UpdateContainerResourcesRequest": "1 container_id, 2 linux LinuxContainerResources",
    "UpdateContainerResourcesResponse": "",
    "ContainerStatusRequest": "1 container_id, 2 verbose bool",
    "ContainerStatus": "1 id, 2 metadata ContainerMetadata, 3 state int32, 7 exit_code int32,"
    " 10 reason, 11 message, 12 labels map",
    "ContainerStatusResponse": "1 status ContainerStatus, 2 info map",
    "ListContainersRequest": "",
    "Container": "1 id, 2 pod_sandbox_id, 3 metadata ContainerMetadata, 6 state int32,"
    " 8 labels map",
    "ListContainersResponse": "1 containers repeated Container",
    "ExecSyncRequest": "1 container_id, 2 cmd repeated string, 3 timeout int64",
    "ExecSyncResponse": "1 stdout bytes, 2 stderr bytes, 3 exit_code int32",
    "ListImagesRequest": "",
    "Image": "1 id, 2 repo_tags repeated string",
    "ListImagesResponse": "1 images repeated Image",
}

# NamespaceMode
POD, CONTAINER, NODE = 0, 1, 2

CONTAINER_STATES = ("created", "running", "exited", "unknown")
SANDBOX_STATES = ("ready", "not ready")

# Without the first, gRPC names a unix socket's path as the host, which Go's servers refuse. With
# the others, a runtime that has just begun to listen is reached soon, not after a second.
_CHANNEL_OPTIONS = (
    ("grpc.default_authority", "localhost"),
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 200),
)


class CriError(Exception):
    """The runtime refused a call, or did not answer it."""

    def __init__(self, method: str, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"CRI {method}: {code.name.lower()}: {details}")
        self.code = code


@dataclass(frozen=True)
class Container:
    """A container as the runtime lists it."""

    id: str
    name: str
    sandbox_id: str
    state: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class ContainerStatus:
    """The detailed status of one container. `pid` is its first process, None after its end."""

    id: str
    name: str
    state: str
    exit_code: int
    reason: str
    pid: int | None


@dataclass(frozen=True)
class Sandbox:
    """A pod sandbox as the runtime lists it."""

    id: str
    name: str
    namespace: str
    uid: str
    state: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class SandboxStatus:
    """The detailed status of one sandbox. `ip` is empty when the pod uses the host's network."""

    sandbox: Sandbox
    ip: str
    pid: int | None


@dataclass(frozen=True)
class ExecResult:
    """The result of a command in a container."""

    exit_code: int
    stdout: str
    stderr: str


class CriClient:
    """Calls to one runtime's socket. Every call is bounded by `timeout` seconds."""

    def __init__(self, socket: Path, timeout: float = 60.0) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=_CHANNEL_OPTIONS)
        self._timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def version(self) -> str:
        """The runtime's name and version."""
        answer = self._call("Version")
        return f"{answer.runtime_name} {answer.runtime_version}"

    def run_pod_sandbox(self, config: Any, runtime: str) -> str:
        """Start a sandbox from a PodSandboxConfig and return its id."""
        answer = self._call("RunPodSandbox", config=config, runtime_handler=runtime)
        return str(answer.pod_sandbox_id)

    def stop_pod_sandbox(self, sandbox_id: str) -> None:
        """Kill everything in the pod and take its network away."""
        self._call("StopPodSandbox", pod_sandbox_id=sandbox_id)

    def remove_pod_sandbox(self, sandbox_id: str) -> None:
        self._call("RemovePodSandbox", pod_sandbox_id=sandbox_id)

    def pod_sandbox_status(self, sandbox_id: str) -> SandboxStatus:
        answer = self._call("PodSandboxStatus", pod_sandbox_id=sandbox_id, verbose=True)
        return SandboxStatus(
            sandbox=_sandbox(answer.status), ip=answer.status.network.ip, pid=_pid(answer.info)
        )

    def list_pod_sandboxes(self) -> list[Sandbox]:
        return [_sandbox(item) for item in self._call("ListPodSandbox").items]

    def create_container(self, sandbox_id: str, config: Any, sandbox_config: Any) -> str:
        """Create a container from a ContainerConfig and return its id."""
        answer = self._call(
            "CreateContainer",
            pod_sandbox_id=sandbox_id,
            config=config,
            sandbox_config=sandbox_config,
        )
        return str(answer.container_id)

    def start_container(self, container_id: str) -> None:
        self._call("StartContainer", container_id=container_id)

    def stop_container(self, container_id: str, grace_seconds: int) -> None:
        """SIGTERM, and SIGKILL once the grace period is over."""
        self._call(
            "StopContainer",
            seconds=grace_seconds + self._timeout,
            container_id=container_id,
            timeout=grace_seconds,
        )

    def update_memory_limit(self, container_id: str, memory_limit: int) -> None:
        """Sets one limit for memory and swap together."""
        resources = message(
            "LinuxContainerResources",
            memory_limit_in_bytes=memory_limit,
            memory_swap_limit_in_bytes=memory_limit,
        )
        self._call("UpdateContainerResources", container_id=container_id, linux=resources)

    def remove_container(self, container_id: str) -> None:
        self._call("RemoveContainer", container_id=container_id)

    def container_status(self, container_id: str) -> ContainerStatus:
        answer = self._call("ContainerStatus", container_id=container_id, verbose=True)
        status = answer.status
        return ContainerStatus(
            id=status.id,
            name=status.metadata.name,
            state=CONTAINER_STATES[status.state],
            exit_code=status.exit_code,
            reason=status.reason,
            pid=_pid(answer.info),
        )

    def list_containers(self) -> list[Container]:
        return [
            Container(
                id=item.id,
                name=item.metadata.name,
                sandbox_id=item.pod_sandbox_id,
                state=CONTAINER_STATES[item.state],
                labels=dict(item.labels),
            )
            for item in self._call("ListContainers").containers
        ]

    def exec_sync(self, container_id: str, argv: Iterable[str], timeout: int) -> ExecResult:
        answer = self._call(
            "ExecSync",
            seconds=timeout + self._timeout,
            container_id=container_id,
            cmd=list(argv),
            timeout=timeout,
        )
        return ExecResult(
            exit_code=answer.exit_code,
            stdout=answer.stdout.decode(errors="replace"),
            stderr=answer.stderr.decode(errors="replace"),
        )

    def image_names(self) -> set[str]:
        """All names of the runtime's images."""
        answer = self._call("ListImages", service="ImageService")
        return {name for image in answer.images for name in image.repo_tags}

    def _call(
        self,
        method: str,
        *,
        service: str = "RuntimeService",
        seconds: float | None = None,
        **fields: object,
    ) -> Any:
        answer_class = message_class(method + "Response")
        call = self._channel.unary_unary(
            f"/{PACKAGE}.{service}/{method}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=answer_class.FromString,
        )
        try:
            return call(message(method + "Request", **fields), timeout=seconds or self._timeout)
        except grpc.RpcError as error:
            raise CriError(method, error.code(), error.details() or "") from None


def message(name: str, /, **fields: object) -> Any:
    """A message of the table, with its fields set."""
    return message_class(name)(**fields)


def message_class(name: str) -> Any:
    """The class of one message of the table."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


def _pool(messages: Mapping[str, str]) -> descriptor_pool.DescriptorPool:
    """Compile the table. The pool is private, because ktrace's own client may name the same
    messages."""
    file = descriptor_pb2.FileDescriptorProto(
        name="tests/support/cri.proto", package=PACKAGE, syntax="proto3"
    )
    for name, fields in messages.items():
        declared = file.message_type.add(name=name)
        for row in filter(None, fields.split(",")):
            number, field_name, *kind = row.split()
            _add_field(declared, int(number), field_name, kind or ["string"])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def _add_field(
    declared: descriptor_pb2.DescriptorProto, number: int, name: str, kind: list[str]
) -> None:
    field = declared.field.add(name=name, number=number)
    field.label = field.LABEL_REPEATED if kind[0] in ("repeated", "map") else field.LABEL_OPTIONAL
    if kind[0] == "map":  # on the wire, a repeated message of a key and a value
        entry = declared.nested_type.add(name=name.title().replace("_", "") + "Entry")
        entry.options.map_entry = True
        _add_field(entry, 1, "key", ["string"])
        _add_field(entry, 2, "value", ["string"])
        field.type = field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{declared.name}.{entry.name}"
    elif kind[-1] in _SCALARS:
        field.type = _SCALARS[kind[-1]]
    else:
        field.type = field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{kind[-1]}"


_SCALARS = {
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "uint32": descriptor_pb2.FieldDescriptorProto.TYPE_UINT32,
}

_POOL = _pool(MESSAGES)


def _sandbox(item: Any) -> Sandbox:
    return Sandbox(
        id=item.id,
        name=item.metadata.name,
        namespace=item.metadata.namespace,
        uid=item.metadata.uid,
        state=SANDBOX_STATES[item.state],
        labels=dict(item.labels),
    )


def _pid(info: Mapping[str, str]) -> int | None:
    """The process id in a verbose status, which containerd gives as a JSON text."""
    pid = json.loads(info.get("info", "{}")).get("pid")
    return int(pid) if pid else None
