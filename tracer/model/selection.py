# SPDX-License-Identifier: Apache-2.0
"""The user's selectors, and the verdict that they mean for a cgroup.

The kernel side only knows a verdict for each cgroup; this module derives it from names. Until the
names are known, the kernel lets the cgroup's events pass and user space filters them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache

from tracer.model import workloads
from tracer.model.errors import UsageError
from tracer.model.event import Event, Place
from tracer.model.names import Container, Pod

# Bits of a verdict, each by its name in `enum kt_selected`.
AS_TARGET, AS_SENDER = 1, 2
SIDES = {AS_TARGET: "KT_AS_TARGET", AS_SENDER: "KT_AS_SENDER"}
BOTH_SIDES = AS_TARGET | AS_SENDER


_POD = re.compile(r"(?:(?P<namespace>[^/]+)/)?(?:pods?|po)/(?P<name>[^/]+)")
_LABEL = re.compile(r"\s*(?P<key>[\w./-]+)\s*(?:==?\s*(?P<value>[^\s,()!]*)\s*)?")


class Mode(Enum):
    """How the kernel side selects, by the names in `enum kt_selection_mode`."""

    ALL = "KT_ALL"
    EITHER = "KT_EITHER"
    TARGET = "KT_TARGET"
    BOTH = "KT_BOTH"


@dataclass(frozen=True)
class Selection:
    """The selectors. An empty field selects everything.

    `pods` and `sender_pods` are globs of `name`, `namespace/name`, `pod/name` or a uid, or
    workloads such as `deploy/web`. `labels` are pairs that must all be present. `without_pods` is
    for a node without pods: there containers are shown by default, as pods are elsewhere. Events of
    the kinds `besides` pass whatever their target, because other events may need them as
    evidence."""

    pods: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    labels: tuple[tuple[str, str | None], ...] = ()
    sender_pods: tuple[str, ...] = ()
    pids: frozenset[int] = frozenset()
    everything: bool = False
    without_pods: bool = False
    besides: tuple[str, ...] = ()

    @property
    def globs(self) -> tuple[str, ...]:
        """All globs that ask for a pod."""
        return (*self.pods, *self.sender_pods)

    @property
    def about_target(self) -> bool:
        return bool(self.pods or self.namespaces or self.containers or self.labels)

    def sees_others(self, kind: str) -> bool:
        """Whether events of this kind pass also if they happen to other pods, as at the other ends
        of a pod's connections."""
        everywhere = self.mode in (Mode.ALL, Mode.EITHER) and not self.pids
        return everywhere or kind in self.besides

    @cached_property
    def mode(self) -> Mode:
        if self.sender_pods:
            return Mode.BOTH
        if self.about_target:
            return Mode.TARGET
        return Mode.ALL if self.everything or self.pids else Mode.EITHER

    def verdict(self, place: Place) -> int | None:
        """A cgroup's verdict; None while it depends on unknown names."""
        if place.path is None:  # in cgroups nested too deep: show it rather than hide it
            return BOTH_SIDES if self.mode is Mode.EITHER else None
        if self.mode is Mode.EITHER:
            shown = _is_in_pod(place) or (self.without_pods and place.identity.container_id)
            return BOTH_SIDES if shown else 0
        target = self._as_target(place)
        sender: bool | None = True
        if self.sender_pods:
            sender = _any(_pod_matches(place.pod, glob) for glob in self.sender_pods)
        if target is None or sender is None:
            return None
        return AS_TARGET * target | AS_SENDER * sender

    def wants(self, event: Event) -> bool | None:
        """The same decision as `kt_wanted` in the kernel; None while names are missing."""
        mode = self.mode
        place = event.place
        in_pod = place is not None and place.identity.pod_uid is not None
        if mode is Mode.ALL or (in_pod and mode is Mode.EITHER):  # the usual case first
            return True
        target = self._side(event.place, AS_TARGET, event.about is not None)
        if mode is Mode.TARGET or (target and mode is Mode.EITHER):
            return target
        sender = self._side(event.by_place, AS_SENDER, event.by is not None)
        if mode is Mode.EITHER:
            return _any((target, sender))
        return _all((target, sender))

    def wants_pod(self, pod: Pod) -> bool | None:
        """Whether the pod is selected as a target, whatever its containers."""
        parts: list[bool | None] = []
        if self.namespaces:
            parts.append(_any(_matches(pod.namespace, glob) for glob in self.namespaces))
        if self.pods:
            parts.append(_any(_pod_matches(pod, glob) for glob in self.pods))
        parts += [_label_matches(pod, key, value) for key, value in self.labels]
        return _all(parts)

    def _side(self, place: Place | None, side: int, process: bool) -> bool | None:
        """A process without a place has lost its description: show it rather than hide it."""
        if place is None:
            return process
        verdict = self.verdict(place)
        return None if verdict is None else bool(verdict & side)

    def _as_target(self, place: Place) -> bool | None:
        if not self.about_target:
            return True
        pod, container = place.pod, place.container
        if not _is_in_pod(place) and (self.pods or self.namespaces or self.labels):
            # only podman knows its pods, and it tells them together with the container's name
            unknown = self.without_pods and container is not None and container.name is None
            return None if unknown else False
        parts: list[bool | None] = []
        if self.pods:
            parts.append(_any(_pod_matches(pod, glob) for glob in self.pods))
        if self.namespaces:
            parts.append(
                _any(_matches(pod.namespace if pod else None, glob) for glob in self.namespaces)
            )
        if self.containers:
            parts.append(_container_matches(container, self.containers))
        for key, value in self.labels:
            parts.append(_label_matches(pod, key, value))
        return _all(parts)


def parse_labels(text: Sequence[str]) -> tuple[tuple[str, str | None], ...]:
    """`app=web,tier` as kubectl takes it: equality and presence."""
    pairs: list[tuple[str, str | None]] = []
    for word in ",".join(text).split(","):
        if not word.strip():
            continue
        match = _LABEL.fullmatch(word)
        if match is None:
            raise UsageError(
                f"the label selector {word.strip()!r} is not of the form key=value or key",
                "a node can be asked for equality and presence, several with commas: app=web,tier",
            )
        pairs.append((match["key"], match["value"]))
    return tuple(pairs)


def _is_in_pod(place: Place) -> bool:
    """Whether its path, or its runtime, names a pod."""
    return place.identity.pod_uid is not None or place.pod is not None


@lru_cache(maxsize=256)
def without_kind(pod: str) -> str:
    """`pod/web-0` and `shop/pod/web-0` in kubectl's words as `web-0` and `shop/web-0`."""
    found = _POD.fullmatch(pod)
    return "/".join(filter(None, (found["namespace"], found["name"]))) if found else pod


def pod_matches(pod: Pod, glob: str) -> bool:
    return bool(_pod_matches(pod, glob))


def _pod_matches(pod: Pod | None, glob: str) -> bool | None:
    if pod is None:
        return False
    if fnmatchcase(pod.uid, glob):
        return True
    glob = without_kind(glob)
    namespace, slash, name = glob.rpartition("/")
    named = _matches(pod.name, name)
    if not slash:
        return named
    named = _all((named, _matches(pod.namespace, namespace)))
    workload = workloads.parse(glob)
    if workload is None:
        return named
    owned: list[bool | None] = [workload.owns(pod)]
    if workload.namespace:
        owned.append(_matches(pod.namespace, workload.namespace))
    return _any((named, _all(owned)))


def _container_matches(container: Container | None, globs: tuple[str, ...]) -> bool | None:
    if container is None:
        return False
    by_id = any(len(glob) >= 6 and container.id.startswith(glob) for glob in globs)
    return by_id or _any(_matches(container.name, glob) for glob in globs)


def _label_matches(pod: Pod | None, key: str, value: str | None) -> bool | None:
    if pod is None:
        return False
    if pod.labels is None:
        return None
    return key in pod.labels if value is None else pod.labels.get(key) == value


def _matches(name: str | None, glob: str) -> bool | None:
    return None if name is None else fnmatchcase(name, glob)


def _any(parts: Iterable[bool | None]) -> bool | None:
    """Three-valued or: true if one is true, else unknown if one is unknown."""
    answers = list(parts)
    return True if True in answers else None if None in answers else False


def _all(parts: Iterable[bool | None]) -> bool | None:
    answers = list(parts)
    return False if False in answers else None if None in answers else True
