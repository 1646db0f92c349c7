# SPDX-License-Identifier: Apache-2.0
"""Names from Docker's API: containers of cri-dockerd and dockershim, and plain ones.

The kubelet's shim writes pod and container names into a Docker container's labels and again into
its name. A plain container may have such labels too, from its image, but its starter chooses its
name. So the labels only count if the name agrees.
"""

from typing import Any

from tracer.identity.daemon import ask, checked, not_spoken
from tracer.model.names import Container, Names, Pod, is_plausible_name, normalise_uid

_LABEL_UID = "io.kubernetes.pod.uid"
_LABEL_NAMESPACE = "io.kubernetes.pod.namespace"
_LABEL_POD = "io.kubernetes.pod.name"
_LABEL_CONTAINER = "io.kubernetes.container.name"
# The shim's container name for a pod's sandbox.
_SANDBOX = "POD"


class DockerSource:
    """The containers of one Docker daemon."""

    def __init__(self, socket_path: str, timeout: float = 2.0) -> None:
        self.name = f"docker {socket_path}"
        self._socket_path = socket_path
        self._timeout = timeout

    def snapshot(self) -> Names:
        """Every container that Docker has, running or not."""
        answer = ask(self._socket_path, "/containers/json?all=1", self._timeout, "Docker")
        try:
            return _names(answer)
        except TypeError as error:
            raise not_spoken(self._socket_path, "Docker") from error

    def close(self) -> None:
        """Nothing is kept open."""


def _names(containers: Any) -> Names:
    names = Names()
    for described in checked(containers, list):
        container_id = checked(checked(described, dict).get("Id"), str)
        # Docker's names begin with a slash.
        given = [
            checked(name, str).removeprefix("/")
            for name in checked(described.get("Names") or [], list)
        ]
        labels = checked(described.get("Labels") or {}, dict)
        pod = _pod(labels, given)
        if pod is None:
            # Further names of a linked container begin with its peer's name.
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
    """The pod in the labels, if one of the container's names, k8s_<…>_<uid>_<attempt>, agrees."""
    uid, namespace, name = map(labels.get, (_LABEL_UID, _LABEL_NAMESPACE, _LABEL_POD))
    if not (isinstance(uid, str) and isinstance(namespace, str) and isinstance(name, str)):
        return None
    if not all(map(is_plausible_name, (uid, namespace, name))):
        return None
    expected = f"_{name}_{namespace}_{uid}_"
    if not any(one.startswith("k8s_") and expected in one for one in given):
        return None
    return Pod(normalise_uid(uid), namespace, name)
