# SPDX-License-Identifier: Apache-2.0
"""What ktrace knows about pods and containers, whichever source it came from.

A field that a source cannot tell is None. Sources are merged field by field, so a source leaves
out what it does not know instead of guessing it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

MAX_NAME = 253


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of Kubernetes, or of podman: there the namespace is empty, as it has none, and the uid
    is what podman calls an id. `labels` are the user's own, without what the kubelet adds."""

    uid: str
    namespace: str | None = None
    name: str | None = None
    # A dict cannot be hashed; two pods with equal labels still compare equal.
    labels: Mapping[str, str] | None = field(default=None, hash=False)

    @property
    def title(self) -> str:
        """`namespace/name`, or what of it is known, or the uid."""
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
        """A runtime knows it as a pod's, and has no name for it."""
        return self.name is None and self.pod_uid is not None


@dataclass(frozen=True, slots=True)
class Names:
    """What a source knows at one moment: pods by normalised uid, containers by id."""

    pods: dict[str, Pod] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)


class NameSource(Protocol):
    """Somebody who can be asked for names. `name` is what `ktrace doctor` calls it."""

    @property
    def name(self) -> str: ...

    def snapshot(self) -> Names:
        """All that is known now; NameSourceError when it cannot be had."""
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
    underscores; everybody else writes dashes.
    """
    return uid.replace("_", "-")


def is_plausible_name(name: str) -> bool:
    """Whether Kubernetes could have given this name to a namespace, a pod or a container.

    The API server refuses names longer than a DNS subdomain. A longer one was made by somebody
    else, and half of it would be a name that nobody gave: the bare uid is more honest.
    """
    return 0 < len(name) <= MAX_NAME
