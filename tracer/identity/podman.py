# SPDX-License-Identifier: Apache-2.0
"""Names from podman: from its API where that is served, else from its file of containers.

Podman has no daemon, and on most nodes its API is not served. The file has names only; the API
knows podman's own pods, too. A rootless user's podman is not asked, because that user could answer
with any name.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tracer.identity.daemon import MAX_ANSWER, ask, checked, not_spoken
from tracer.kernel import limits
from tracer.model.names import Container, Names, NameSourceError, Pod, is_plausible_name

RUNTIME = "podman"
NO_NAMESPACE = ""


class PodmanSource:
    """The containers and pods of one `podman system service`."""

    def __init__(self, socket_path: str, timeout: float = 2.0) -> None:
        self.name = f"podman {socket_path}"
        self._socket_path = socket_path
        self._timeout = timeout

    def snapshot(self) -> Names:
        """Every container that podman has, running or not."""
        path = "/v3.0.0/libpod/containers/json?all=true"
        answer = ask(self._socket_path, path, self._timeout, "podman")
        try:
            return _names(answer)
        except TypeError as error:
            raise not_spoken(self._socket_path, "podman") from error

    def close(self) -> None:
        """Nothing is kept open."""


class PodmanFiles:
    """The containers in podman's storage, without pods. Each storage driver has its own
    directory."""

    def __init__(self, storage: Path) -> None:
        self.name = f"podman {storage}"
        self._storage = storage

    def snapshot(self) -> Names:
        names = Names()
        for path in sorted(self._storage.glob("*-containers/containers.json")):
            try:
                names.containers.update(_stored(json.loads(_read(path))))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise NameSourceError(f"{path}: {limits.reason(error)}") from error
            except (TypeError, ValueError, RecursionError) as error:
                raise NameSourceError(f"{path} is not podman's") from error
        return names

    def close(self) -> None:
        """Nothing is kept open."""


def _names(containers: Any) -> Names:
    names = Names()
    for described in checked(containers, list):
        described = checked(described, dict)
        pod_id = checked(described.get("Pod") or "", str)
        pod_name = checked(described.get("PodName") or "", str)
        if pod_id and is_plausible_name(pod_name):
            names.pods[pod_id] = Pod(pod_id, NO_NAMESPACE, pod_name)
        container_id = checked(described.get("Id"), str)
        given = _first_plausible(described.get("Names"))
        infra = bool(described.get("IsInfra"))
        names.containers[container_id] = Container(
            container_id, RUNTIME, None if infra else given, pod_id or None, _pid(described)
        )
    return names


def _stored(containers: Any) -> Iterator[tuple[str, Container]]:
    for described in checked(containers, list):
        container_id = checked(checked(described, dict).get("id"), str)
        name = _first_plausible(described.get("names"))
        yield container_id, Container(container_id, RUNTIME, name)


def _first_plausible(given: Any) -> str | None:
    every = (checked(name, str) for name in checked(given or [], list))
    return next(filter(is_plausible_name, every), None)


def _pid(described: dict[str, Any]) -> int | None:
    """The pid of the first process; podman gives 0 for a container that does not run."""
    return checked(described.get("Pid") or 0, int) or None


def _read(path: Path) -> bytes:
    """The content of a regular file of bounded size; links are refused."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError
        data = file.read(MAX_ANSWER + 1)
    if len(data) > MAX_ANSWER:
        raise ValueError
    return data
