# SPDX-License-Identifier: Apache-2.0
"""Names from Docker's API: containers of cri-dockerd and dockershim, and plain ones.

The kubelet's shim writes pod and container names into a Docker container's labels and again into
its name. A plain container may carry such labels too, because its image brought them; its name
is chosen by whoever starts it. So the labels only count when the name agrees.
"""

import http.client
import json
import socket
import time
from typing import Any, TypeVar

from tracer.identity.model import (
    Container,
    Names,
    NameSourceError,
    Pod,
    is_plausible_name,
    normalise_uid,
)

MAX_ANSWER = 16 * 1024 * 1024
_CHUNK = 64 * 1024

_LABEL_UID = "io.kubernetes.pod.uid"
_LABEL_NAMESPACE = "io.kubernetes.pod.namespace"
_LABEL_POD = "io.kubernetes.pod.name"
_LABEL_CONTAINER = "io.kubernetes.container.name"
# What the shim calls the container that is a pod's sandbox.
_SANDBOX = "POD"


class DockerSource:
    """The containers of one Docker daemon."""

    def __init__(self, socket_path: str, timeout: float = 2.0) -> None:
        self.name = f"docker {socket_path}"
        self._socket_path = socket_path
        self._timeout = timeout

    def snapshot(self) -> Names:
        """Every container that Docker has, running or not."""
        try:
            return _names(json.loads(self._get("/containers/json?all=1")))
        except OSError as error:
            reason = error.strerror or "it did not answer in time"
            raise NameSourceError(f"no Docker at {self._socket_path}: {reason}") from error
        except (http.client.HTTPException, TypeError, ValueError, RecursionError) as error:
            raise NameSourceError(f"{self._socket_path} does not speak Docker's API") from error

    def close(self) -> None:
        """Nothing is kept open."""

    def _get(self, path: str) -> bytes:
        deadline = time.monotonic() + self._timeout
        connection = _UnixConnection(self._socket_path, self._timeout)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise NameSourceError(f"Docker at {self._socket_path} answered {response.status}")
            body = bytearray()
            # The socket's timeout starts again with every byte: a deadline is needed as well.
            while chunk := response.read1(_CHUNK):
                body += chunk
                if len(body) > MAX_ANSWER:
                    limit = f"{MAX_ANSWER >> 20} MiB"
                    raise NameSourceError(f"Docker's answer is larger than {limit}")
                if time.monotonic() > deadline:
                    raise TimeoutError
            return bytes(body)
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, socket_path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._socket_path = socket_path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._socket_path)


def _names(containers: Any) -> Names:
    """Raises a TypeError where Docker's answer has another shape than its API promises."""
    names = Names()
    for described in _checked(containers, list):
        container_id = _checked(_checked(described, dict).get("Id"), str)
        # Docker's names begin with a slash.
        given = [
            _checked(name, str).removeprefix("/")
            for name in _checked(described.get("Names") or [], list)
        ]
        labels = _checked(described.get("Labels") or {}, dict)
        pod = _pod(labels, given)
        if pod is None:
            # A linked container's further names have its peer's in front.
            own = [name for name in given if "/" not in name and is_plausible_name(name)]
            name = own[0] if own else None
        else:
            names.pods[pod.uid] = pod
            name = labels.get(_LABEL_CONTAINER)
            if name == _SANDBOX or not isinstance(name, str) or not is_plausible_name(name):
                name = None
        names.containers[container_id] = Container(
            container_id, "docker", name, pod.uid if pod else None
        )
    return names


def _pod(labels: dict[str, object], given: list[str]) -> Pod | None:
    """The pod in the labels if one of the container's names, k8s_<…>_<uid>_<attempt>, agrees."""
    uid, namespace, name = map(labels.get, (_LABEL_UID, _LABEL_NAMESPACE, _LABEL_POD))
    if not (isinstance(uid, str) and isinstance(namespace, str) and isinstance(name, str)):
        return None
    if not all(map(is_plausible_name, (uid, namespace, name))):
        return None
    expected = f"_{name}_{namespace}_{uid}_"
    if not any(one.startswith("k8s_") and expected in one for one in given):
        return None
    return Pod(normalise_uid(uid), namespace, name)


_Kind = TypeVar("_Kind")


def _checked(value: object, kind: type[_Kind]) -> _Kind:
    if not isinstance(value, kind):
        raise TypeError
    return value
