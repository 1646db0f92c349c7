# SPDX-License-Identifier: Apache-2.0
"""Names of pods and containers, whichever source they come from.

A field that a source does not know is None. Sources are merged field by field, so a source must
leave such a field out instead of guessing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

MAX_NAME = 253


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of Kubernetes or podman. A podman pod has an empty namespace, and podman's id as its
    uid. `labels` are the user's own, without the kubelet's."""

    uid: str
    namespace: str | None = None
    name: str | None = None
    # A dict cannot be hashed; two pods with equal labels still compare equal.
    labels: Mapping[str, str] | None = field(default=None, hash=False)

    @property
    def title(self) -> str:
        """`namespace/name`, or the known part of it, or the uid."""
        if self.name is None:
            return self.uid
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Container:
    """A container. A pod's sandbox ("pause") is one without a name.

    `init_pid` is the container's first process as the host numbers it.
    """

    id: str
    runtime: str | None = None
    name: str | None = None
    pod_uid: str | None = None
    init_pid: int | None = None

    @property
    def is_sandbox(self) -> bool:
        """Its runtime knows its pod and has no name for it."""
        return self.name is None and self.pod_uid is not None


@dataclass(frozen=True, slots=True)
class Names:
    """A source's knowledge at one moment: pods by normalised uid, containers by id."""

    pods: dict[str, Pod] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)


class NameSource(Protocol):
    """A source of names. `ktrace doctor` shows its `name`."""

    @property
    def name(self) -> str: ...

    def snapshot(self) -> Names:
        """All names known now. Raises NameSourceError if the source cannot answer."""
        ...

    def close(self) -> None: ...


class NameSourceError(Exception):
    """A source of names cannot answer. The message is one short line for `ktrace doctor`."""

    def __init__(self, message: str) -> None:
        # Parts of the message come from other programs: keep it one line, whatever they said.
        super().__init__(" ".join(message.split())[:300])


def normalise_uid(uid: str) -> str:
    """The form in which uids are compared.

    systemd reads a dash in a slice's name as nesting, so the kubelet writes uids there with
    underscores. All others write dashes.
    """
    return uid.replace("_", "-")


def is_plausible_name(name: str) -> bool:
    """Whether Kubernetes could have given this name to a namespace, a pod or a container.

    The API server refuses names longer than a DNS subdomain. A longer name has another origin, and
    a cut one would be wrong: the bare uid is better.
    """
    return 0 < len(name) <= MAX_NAME
